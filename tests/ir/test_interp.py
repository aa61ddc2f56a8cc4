from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.errors import LoweringError, ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir import walk
from loopwright.ir.dtype import DType
from loopwright.ir.expr import (
    Binary,
    Buffer,
    Call,
    Cast,
    Expr,
    Fn,
    Load,
    Op,
    Select,
    Var,
    const,
)
from loopwright.ir.interp import run
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, For, If, LoopKind, Stmt, Store, block

X, Y = Var("x"), Var("y")
SERIAL, PARALLEL = LoopKind.SERIAL, LoopKind.PARALLEL


def buffers(dtype: DType, n: int = 8) -> tuple[Buffer, Buffer, Buffer]:
    return Buffer("A", dtype, (n,)), Buffer("B", dtype, (n,)), Buffer("C", dtype, (n,))


def applied(expr: Expr, a: np.ndarray, b: np.ndarray, out: DType | None = None) -> np.ndarray:
    """C[x] = expr for every x, where expr reads A[x] and B[x]."""
    dtype = dt.parse(a.dtype.name)
    first, second = Buffer("A", dtype, a.shape), Buffer("B", dtype, b.shape)
    result = Buffer("C", out or expr.dtype, a.shape)

    def bind(e: Expr) -> Expr:
        if not isinstance(e, Load):
            return e
        return Load({"A": first, "B": second}[e.buffer.name], e.indices)

    body = For(X, len(a), SERIAL, Store(result, (X,), walk.rewrite_expr(expr, bind)))
    c = np.zeros(a.shape, result.dtype.numpy)
    run(Kernel("k", (first, second, result), 1, body), [a, b, c])
    return c


NUMPY = {
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.FLOORDIV: np.floor_divide,
    Op.FLOORMOD: np.mod,
    Op.MIN: np.minimum,
    Op.MAX: np.maximum,
    Op.LT: np.less,
    Op.GE: np.greater_equal,
    Op.NE: np.not_equal,
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([dt.I8, dt.U8, dt.I16, dt.I32, dt.I64]), st.data())
def test_integers_wrap_as_numpy_ones_do(dtype: DType, data: st.DataObject) -> None:
    limits = np.iinfo(dtype.name)
    numbers = st.lists(st.integers(int(limits.min), int(limits.max)), min_size=4, max_size=4)
    a, b = (np.array(data.draw(numbers), dtype.numpy) for _ in "ab")
    b[b == 0] = 3
    left, right, _ = (Load(buffer, (X,)) for buffer in buffers(dtype, 4))
    for op, expected in NUMPY.items():
        with np.errstate(over="ignore"):
            wanted = expected(a, b)
        np.testing.assert_array_equal(applied(Binary(op, left, right), a, b), wanted)


def test_int64_wraps_in_sums_of_loaded_numbers() -> None:
    a = np.array([2**63 - 1, -(2**63)])
    left, right, _ = (Load(buffer, (X,)) for buffer in buffers(dt.I64, 2))
    np.testing.assert_array_equal(applied((left + right) // 2, a, a), np.array([-1, 0]))


def test_integer_division_truncates_and_floors_as_told() -> None:
    a, b = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    left, right, _ = (Load(buffer, (X,)) for buffer in buffers(dt.I32, 4))
    assert applied(Binary(Op.DIV, left, right), a, b).tolist() == [3, -3, -3, 3]
    assert applied(left // right, a, b).tolist() == [3, -4, -4, 3]
    assert applied(left % right, a, b).tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("dtype", [dt.F16, dt.BF16, dt.F32, dt.F64], ids=str)
def test_every_float_operation_rounds_to_its_dtype(dtype: DType) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.uniform(0.5, 2, 50).astype(dtype.numpy) for _ in "ab")
    left, right, _ = (Load(buffer, (X,)) for buffer in buffers(dtype, 50))
    wide = np.float64 if dtype is dt.F64 else np.float32
    product = (a.astype(wide) * b.astype(wide)).astype(dtype.numpy)
    wanted = (product.astype(wide) + a.astype(wide)).astype(dtype.numpy)
    np.testing.assert_array_equal(applied(left * right + left, a, b), wanted)


def test_min_and_max_are_nan_when_one_is() -> None:
    a, b = np.array([np.nan, 1, 2], np.float32), np.array([1, np.nan, 3], np.float32)
    left, right, _ = (Load(buffer, (X,)) for buffer in buffers(dt.F32, 3))
    assert np.isnan(applied(Binary(Op.MIN, left, right), a, b)).tolist() == [True, True, False]
    assert np.isnan(applied(Binary(Op.MAX, left, right), a, b)).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (Fn.EXP, np.exp),
        (Fn.SQRT, np.sqrt),
        (Fn.TANH, np.tanh),
        (Fn.ROUND, np.rint),
        (Fn.ABS, np.abs),
    ],
)
def test_functions_are_those_of_numpy(fn: Fn, expected: np.ufunc) -> None:
    a = np.linspace(0.1, 3, 20, dtype=np.float32)
    left = Load(buffers(dt.F32, 20)[0], (X,))
    np.testing.assert_allclose(applied(Call(fn, (left,)), a, a), expected(a), rtol=3e-7)


def test_casts_truncate_and_wrap() -> None:
    a = np.array([2.7, -2.7, 200.0, 0.0], np.float32)
    left = Load(buffers(dt.F32, 4)[0], (X,))
    assert applied(Cast(dt.I32, left), a, a).tolist() == [2, -2, 200, 0]
    assert applied(Cast(dt.BOOL, left), a, a).tolist() == [True, True, True, False]
    wide = np.array([200, -200], np.int32)
    assert applied(Cast(dt.I8, Load(buffers(dt.I32, 2)[0], (X,))), wide, wide).tolist() == [-56, 56]


def guarded_read(index: Expr, cond: Expr) -> Stmt:
    a, _, c = buffers(dt.F32)
    return For(X, 8, SERIAL, Store(c, (X,), Select(cond, Load(a, (index,)), const(0, dt.F32))))


def arrays() -> list[np.ndarray]:
    return [np.arange(8, dtype=np.float32), np.zeros(8, np.float32)]


def kernel(body: Stmt) -> Kernel:
    a, _, c = buffers(dt.F32)
    found = {s.buffer.name: s.buffer for s in _accesses(body)}
    return Kernel("k", (found.get("A", a), found.get("C", c)), 1, body)


def _accesses(body: Stmt) -> list[Load | Store]:
    return [*walk.loads(body), *walk.stores(body)]


def test_a_select_does_not_read_on_the_side_it_does_not_take() -> None:
    data = arrays()
    run(kernel(guarded_read(X - 1, X >= 1)), data)
    assert data[1].tolist() == [0, 0, 1, 2, 3, 4, 5, 6]


def test_a_read_out_of_bounds_names_buffer_index_and_loops() -> None:
    with pytest.raises(LoweringError, match=r"A\[x - 1\] is element \[-1\] of \[8\] at x=0"):
        run(kernel(guarded_read(X - 1, X < 3)), arrays())


def test_a_write_out_of_bounds_is_refused_before_it_happens() -> None:
    _, _, c = buffers(dt.F32)
    body = For(X, 9, SERIAL, Store(c, (X,), const(1, dt.F32)))
    data = arrays()
    with pytest.raises(LoweringError, match=r"C\[x\] is element \[8\] of \[8\] at x=8"):
        run(kernel(body), data)


def test_each_dimension_is_checked_by_itself() -> None:
    wide = Buffer("C", dt.F32, (4, 2))
    body = For(X, 4, SERIAL, Store(wide, (const(0), X), const(1, dt.F32)))
    with pytest.raises(LoweringError, match=r"element \[0, 2\] of \[4, 2\]"):
        run(Kernel("k", (wide,), 1, body), [np.zeros(8, np.float32)])


@pytest.mark.parametrize("dtype", [dt.F32, dt.BF16, dt.I8, dt.I64], ids=str)
def test_what_was_never_written_does_not_look_like_zero(dtype: DType) -> None:
    _, scratch, c = buffers(dtype)
    body = Alloc(scratch, For(X, 8, SERIAL, Store(c, (X,), Load(scratch, (X,)))))
    out = np.zeros(8, dtype.numpy)
    run(Kernel("k", (c,), 1, body), [out])
    assert np.all((out != 0) | np.isnan(out.astype(np.float64)))


def test_shuffling_parallel_loops_exposes_a_dependence() -> None:
    _, _, c = buffers(dt.F32)
    previous = Select(X >= 1, Load(c, (X - 1,)), const(0, dt.F32))
    for kind, exposed in [(SERIAL, False), (PARALLEL, True), (LoopKind.VECTORIZED, True)]:
        body = For(X, 8, kind, Store(c, (X,), previous + 1.0))
        out = np.zeros(8, np.float32)
        run(Kernel("k", (c,), 1, body), [out], np.random.default_rng(0))
        assert (out.tolist() != [1, 2, 3, 4, 5, 6, 7, 8]) is exposed


def test_both_branches_of_an_if_run_where_they_should() -> None:
    _, _, c = buffers(dt.F32)
    body = For(
        X,
        8,
        SERIAL,
        If(X < 3, Store(c, (X,), const(1, dt.F32)), Store(c, (X,), const(2, dt.F32))),
    )
    out = np.zeros(8, np.float32)
    run(Kernel("k", (c,), 1, body), [out])
    assert out.tolist() == [1, 1, 1, 2, 2, 2, 2, 2]


def test_sums_thousands_deep_and_loops_dozens_deep_run() -> None:
    a, _, c = buffers(dt.F32)
    total = Load(a, (const(0),))
    for n in range(1, 3000):
        total = total + Load(a, (const(n % 8),))
    guarded = Select(X < 1, total, Load(a, (const(99),)))
    body: Stmt = Store(c, (X,), guarded)
    for n in range(30):
        body = For(Var(f"l{n}"), 1, SERIAL, body)
    out = np.zeros(8, np.float32)
    run(Kernel("k", (a, c), 1, For(X, 1, SERIAL, body)), [np.ones(8, np.float32), out])
    assert out[0] == 3000


def test_arrays_that_do_not_fit_are_refused() -> None:
    ready = kernel(guarded_read(X, X < 8))
    with pytest.raises(ShapeError, match=r"A is float32\[8\], got float64\[8\]"):
        run(ready, [np.zeros(8), np.zeros(8, np.float32)])
    with pytest.raises(ShapeError, match=r"got float32\[7\]"):
        run(ready, [np.zeros(7, np.float32), np.zeros(8, np.float32)])
    with pytest.raises(ShapeError, match="not contiguous"):
        run(ready, [np.zeros(16, np.float32)[::2], np.zeros(8, np.float32)])


def test_stages_run_one_after_the_other() -> None:
    a, scratch, c = buffers(dt.F32)
    first = For(X, 8, PARALLEL, Store(scratch, (X,), Load(a, (X,)) * 2.0))
    second = For(Y, 8, PARALLEL, Store(c, (Y,), Load(scratch, (const(7) - Y,))))
    out = np.zeros(8, np.float32)
    run(
        Kernel("k", (a, c), 1, Alloc(scratch, block(first, second))),
        [np.arange(8, dtype=np.float32), out],
        np.random.default_rng(3),
    )
    assert out.tolist() == [14, 12, 10, 8, 6, 4, 2, 0]

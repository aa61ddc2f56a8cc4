from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from machines import presets_to_run

from loopwright.ir import dtype as dt
from loopwright.ir.expr import Binary, Call, Cast, Expr, Fn, Op, Select, const
from loopwright.target.presets import PRESETS

Mapped = Callable[..., list[np.ndarray]]

INTS = (dt.I8, dt.I16, dt.I32, dt.I64, dt.U8)
FLOATS = (dt.F32, dt.F64, dt.F16, dt.BF16)


def numbers(dtype: dt.DType, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.is_float:
        return rng.standard_normal(n).astype(dtype.numpy)
    if dtype.is_bool:
        return rng.integers(0, 2, n).astype(np.bool_)
    info = np.iinfo(dtype.name)
    return rng.integers(info.min, info.max, n, dtype=dtype.numpy, endpoint=True)


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integers_wrap_and_floor_as_numpy(mapped: Mapped, dtype: dt.DType) -> None:
    a, b = numbers(dtype, 37, 1), numbers(dtype, 37, 2)
    b[b == 0] = 1
    cases = {
        Op.ADD: a + b,
        Op.SUB: a - b,
        Op.MUL: a * b,
        Op.FLOORDIV: a // b,
        Op.FLOORMOD: a % b,
        Op.MIN: np.minimum(a, b),
        Op.MAX: np.maximum(a, b),
    }
    for op, want in cases.items():
        for got in mapped(lambda x, y, op=op: Binary(op, x, y), a, b, out=dtype):
            np.testing.assert_array_equal(got, want, err_msg=op.name)


@pytest.mark.parametrize("divisor", [1, 4, 7, -3])
def test_floor_division_by_a_constant_rounds_down(mapped: Mapped, divisor: int) -> None:
    a = np.arange(-20, 21, dtype=np.int32)
    for op, want in ((Op.FLOORDIV, a // divisor), (Op.FLOORMOD, a % divisor)):
        for got in mapped(lambda x, op=op: Binary(op, x, const(divisor, dt.I32)), a, out=dt.I32):
            np.testing.assert_array_equal(got, want)


def test_integer_division_truncates(mapped: Mapped) -> None:
    a = np.array([-7, 7, -8, 9], np.int32)
    for got in mapped(lambda x: Binary(Op.DIV, x, const(2, dt.I32)), a, out=dt.I32):
        np.testing.assert_array_equal(got, [-3, 3, -4, 4])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_are_rounded_once_per_operation(mapped: Mapped, dtype: dt.DType) -> None:
    a, b = numbers(dtype, 37, 3), numbers(dtype, 37, 4)
    wide = np.float64 if dtype == dt.F64 else np.float32
    x, y = a.astype(wide), b.astype(wide)
    cases = {Op.ADD: x + y, Op.SUB: x - y, Op.MUL: x * y, Op.DIV: x / y}
    for op, want in cases.items():
        for got in mapped(lambda p, q, op=op: Binary(op, p, q), a, b, out=dtype):
            np.testing.assert_array_equal(got, want.astype(dtype.numpy), err_msg=op.name)


@pytest.mark.parametrize("op", [Op.FLOORDIV, Op.FLOORMOD])
def test_float_floor_division_as_numpy(mapped: Mapped, op: Op) -> None:
    a = np.array([5.5, -5.5, 5.5, -5.5, 6.0, -6.0], np.float32)
    b = np.array([2.0, 2.0, -2.0, -2.0, 3.0, 3.0], np.float32)
    want = a // b if op is Op.FLOORDIV else a % b
    for got in mapped(lambda x, y: Binary(op, x, y), a, b):
        np.testing.assert_array_equal(got, want)


def test_min_and_max_are_nan_where_an_operand_is(mapped: Mapped) -> None:
    a = np.array([1.0, np.nan, 3.0, np.nan], np.float32)
    b = np.array([2.0, 5.0, np.nan, np.nan], np.float32)
    for op, want in ((Op.MIN, np.minimum(a, b)), (Op.MAX, np.maximum(a, b))):
        for got in mapped(lambda x, y, op=op: Binary(op, x, y), a, b):
            np.testing.assert_array_equal(got, want)
    for got in mapped(lambda x: Binary(Op.MAX, x, const(0.0, dt.F32)), a):
        np.testing.assert_array_equal(got, [1, np.nan, 3, np.nan])
    for got in mapped(lambda x: Binary(Op.MIN, const(2.0, dt.F32), x), a):
        np.testing.assert_array_equal(got, [1, np.nan, 2, np.nan])


def test_comparisons_and_logic_give_bool(mapped: Mapped) -> None:
    a, b = numbers(dt.F32, 40, 5), numbers(dt.F32, 40, 6)
    a[:3], b[3:6] = np.nan, a[3:6]
    for got in mapped(lambda x, y: Binary(Op.OR, x < y, x.equal(y)), a, b, out=dt.BOOL):
        np.testing.assert_array_equal(got, a <= b)
    for got in mapped(lambda x, y: Call(Fn.NOT, (Binary(Op.NE, x, y),)), a, b, out=dt.BOOL):
        np.testing.assert_array_equal(got, a == b)


def test_bool_arithmetic_saturates(mapped: Mapped) -> None:
    a, b = np.array([0, 0, 1, 1], np.bool_), np.array([0, 1, 0, 1], np.bool_)
    for op, want in ((Op.ADD, a | b), (Op.MUL, a & b), (Op.MIN, a & b), (Op.MAX, a | b)):
        for got in mapped(lambda x, y, op=op: Binary(op, x, y), a, b, out=dt.BOOL):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("source", [*INTS, *FLOATS, dt.BOOL], ids=str)
def test_casts_as_numpy(mapped: Mapped, source: dt.DType) -> None:
    a = numbers(source, 33, 7)
    if source.is_float:
        a = (a * 40).astype(source.numpy)
    for wanted in dt.ALL:
        if source.is_float and wanted == dt.U8:
            a = np.abs(a)
        if source == dt.I64 and wanted.is_float and wanted.bits == 16:
            continue  # out of float16's range
        want = a.astype(np.float32 if wanted.is_float and wanted.bits == 16 else wanted.numpy)
        with np.errstate(over="ignore"):
            want = want.astype(wanted.numpy)
        for got in mapped(lambda x, t=wanted: Cast(t, x), a, out=wanted):
            np.testing.assert_array_equal(got, want, err_msg=f"{source} -> {wanted}")


@pytest.mark.parametrize("preset", presets_to_run("x86-64-sse4", "x86-64-avx2", "aarch64-neon"))
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_every_half_converts_exactly_on_every_target(
    mapped_for: Mapped, preset: str, dtype: type
) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    name = dt.F16 if dtype is np.float16 else dt.BF16
    want = halves.astype(np.float32)
    for got in mapped_for(lambda x: Cast(dt.F32, x), halves, target=PRESETS[preset]):
        np.testing.assert_array_equal(got, want)
    for got in mapped_for(lambda x: Cast(name, x), want, out=name, target=PRESETS[preset]):
        same = (got.view(np.uint16) == halves.view(np.uint16)) | np.isnan(want)
        assert same.all()
        assert np.isnan(got.astype(np.float32)[np.isnan(want)]).all()


@pytest.mark.parametrize("preset", presets_to_run(*PRESETS))
def test_floats_round_to_the_nearest_half(mapped_for: Mapped, preset: str) -> None:
    rng = np.random.default_rng(8)
    bits = rng.integers(0x30000000, 0x48000000, 4000, dtype=np.uint32)
    edges = np.array([65519.996, 65520.0, 6e-8, 2.98e-8, 2.99e-8, 6.1e-5, 1e-30, 3e38], np.float32)
    a = np.concatenate([bits.view(np.float32), edges, -edges])
    with np.errstate(over="ignore"):
        want = a.astype(np.float16)
    for got in mapped_for(lambda x: Cast(dt.F16, x), a, out=dt.F16, target=PRESETS[preset]):
        np.testing.assert_array_equal(got, want)


def test_select_by_lane(mapped: Mapped) -> None:
    a, b = numbers(dt.F32, 40, 9), numbers(dt.F32, 40, 10)
    for got in mapped(lambda x, y: Select(x < y, x * 2.0, y), a, b):
        np.testing.assert_array_equal(got, np.where(a < b, a * 2, b))


def test_products_are_contracted_where_the_target_can(mapped_for: Mapped) -> None:
    a = np.full(16, 1 + 2**-12, np.float32)
    c = np.full(16, -1.0, np.float32)
    fused = np.float32(np.float64(a[0]) * np.float64(a[0]) - 1.0)
    apart = np.float32(a[0] * a[0]) - np.float32(1.0)
    assert fused != apart
    for got in mapped_for(lambda x, z: x * x + z, a, c, target=PRESETS["x86-64-avx2"]):
        np.testing.assert_array_equal(got, fused)
    for got in mapped_for(lambda x, z: x * x + z, a, c, target=PRESETS["x86-64-sse4"]):
        np.testing.assert_array_equal(got, apart)
    for got in mapped_for(lambda x, z: -z - x * x, a, c, target=PRESETS["x86-64-avx2"]):
        np.testing.assert_array_equal(got, -fused)


def test_literal_zeros_and_ones_vanish(mapped: Mapped) -> None:
    a = numbers(dt.F32, 20, 11)
    for got in mapped(lambda x: 0.0 * x + 1.0 * x + (-1.0) * x * 0.5, a):
        np.testing.assert_allclose(got, a * 0.5, rtol=1e-6)


def test_a_chain_of_hundreds_of_terms(mapped: Mapped) -> None:
    a = np.ones(8, np.float32)

    def long(x: Expr) -> Expr:
        total = x
        for _ in range(900):
            total = total + x
        return total

    for got in mapped(long, a):
        np.testing.assert_array_equal(got, 901.0)


def test_a_shared_node_is_computed_once(mapped: Mapped) -> None:
    a = np.full(8, 1.5, np.float32)

    def doubled(x: Expr) -> Expr:
        for _ in range(40):
            x = x + x
        return x

    for got in mapped(doubled, a):
        np.testing.assert_array_equal(got, 1.5 * 2.0**40)

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from machines import presets_to_run

from loopwright.codegen.artifact import Param
from loopwright.codegen.llvm.emit import emit
from loopwright.codegen.storage import plan_storage
from loopwright.errors import CodegenError
from loopwright.ir.dtype import BOOL, F32, I32, I64, DType
from loopwright.ir.expr import Binary, Buffer, Cast, Const, Load, Op, Scope, Select, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, For, If, LoopKind, Stmt, Store, block
from loopwright.layout import Layout
from loopwright.target.presets import PRESETS

Run = Callable[..., tuple[np.ndarray, ...]]

PRESET_NAMES = tuple(PRESETS)
S, P, V, U = LoopKind.SERIAL, LoopKind.PARALLEL, LoopKind.VECTORIZED, LoopKind.UNROLLED


def f32(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def buf(name: str, n: int, scope: Scope = Scope.GLOBAL, dtype: DType = F32) -> Buffer:
    return Buffer(name, dtype, (n,), scope)


def nest(body: Stmt, *loops: tuple[Var, int, LoopKind]) -> Stmt:
    for var, extent, kind in reversed(loops):
        body = For(var, extent, kind, body)
    return body


@pytest.mark.parametrize("preset", presets_to_run(*PRESET_NAMES))
@pytest.mark.parametrize("stride", [-5, -2, -1, 0, 1, 2, 3, 4, 7])
def test_loads_at_any_stride(run: Run, stride: int, preset: str) -> None:
    a, lane = f32(200), Var("lane")
    a_buf, b_buf = buf("A", 200), buf("B", 16)
    kernel = Kernel(
        "k",
        (a_buf, b_buf),
        1,
        nest(Store(b_buf, (lane,), Load(a_buf, (lane * stride + 90,))), (lane, 16, V)),
    )
    (got,) = run(kernel, a, f32(16), target=PRESETS[preset])
    np.testing.assert_array_equal(got, a[90 + stride * np.arange(16)])


@pytest.mark.parametrize("stride", [-1, 2, 5])
def test_stores_at_any_stride(run: Run, stride: int) -> None:
    a, lane = f32(16), Var("lane")
    a_buf, b_buf = buf("A", 16), buf("B", 200)
    kernel = Kernel(
        "k",
        (a_buf, b_buf),
        1,
        nest(Store(b_buf, (lane * stride + 90,), Load(a_buf, (lane,))), (lane, 16, V)),
    )
    (got,) = run(kernel, a, np.zeros(200, np.float32))
    want = np.zeros(200, np.float32)
    want[90 + stride * np.arange(16)] = a
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("preset", presets_to_run(*PRESET_NAMES))
@pytest.mark.parametrize("lanes", [2, 3, 7, 16, 32, 100, 128, 300])
def test_any_number_of_lanes(run: Run, lanes: int, preset: str) -> None:
    a, lane = f32(lanes), Var("lane")
    a_buf, b_buf = buf("A", lanes), buf("B", lanes)
    kernel = Kernel(
        "k",
        (a_buf, b_buf),
        1,
        nest(Store(b_buf, (lane,), Load(a_buf, (lane,)) * 2.0), (lane, lanes, V)),
    )
    (got,) = run(kernel, a, f32(lanes), target=PRESETS[preset])
    np.testing.assert_array_equal(got, a * 2)


@pytest.mark.parametrize("preset", presets_to_run(*PRESET_NAMES))
@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
def test_a_masked_tail_touches_nothing_beyond_it(run: Run, n: int, preset: str) -> None:
    o, lane = Var("o"), Var("lane")
    a_buf, b_buf = buf("A", 64), buf("B", 64)
    i = o * 16 + lane
    body = If(i < n, Store(b_buf, (i,), Load(a_buf, (i,)) + 1.0))
    kernel = Kernel("k", (a_buf, b_buf), 1, nest(body, (o, -(-n // 16), S), (lane, 16, V)))
    a, before = f32(64), f32(64, 1)
    (got,) = run(kernel, a, before, target=PRESETS[preset])
    want = np.where(np.arange(64) < n, a + 1, before)
    np.testing.assert_array_equal(got, want)


def test_inactive_lanes_do_not_read(run: Run) -> None:
    """The address of inactive lanes is far outside the buffer."""
    lane, o = Var("lane"), Var("o")
    a_buf, b_buf = buf("A", 8), buf("B", 16)
    far = (lane + o) * (1 << 40)
    cond = Binary(Op.EQ, lane + o, Const(0, I64))
    value = Select(cond, Load(a_buf, (far + 3,)), Const(-1.0, F32))
    kernel = Kernel(
        "k", (a_buf, b_buf), 1, nest(Store(b_buf, (lane,), value), (o, 1, S), (lane, 16, V))
    )
    a = f32(8)
    (got,) = run(kernel, a, f32(16))
    np.testing.assert_array_equal(got, [a[3]] + [-1] * 15)


def test_a_uniform_load_under_a_mask_without_active_lanes_is_not_performed(run: Run) -> None:
    lane, o = Var("lane"), Var("o")
    a_buf, b_buf = buf("A", 8), buf("B", 64)
    # In the second iteration no lane is active and a_buf is read a terabyte away.
    cond = (lane + o * 1000) < 5
    body = If(cond, Store(b_buf, (o * 16 + lane,), Load(a_buf, (o * (1 << 40),))))
    kernel = Kernel("k", (a_buf, b_buf), 1, nest(body, (o, 3, S), (lane, 16, V)))
    a = f32(8)
    (got,) = run(kernel, a, np.zeros(64, np.float32))
    np.testing.assert_array_equal(got[:16], np.where(np.arange(16) < 5, a[0], 0))
    assert not got[16:].any()


@pytest.mark.parametrize("vectorized", [False, True])
def test_the_side_of_a_select_that_is_not_chosen_is_not_read(run: Run, vectorized: bool) -> None:
    o, lane = Var("o"), Var("lane")
    a_buf, b_buf = buf("A", 16), buf("B", 64)
    inside = Binary(Op.AND, o > 0, o < 3)
    load = Load(a_buf, ((o - 1) * (1 << 30) * (o - 2) + lane,))
    for other in (Const(7.0, F32), Load(a_buf, (lane,)) * 3.0):
        body = Store(b_buf, (o * 16 + lane,), Select(inside, load, other))
        kernel = Kernel(
            "k", (a_buf, b_buf), 1, nest(body, (o, 4, S), (lane, 16, V if vectorized else S))
        )
        a = f32(16)
        (got,) = run(kernel, a, f32(64))
        edge = np.full(16, 7.0) if isinstance(other, Const) else a * np.float32(3)
        np.testing.assert_array_equal(got.reshape(4, 16), np.stack([edge, a, a, edge]))


def test_padding_is_folded_when_loops_are_unrolled(run: Run) -> None:
    x, k = Var("x"), Var("k")
    a_buf, w_buf, b_buf = buf("A", 8), buf("W", 3), buf("B", 8)
    position = x + k - 1
    inside = Binary(Op.AND, position >= 0, position < 8)
    data = Select(inside, Load(a_buf, (position,)), Const(0.0, F32))
    body = block(
        Store(b_buf, (x,), Const(0.0, F32)),
        nest(Store(b_buf, (x,), Load(b_buf, (x,)) + data * Load(w_buf, (k,))), (k, 3, U)),
    )
    kernel = Kernel("k", (a_buf, w_buf, b_buf), 1, nest(body, (x, 8, U)))
    a, w = f32(8), f32(3, 1)
    (got,) = run(kernel, a, w, f32(8))
    np.testing.assert_allclose(got, np.convolve(a, w[::-1], "same"), rtol=1e-5, atol=1e-6)
    text = emit(kernel, _params(kernel), PRESETS["x86-64-avx512"]).text
    assert "select" not in text
    assert "br " not in text


@pytest.mark.parametrize("preset", presets_to_run(*PRESET_NAMES))
def test_a_lane_that_crosses_rows(run: Run, preset: str) -> None:
    o, lane = Var("o"), Var("lane")
    a_buf, b_buf = buf("A", 64), buf("B", 48)
    i = o * 16 + lane
    row, column = Binary(Op.FLOORDIV, i, Const(6, I64)), Binary(Op.FLOORMOD, i, Const(6, I64))
    kernel = Kernel(
        "k",
        (a_buf, b_buf),
        1,
        nest(Store(b_buf, (i,), Load(a_buf, (row * 8 + column,))), (o, 3, S), (lane, 16, V)),
    )
    a = f32(64)
    (got,) = run(kernel, a, f32(48), target=PRESETS[preset])
    np.testing.assert_array_equal(got, a.reshape(8, 8)[:, :6].ravel())


def test_floor_division_of_negative_indices(run: Run) -> None:
    i = Var("i")
    b_buf = buf("B", 24, dtype=I64)
    for divisor in (3, 4):
        for op, python in ((Op.FLOORDIV, np.floor_divide), (Op.FLOORMOD, np.mod)):
            value = Binary(op, i - 11, Const(divisor, I64))
            for kind in (S, U, V):
                kernel = Kernel("k", (b_buf,), 1, nest(Store(b_buf, (i,), value), (i, 24, kind)))
                (got,) = run(kernel, np.zeros(24, np.int64))
                np.testing.assert_array_equal(got, python(np.arange(24) - 11, divisor))


def test_fused_loops_are_taken_apart(run: Run) -> None:
    f = Var("f")
    a_buf, b_buf = buf("A", 60), buf("B", 60)
    y, x = Binary(Op.FLOORDIV, f, Const(12, I64)), Binary(Op.FLOORMOD, f, Const(12, I64))
    kernel = Kernel(
        "k",
        (a_buf, b_buf),
        1,
        nest(Store(b_buf, (x * 5 + y,), Load(a_buf, (y * 12 + x,))), (f, 60, P)),
    )
    a = f32(60)
    (got,) = run(kernel, a, f32(60), threads=2)
    np.testing.assert_array_equal(got, a.reshape(5, 12).T.ravel())


def test_indices_can_be_loaded(run: Run) -> None:
    i = Var("i")
    a_buf, k_buf, b_buf = buf("A", 100), buf("K", 32, dtype=I32), buf("B", 32)
    body = Store(b_buf, (i,), Load(a_buf, (Cast(I64, Load(k_buf, (i,))) * 2 + 1,)))
    a, k = f32(100), np.random.default_rng(1).integers(0, 49, 32).astype(np.int32)
    for kind in (S, V, U):
        (got,) = run(
            Kernel("k", (a_buf, k_buf, b_buf), 1, nest(body, (i, 32, kind))), a, k, f32(32)
        )
        np.testing.assert_array_equal(got, a[k * 2 + 1])


def test_a_load_after_a_store_sees_it(run: Run) -> None:
    i, j = Var("i"), Var("j")
    a_buf = buf("A", 16)
    steps = block(
        Store(a_buf, (i,), Load(a_buf, (i,)) + 1.0),
        If(i < 8, Store(a_buf, (i,), Load(a_buf, (i,)) * 2.0)),
        Store(a_buf, (i,), Load(a_buf, (i,)) + Load(a_buf, (15 - i,))),
    )
    want = np.arange(16, dtype=np.float32)
    for at in range(16):
        want[at] += 1
        if at < 8:
            want[at] *= 2
        want[at] += want[15 - at]
    for kind in (S, U):
        kernel = Kernel("k", (a_buf,), 1, nest(steps, (i, 16, kind)))
        (got,) = run(kernel, np.arange(16, dtype=np.float32))
        np.testing.assert_array_equal(got, want)
    prefix = nest(Store(a_buf, (j + 1,), Load(a_buf, (j + 1,)) + Load(a_buf, (j,))), (j, 15, U))
    (got,) = run(Kernel("k", (a_buf,), 1, prefix), np.ones(16, np.float32))
    np.testing.assert_array_equal(got, np.arange(1, 17))


@pytest.mark.parametrize("threads", [1, 2])
def test_parallel_loops_capture_what_is_around_them(run: Run, threads: int) -> None:
    o, p, i = Var("o"), Var("p"), Var("i")
    a_buf, b_buf, t_buf, l_buf = (
        buf("A", 600),
        buf("B", 600),
        buf("T", 200),
        buf("L", 20, Scope.LOCAL),
    )
    fill = nest(Store(l_buf, (i,), Load(a_buf, (o * 200 + p * 20 + i,)) * 2.0), (i, 20, V))
    j = Var("j")
    copy = nest(Store(t_buf, (p * 20 + j,), Load(l_buf, (19 - j,)) + Cast(F32, o)), (j, 20, S))
    q = Var("q")
    out = nest(Store(b_buf, (o * 200 + q,), Load(t_buf, (199 - q,))), (q, 200, P))
    body = Alloc(t_buf, block(nest(Alloc(l_buf, block(fill, copy)), (p, 10, P)), out))
    kernel = Kernel("k", (a_buf, b_buf), 1, nest(body, (o, 3, S)))
    a = f32(600)
    (got,) = run(kernel, a, f32(600), threads=threads)
    want = (a * 2).reshape(3, 10, 20)[:, :, ::-1].reshape(3, 200) + np.arange(3)[:, None]
    np.testing.assert_array_equal(got, want[:, ::-1].ravel().astype(np.float32))


def test_large_buffers_are_in_the_workspace_and_share_it_when_not_alive_together() -> None:
    i, p = Var("i"), Var("p")
    first, second, own = buf("F", 9000), buf("S", 9000), buf("O", 5000, Scope.LOCAL)
    b_buf = buf("B", 9000)

    def use(buffer: Buffer) -> Stmt:
        return Alloc(buffer, nest(Store(buffer, (i,), Const(1.0, F32)), (i, 5000, S)))

    kernel = Kernel("k", (b_buf,), 1, block(use(first), use(second), For(p, 2, P, use(own))))
    storage = plan_storage(kernel)
    assert storage.shared == 36032
    assert storage.per_thread == 20032


def test_a_buffer_allocated_in_a_vectorized_loop_exists_once_a_lane(run: Run) -> None:
    lane, i, j = Var("lane"), Var("i"), Var("j")
    a_buf, b_buf = buf("A", 64), buf("B", 64)
    for scope in (Scope.REGISTER, Scope.LOCAL):
        t_buf = buf("T", 4, scope)
        fill = nest(Store(t_buf, (i,), Load(a_buf, (lane * 4 + i,))), (i, 4, U))
        copy = nest(Store(b_buf, (lane * 4 + j,), Load(t_buf, (3 - j,))), (j, 4, U))
        kernel = Kernel(
            "k", (a_buf, b_buf), 1, nest(Alloc(t_buf, block(fill, copy)), (lane, 16, V))
        )
        a = f32(64)
        (got,) = run(kernel, a, f32(64))
        np.testing.assert_array_equal(got, a.reshape(16, 4)[:, ::-1].ravel())


def test_a_serial_loop_in_a_vectorized_one_runs_in_lock_step(run: Run) -> None:
    lane, k = Var("lane"), Var("k")
    a_buf, w_buf, b_buf = buf("A", 16 * 10), buf("W", 10), buf("B", 16)
    update = Store(
        b_buf, (lane,), Load(b_buf, (lane,)) + Load(a_buf, (k * 16 + lane,)) * Load(w_buf, (k,))
    )
    kernel = Kernel("k", (a_buf, w_buf, b_buf), 1, nest(update, (lane, 16, V), (k, 10, S)))
    a, w = f32(160), f32(10, 1)
    (got,) = run(kernel, a, w, np.zeros(16, np.float32))
    np.testing.assert_allclose(got, w @ a.reshape(10, 16), rtol=1e-5, atol=1e-6)


def test_bool_buffers_hold_bytes(run: Run) -> None:
    i = Var("i")
    a_buf, b_buf = buf("A", 40), Buffer("B", BOOL, (40,))
    kernel = Kernel(
        "k", (a_buf, b_buf), 1, nest(Store(b_buf, (i,), Load(a_buf, (i,)) > 0.0), (i, 40, V))
    )
    a = f32(40)
    (got,) = run(kernel, a, np.zeros(40, np.bool_))
    np.testing.assert_array_equal(got, a > 0)


def test_emission_is_deterministic() -> None:
    def kernel() -> Kernel:
        i, j = Var("i"), Var("j")
        b_buf = buf("B", 64)
        r1, r2 = buf("R1", 4, Scope.REGISTER), buf("R2", 4, Scope.REGISTER)
        step = block(Store(r1, (j,), Load(r2, (j,)) + 1.0), Store(r2, (j,), Load(r1, (j,)) * 2.0))
        body = Alloc(
            r1,
            Alloc(
                r2,
                nest(
                    block(step, Store(b_buf, (i * 4 + j,), Load(r1, (j,)))), (i, 16, S), (j, 4, U)
                ),
            ),
        )
        return Kernel("k", (b_buf,), 1, body)

    texts = {emit(k, _params(k), PRESETS["x86-64-avx2"]).text for k in (kernel() for _ in range(5))}
    assert len(texts) == 1


def test_too_much_unrolling_is_refused_quickly() -> None:
    i, j = Var("i"), Var("j")
    b_buf = buf("B", 1 << 22)
    kernel = Kernel(
        "k",
        (b_buf,),
        1,
        nest(Store(b_buf, (i * 2048 + j,), Cast(F32, i + j)), (i, 2048, U), (j, 2048, U)),
    )
    with pytest.raises(CodegenError, match="unrolls to more than"):
        emit(kernel, _params(kernel), PRESETS["x86-64-avx2"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            Store(Buffer("M", F32, (2, 2)), (Const(0, I64), Const(0, I64)), Const(0.0, F32)),
            "flatten it first",
        ),
        (
            Store(Buffer("X", F32, (2,)), (Const(0, I64),), Const(0.0, F32)),
            "neither a parameter nor allocated",
        ),
        (Store(Buffer("B", F32, (2,)), (Var("loose"),), Const(0.0, F32)), "loose is not bound"),
    ],
)
def test_broken_kernels_are_refused(body: Store, message: str) -> None:
    params = (body.buffer,) if body.buffer.name != "X" else ()
    kernel = Kernel("k", params, 0, body)
    with pytest.raises(CodegenError, match=message):
        emit(kernel, _params(kernel), PRESETS["x86-64-avx2"])


def _params(kernel: Kernel) -> tuple[Param, ...]:
    return tuple(Param(b.name, b.dtype, b.shape, Layout.plain(len(b.shape))) for b in kernel.params)

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from assembly import assembly
from machines import presets_to_run

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.llvm.emit import emit
from loopwright.codegen.storage import Home, plan_storage
from loopwright.ir.dtype import F16, F32, I64
from loopwright.ir.expr import Binary, Buffer, Cast, Const, Expr, Load, Op, Scope, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, For, If, LoopKind, Stmt, Store, block
from loopwright.layout import Layout
from loopwright.target.host import host
from loopwright.target.presets import PRESETS

Run = Callable[..., tuple[np.ndarray, ...]]
Compile = Callable[..., Artifact]

S, P, V, U = LoopKind.SERIAL, LoopKind.PARALLEL, LoopKind.VECTORIZED, LoopKind.UNROLLED
ZERO = Const(0.0, F32)


def f32(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def nest(body: Stmt, *loops: tuple[Var, int, LoopKind]) -> Stmt:
    for var, extent, kind in reversed(loops):
        body = For(var, extent, kind, body)
    return body


def matmul(
    m: int, n: int, k: int, tile_m: int, vectors: int, lanes: int, *, tail: bool = False
) -> Kernel:
    """C[m, n] = A[m, k] B[k, n] with a register tile; with `tail`, n need not be a multiple."""
    width = vectors * lanes
    a_buf, b_buf, c_buf = (
        Buffer(name, F32, (size,)) for name, size in (("A", m * k), ("B", k * n), ("C", m * n))
    )
    acc = Buffer("acc", F32, (tile_m * width,), Scope.REGISTER)
    io, jo, kk = Var("io"), Var("jo"), Var("k")

    def tile(tag: str, make: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        i, v, lane = Var("i" + tag), Var("v" + tag), Var("l" + tag)
        at, column = (i * vectors + v) * lanes + lane, jo * width + v * lanes + lane
        body = make(io * tile_m + i, column, at)
        if tail:
            body = If(column < n, body)
        return nest(body, (i, tile_m, U), (v, vectors, U), (lane, lanes, V))

    def update(i: Expr, j: Expr, at: Expr) -> Stmt:
        return Store(
            acc, (at,), Load(acc, (at,)) + Load(a_buf, (i * k + kk,)) * Load(b_buf, (kk * n + j,))
        )

    body = block(
        tile("z", lambda _i, _j, at: Store(acc, (at,), ZERO)),
        nest(tile("u", update), (kk, k, S)),
        tile("s", lambda i, j, at: Store(c_buf, (i * n + j,), Load(acc, (at,)))),
    )
    return Kernel(
        "matmul",
        (a_buf, b_buf, c_buf),
        1,
        nest(Alloc(acc, body), (io, m // tile_m, P), (jo, -(-n // width), S)),
    )


@pytest.mark.parametrize("preset", presets_to_run(*PRESETS))
@pytest.mark.parametrize(
    ("shape", "tile", "tail"),
    [
        ((12, 64, 20), (6, 2, 16), False),
        ((8, 50, 9), (4, 1, 16), True),
        ((4, 21, 5), (2, 3, 4), True),
    ],
)
def test_a_register_tile_multiplies_matrices(
    run: Run, shape: tuple[int, int, int], tile: tuple[int, int, int], tail: bool, preset: str
) -> None:
    m, n, k = shape
    a, b = f32(m * k), f32(k * n, 1)
    kernel = matmul(m, n, k, *tile, tail=tail)
    (got,) = run(kernel, a, b, f32(m * n, 2), target=PRESETS[preset], threads=2)
    np.testing.assert_allclose(
        got.reshape(m, n), a.reshape(m, k) @ b.reshape(k, n), rtol=1e-5, atol=1e-5
    )


def test_a_register_tile_is_never_in_memory() -> None:
    kernel = matmul(12, 64, 20, 6, 2, 16)
    text = emit(kernel, _params(kernel), PRESETS["x86-64-avx512"]).text
    assert "x i8]" not in text  # a buffer on the stack would be an alloca of bytes
    assert text.count(" = phi <16 x float>") == 12
    assert text.count("store <16 x float>") == 12


def test_the_loads_of_a_tile_are_shared() -> None:
    kernel = matmul(12, 64, 20, 6, 2, 16)
    text = emit(kernel, _params(kernel), PRESETS["x86-64-avx512"]).text
    assert text.count(" = load <16 x float>") == 2
    assert text.count(" = load float") == 6


def row_tile(width: int, taps: int) -> Kernel:
    """out[w, 16] = sum over k of data[w + k] weight[k, 16], taps unrolled around a wide tile."""
    data, weight, out = (
        Buffer(name, F32, (size,))
        for name, size in (("data", 8 * 64), ("weight", 8 * taps * 16), ("out", width * 16))
    )
    acc = Buffer("acc", F32, (width * 16,), Scope.REGISTER)
    c, k = Var("c"), Var("k")

    def tile(tag: str, make: Callable[[Expr, Expr], Stmt]) -> Stmt:
        w, lane = Var("w" + tag), Var("l" + tag)
        return nest(make(w, lane), (w, width, U), (lane, 16, V))

    def update(w: Expr, lane: Expr) -> Stmt:
        product = Load(data, (c * 64 + w + k,)) * Load(weight, ((c * taps + k) * 16 + lane,))
        return Store(acc, (w * 16 + lane,), Load(acc, (w * 16 + lane,)) + product)

    body = block(
        tile("z", lambda w, lane: Store(acc, (w * 16 + lane,), ZERO)),
        nest(tile("u", update), (c, 8, S), (k, taps, U)),
        tile("s", lambda w, lane: Store(out, (w * 16 + lane,), Load(acc, (w * 16 + lane,)))),
    )
    return Kernel("row", (data, weight, out), 1, Alloc(acc, body))


def test_operands_that_return_late_are_loaded_again_rather_than_spilled(
    compiler: ProcessPoolExecutor,
) -> None:
    target = PRESETS["x86-64-avx512"]
    kernel = row_tile(28, 3)
    text = emit(kernel, _params(kernel), target).text
    assembled = compiler.submit(assembly, text, target).result()
    vectors = [line for line in assembled.splitlines() if "zmm" in line and "vmov" in line]
    assert vectors
    assert not [line for line in vectors if "(%rsp)" in line or "(%rbp)" in line]


def test_a_wide_tile_with_unrolled_taps_is_right(run: Run) -> None:
    data, weight = f32(8 * 64), f32(8 * 3 * 16, 1)
    (got,) = run(row_tile(28, 3), data, weight, f32(28 * 16))
    rows = data.reshape(8, 64)
    windows = np.lib.stride_tricks.sliding_window_view(rows, 3, axis=1)[:, :28]
    want = np.einsum("cwk,ckl->wl", windows, weight.reshape(8, 3, 16))
    np.testing.assert_allclose(got.reshape(28, 16), want, rtol=1e-5, atol=1e-5)


def carried(initial: bool, conditional: bool) -> Kernel:
    """B[i] = sum of A[k] where k % 3 != 1, kept in a register that may begin inside the loop."""
    a_buf, b_buf = Buffer("A", F32, (30,)), Buffer("B", F32, (1,))
    acc = Buffer("acc", F32, (1,), Scope.REGISTER)
    k, zero = Var("k"), Const(0, I64)
    add: Stmt = Store(acc, (zero,), Load(acc, (zero,)) + Load(a_buf, (k,)))
    if conditional:
        add = If(Binary(Op.NE, Binary(Op.FLOORMOD, k, Const(3, I64)), Const(1, I64)), add)
    begin = Store(acc, (zero,), ZERO)
    loop = nest(add if initial else block(If(k.equal(0), begin), add), (k, 30, S))
    body = block(begin, loop) if initial else loop
    return Kernel(
        "carried",
        (a_buf, b_buf),
        1,
        Alloc(acc, block(body, Store(b_buf, (zero,), Load(acc, (zero,))))),
    )


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("conditional", [True, False])
def test_registers_are_carried_through_loops_and_conditions(
    run: Run, initial: bool, conditional: bool
) -> None:
    a = f32(30)
    (got,) = run(carried(initial, conditional), a, f32(1))
    want = a[np.arange(30) % 3 != 1] if conditional else a
    np.testing.assert_allclose(got[0], want.sum(), rtol=1e-5)


def test_both_sides_of_a_condition_meet(run: Run) -> None:
    a_buf, b_buf = Buffer("A", F32, (64,)), Buffer("B", F32, (64,))
    r_buf = Buffer("R", F32, (32,), Scope.REGISTER)
    o, v, lane = Var("o"), Var("v"), Var("lane")
    at = v * 16 + lane

    def each(value: Expr) -> Stmt:
        return nest(Store(r_buf, (at,), value), (v, 2, U), (lane, 16, V))

    load = Load(a_buf, (o * 32 + at,))
    body = block(
        each(Const(1.0, F32)),
        If(o < 1, each(load + Load(r_buf, (at,))), block(each(load * 2.0), If(o > 5, each(ZERO)))),
        nest(Store(b_buf, (o * 32 + at,), Load(r_buf, (at,))), (v, 2, U), (lane, 16, V)),
    )
    kernel = Kernel("k", (a_buf, b_buf), 1, nest(Alloc(r_buf, body), (o, 2, S)))
    a = f32(64)
    (got,) = run(kernel, a, f32(64))
    np.testing.assert_array_equal(got, np.concatenate([a[:32] + 1, a[32:] * 2]))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_one_number_in_all_lanes_of_a_register_is_carried_through_a_loop(
    run: Run, first: int, conditional: bool
) -> None:
    """No vectorized loop is open where the loop over k meets its phis."""
    a_buf, b_buf = Buffer("A", F32, (8,)), Buffer("B", F32, (16,))
    r_buf = Buffer("R", F32, (16,), Scope.REGISTER)
    k, lane = Var("k"), Var("lane")

    def each(value: Expr) -> Stmt:
        return nest(Store(r_buf, (lane,), value), (lane, 16, V))

    begin = each(Load(a_buf, (Const(first, I64),)) * 2.0)
    step = each(Load(a_buf, (k,)) + 1.0)
    body = block(
        begin,
        nest(If(k < 5, step, each(Load(a_buf, (k,)))) if conditional else step, (k, 8 - first, S)),
        nest(Store(b_buf, (lane,), Load(r_buf, (lane,)) + Cast(F32, lane)), (lane, 16, V)),
    )
    a = f32(8)
    (got,) = run(Kernel("k", (a_buf, b_buf), 1, Alloc(r_buf, body)), a, f32(16))
    last = a[7 - first] + np.float32(not conditional)
    np.testing.assert_array_equal(got, last + np.arange(16, dtype=np.float32))


def test_a_masked_store_to_a_register_keeps_the_other_lanes(run: Run) -> None:
    b_buf, r_buf = Buffer("B", F32, (48,)), Buffer("R", F32, (16,), Scope.REGISTER)
    o, lane = Var("o"), Var("lane")
    body = block(
        nest(Store(r_buf, (lane,), Const(5.0, F32)), (lane, 16, V)),
        nest(
            If(
                o * 16 + lane < 20,
                Store(r_buf, (lane,), Cast(F32, lane)),
                Store(r_buf, (lane,), Load(r_buf, (lane,)) + 1.0),
            ),
            (lane, 16, V),
        ),
        nest(Store(b_buf, (o * 16 + lane,), Load(r_buf, (lane,))), (lane, 16, V)),
    )
    (got,) = run(Kernel("k", (b_buf,), 1, nest(Alloc(r_buf, body), (o, 3, S))), f32(48))
    i = np.arange(48)
    np.testing.assert_array_equal(got, np.where(i < 20, i % 16, 6))


def test_nested_loops_carry_the_registers_that_they_change(run: Run) -> None:
    a_buf, b_buf = Buffer("A", F32, (24,)), Buffer("B", F32, (2,))
    r_buf, q_buf = (Buffer(name, F32, (1,), Scope.REGISTER) for name in "RQ")
    i, j, z = Var("i"), Var("j"), Const(0, I64)
    inner = nest(Store(r_buf, (z,), Load(r_buf, (z,)) + Load(a_buf, (i * 6 + j,))), (j, 6, S))
    outer = nest(
        block(inner, Store(q_buf, (z,), Load(q_buf, (z,)) * 0.5 + Load(r_buf, (z,)))), (i, 4, S)
    )
    body = block(
        Store(r_buf, (z,), ZERO), Store(q_buf, (z,), ZERO), outer,
        Store(b_buf, (z,), Load(r_buf, (z,))), Store(b_buf, (Const(1, I64),), Load(q_buf, (z,))),
    )  # fmt: skip
    a = f32(24)
    (got,) = run(Kernel("k", (a_buf, b_buf), 1, Alloc(r_buf, Alloc(q_buf, body))), a, f32(2))
    total, q = 0.0, 0.0
    for row in a.reshape(4, 6):
        total += row.sum()
        q = q * 0.5 + total
    np.testing.assert_allclose(got, [total, q], rtol=1e-5)


@pytest.mark.parametrize(
    "case", ["serial index", "two widths", "unaligned", "crosses a parallel loop"]
)
def test_a_buffer_that_cannot_be_in_registers_is_in_memory(run: Run, case: str) -> None:
    b_buf, r_buf = Buffer("B", F32, (32,)), Buffer("R", F32, (32,), Scope.REGISTER)
    i, j, lane = Var("i"), Var("j"), Var("lane")
    fill = nest(Store(r_buf, (i,), Cast(F32, i) * 3.0), (i, 32, S if case == "serial index" else U))
    copy = nest(Store(b_buf, (j,), Load(r_buf, (j,))), (j, 32, U))
    if case == "two widths":
        copy = nest(
            Store(b_buf, (j * 8 + lane,), Load(r_buf, (j * 8 + lane,))), (j, 4, U), (lane, 8, V)
        )
    elif case == "unaligned":
        step = block(
            nest(
                Store(r_buf, (i * 16 + lane,), Cast(F32, i * 16 + lane) * 3.0),
                (i, 2, U),
                (lane, 16, V),
            ),
            nest(Store(r_buf, (lane + 3,), Cast(F32, lane + 3) * 3.0), (lane, 16, V)),
        )
        fill, copy = (
            step,
            nest(
                Store(b_buf, (j * 16 + lane,), Load(r_buf, (j * 16 + lane,))),
                (j, 2, U),
                (lane, 16, V),
            ),
        )
    elif case == "crosses a parallel loop":
        copy = nest(Store(b_buf, (j,), Load(r_buf, (j,))), (j, 32, P))
    kernel = Kernel("k", (b_buf,), 1, Alloc(r_buf, block(fill, copy)))
    home = plan_storage(kernel).places[r_buf].home
    assert home is (Home.SHARED if case == "crosses a parallel loop" else Home.STACK)
    (got,) = run(kernel, f32(32), threads=2)
    np.testing.assert_array_equal(got, np.arange(32) * 3)


def test_half_precision_registers_are_rounded(run: Run) -> None:
    a_buf, b_buf = Buffer("A", F16, (64,)), Buffer("B", F16, (1,))
    r_buf = Buffer("R", F16, (1,), Scope.REGISTER)
    k, z = Var("k"), Const(0, I64)
    body = block(
        Store(r_buf, (z,), Const(0.0, F16)),
        nest(Store(r_buf, (z,), Load(r_buf, (z,)) + Load(a_buf, (k,))), (k, 64, S)),
        Store(b_buf, (z,), Load(r_buf, (z,))),
    )
    a = np.random.default_rng(3).standard_normal(64).astype(np.float16)
    (got,) = run(Kernel("k", (a_buf, b_buf), 1, Alloc(r_buf, body)), a, np.zeros(1, np.float16))
    want = np.float16(0)
    for x in a:
        want = np.float16(np.float32(want) + np.float32(x))
    assert got[0] == want


def test_every_target_gets_an_object_with_the_entry(compile_kernel: Compile) -> None:
    kernel = matmul(12, 64, 20, 6, 2, 16)
    for target in PRESETS.values():
        artifact = compile_kernel(kernel, target)
        assert artifact.code[:4] == b"\x7fELF"
        machine = int.from_bytes(artifact.code[18:20], "little")
        assert machine == (0xB7 if target.arch == "aarch64" else 0x3E)
        assert artifact.entry.encode() in artifact.code
        assert artifact.target_key == target.key


def test_the_object_is_the_same_each_time(compile_kernel: Compile) -> None:
    kernel = matmul(12, 64, 20, 6, 2, 16)
    assert compile_kernel(kernel, host()).digest == compile_kernel(kernel, host()).digest


def _params(kernel: Kernel) -> tuple[Param, ...]:
    return tuple(Param(b.name, b.dtype, b.shape, Layout.plain(1)) for b in kernel.params)


def edged_tile(width: int, vectors: int) -> Kernel:
    """Sums of data[x + k] weight[k], 0 around the data: a wide tile with tests at both ends."""
    data, weight, out = (
        Buffer(name, F32, (size,))
        for name, size in (
            ("data", 4 * width * 16),
            ("weight", 3 * 4 * vectors * 16),
            ("out", 4 * width * vectors * 16),
        )
    )
    acc = Buffer("acc", F32, (width * vectors * 16,), Scope.REGISTER)
    xo, k, i = Var("xo"), Var("k"), Var("i")

    def tile(tag: str, make: Callable[[Expr, Expr, Expr, Expr], Stmt]) -> Stmt:
        x, v, lane = Var("x" + tag), Var("v" + tag), Var("l" + tag)
        at = (x * vectors + v) * 16 + lane
        return nest(make(x, v, lane, at), (x, width, U), (v, vectors, U), (lane, 16, V))

    def update() -> Stmt:
        x, v, lane = Var("xu"), Var("vu"), Var("lu")
        at, column = (x * vectors + v) * 16 + lane, xo * width + x + k
        product = Load(data, ((column - 1) * 16 + i,)) * Load(
            weight, (((k * 4 + i) * vectors + v) * 16 + lane,)
        )
        store = Store(acc, (at,), Load(acc, (at,)) + product)
        inside = Binary(Op.AND, column >= 1, column < 4 * width + 1)
        guarded = If(inside, nest(store, (v, vectors, U), (lane, 16, V)))
        return nest(guarded, (k, 3, S), (i, 4, U), (x, width, U))

    body = block(
        tile("z", lambda _x, _v, _lane, at: Store(acc, (at,), ZERO)),
        update(),
        tile(
            "s",
            lambda _x, _v, _l, at: Store(out, (xo * width * vectors * 16 + at,), Load(acc, (at,))),
        ),
    )
    return Kernel("edged", (data, weight, out), 1, nest(Alloc(acc, body), (xo, 4, S)))


def test_a_tile_with_tests_at_its_ends_sums_what_is_inside(run: Run) -> None:
    width, vectors = 14, 2
    data, weight = f32(4 * width * 16), f32(3 * 4 * vectors * 16, 1)
    (got,) = run(edged_tile(width, vectors), data, weight, f32(4 * width * vectors * 16, 2))
    columns = np.zeros((4 * width + 2, 4), np.float32)
    columns[1:-1] = data.reshape(-1, 16)[:, :4]
    taps = weight.reshape(3, 4, vectors * 16)
    expected = sum(columns[k : k + 4 * width] @ taps[k] for k in range(3))
    np.testing.assert_allclose(got.reshape(4 * width, -1), expected, rtol=1e-5, atol=1e-5)


def test_a_tile_with_tests_at_its_ends_stays_in_registers(compiler: ProcessPoolExecutor) -> None:
    target = PRESETS["x86-64-avx512"]
    kernel = edged_tile(14, 2)
    source = emit(kernel, _params(kernel), target)
    assert source.branching
    code = compiler.submit(assembly, source.text, target, sinking=False).result()
    assert "(%rsp)" not in code
    assert not emit(row_tile(28, 3), _params(row_tile(28, 3)), target).branching


def test_sinking_is_a_choice_of_each_kernel(compiler: ProcessPoolExecutor) -> None:
    target = PRESETS["x86-64-avx512"]
    kernel = edged_tile(14, 2)
    text = emit(kernel, _params(kernel), target).text
    codes = [
        compiler.submit(assembly, text, target, sinking=sinking).result()
        for sinking in (True, False, True)
    ]
    assert codes[0] == codes[2] != codes[1]

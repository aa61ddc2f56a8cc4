"""Programs in which lowering once went wrong, or easily could."""

from __future__ import annotations

import pytest
from running import check_compiled, check_interpreted

from loopwright.errors import ScheduleError
from loopwright.ir import walk
from loopwright.ir.expr import Scope
from loopwright.ir.stmt import If
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sched.schedule import Schedule, create_schedule
from loopwright.te import language as te
from loopwright.te.tensor import Tensor


def check(schedule: Schedule, cpu: CpuDevice) -> None:
    check_interpreted(schedule)
    check_interpreted(schedule, flat=True)
    check_compiled(schedule, cpu)


def product(m: int, n: int, depth: int) -> Tensor:
    a, b = te.placeholder((m, depth), name="A"), te.placeholder((depth, n), name="B")
    k = te.reduce_axis(depth, name="k")
    return te.compute((m, n), lambda y, x: te.sum(a[y, k] * b[k, x], axis=k), name="C")


@pytest.mark.parametrize("tiled", [False, True])
def test_a_reduction_over_one_element_starts_from_the_identity(tiled: bool, cpu: CpuDevice) -> None:
    s = create_schedule(product(4, 16, 1))
    if tiled:
        s["C"].unroll("C.y")
        s["C"].vectorize("C.x")
    check(s, cpu)


def test_a_tile_too_large_for_registers_is_summed_in_memory(cpu: CpuDevice) -> None:
    s = create_schedule(product(80, 16, 3))
    s["C"].reorder("k", "C.y", "C.x")
    s["C"].unroll("C.y")
    s["C"].vectorize("C.x")
    assert all(a.buffer.scope is not Scope.REGISTER for a in walk.allocs(lower(s).body))
    check(s, cpu)


def test_chains_of_inlined_stages_end_in_their_reader(cpu: CpuDevice) -> None:
    a = te.placeholder((9,), name="A")
    b = te.compute((9,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((9,), lambda i: b[i] * 2.0, name="C")
    d = te.compute((9,), lambda i: c[8 - i] + b[i], name="D")
    s = create_schedule(te.compute((9,), lambda i: d[i] - 3.0, name="E"))
    for name in ("B", "C", "D"):
        s[name].compute_inline()
    assert len(walk.stores(lower(s).body)) == 1
    check(s, cpu)


@pytest.mark.parametrize("factor", [4, 10, 12, 16, 20, 40])
def test_a_stage_may_be_computed_in_a_part_of_a_fused_loop(factor: int, cpu: CpuDevice) -> None:
    a = te.placeholder((8, 10), name="A")
    b = te.compute((8, 10), lambda y, x: a[y, x] + 1.0, name="B")
    s = create_schedule(te.compute((8, 10), lambda y, x: b[y, x] * 2.0, name="C"))
    outer, _ = s["C"].split(s["C"].fuse("C.y", "C.x"), factor)
    s["B"].compute_at("C", outer)
    check(s, cpu)


def test_a_region_that_starts_below_zero_still_holds_what_is_read(cpu: CpuDevice) -> None:
    """Q is read from -1 on; P, twice as long as Q, in a loop further out."""
    a = te.placeholder((24,), name="A")
    p = te.compute((24,), lambda i: a[i] + 1.0, name="P")
    q = te.compute((10,), lambda i: p[i] * 2.0, name="Q")
    c = te.compute(
        (3, 11),
        lambda y, x: te.if_then_else(te.all(x >= 1), q[x - 1], 0.0) + te.cast("float32", y),
        name="C",
    )
    s = create_schedule(c)
    s["Q"].compute_at("C", "C.x")
    s["P"].compute_at("C", "C.y")
    check(s, cpu)


def test_more_than_the_last_tile_may_be_cut_off(cpu: CpuDevice) -> None:
    """Rows y + 2 of P are read while there are any: one row of the tile before the last."""
    a = te.placeholder((9, 4), name="A")
    p = te.compute((9, 4), lambda y, x: a[y, x] + 1.0, name="P")
    c = te.compute((9, 4), lambda y, x: te.if_then_else(y < 7, p[y + 2, x], 0.0), name="C")
    s = create_schedule(c)
    outer, _ = s["C"].split("C.y", 2)
    s["P"].compute_at("C", outer)
    s["P"].unroll("P.y")
    s["P"].unroll("P.x")
    check(s, cpu)


def test_stages_in_one_loop_are_computed_in_order(cpu: CpuDevice) -> None:
    a = te.placeholder((6, 5), name="A")
    b = te.compute((6, 5), lambda y, x: a[y, x] + 1.0, name="B")
    c = te.compute((6, 5), lambda y, x: b[y, 4 - x] * 2.0, name="C")
    s = create_schedule(te.compute((6, 5), lambda y, x: c[y, 4 - x] - b[y, x], name="D"))
    for name in ("C", "B"):
        s[name].compute_at("D", "D.y")
    check(s, cpu)


def test_tails_inside_of_tails_have_names_of_their_own(cpu: CpuDevice) -> None:
    """The producer has a guarded tile, inside of a guarded tile of its consumer."""
    a = te.placeholder((11, 13), name="A")
    b = te.compute((11, 13), lambda y, x: a[y, x] + 1.0, name="B")
    s = create_schedule(te.compute((11, 13), lambda y, x: b[y, x] * 2.0, name="C"))
    yo, xo, yi, xi = s["C"].tile("C.y", "C.x", 4, 5)
    s["C"].reorder(yo, xo, yi, xi)
    s["C"].unroll(yi)
    s["C"].unroll(xi)
    s["B"].compute_at("C", yi)
    _, inner = s["B"].split("B.x", 2)
    s["B"].unroll(inner)
    apply_passes(lower(s), "cpu")
    check(s, cpu)


def test_a_tensor_without_dimensions_is_one_element(cpu: CpuDevice) -> None:
    a = te.placeholder((5,), name="A")
    k = te.reduce_axis(5, name="k")
    r = te.compute((), lambda: te.max(a[k], axis=k), name="R")
    check(create_schedule(te.compute((3,), lambda i: a[i] - r[()], name="D")), cpu)


def test_a_stage_in_a_parallel_loop_has_a_buffer_of_its_own(cpu: CpuDevice) -> None:
    a = te.placeholder((8, 70), name="A")
    b = te.compute((8, 70), lambda y, x: a[y, x] + 1.0, name="B")
    s = create_schedule(te.compute((8, 70), lambda y, x: b[y, 69 - x] * 2.0, name="C"))
    s["C"].parallel("C.y")
    s["B"].compute_at("C", "C.y")
    check(s, cpu)


def test_registers_may_be_read_in_a_parallel_loop(cpu: CpuDevice) -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] + 1.0, name="B")
    s = create_schedule(te.compute((6, 4), lambda y, x: a[y % 4] * b[x], name="C"))
    s["B"].unroll("B.i")
    s["B"].set_scope("register")
    s["C"].unroll("C.x")
    s["C"].parallel("C.y")
    check(s, cpu)


def test_guards_stand_where_their_loop_is_bound() -> None:
    s = create_schedule(product(10, 21, 7))
    s["C"].split("C.y", 4)
    tests = [stmt for stmt in walk.visit_stmts(lower(s).body) if isinstance(stmt, If)]
    assert len(tests) == 1
    assert [loop.var.name for loop in walk.loops(tests[0].then)] == ["C.x", "k"]


def test_a_register_buffer_must_be_indexed_by_unrolled_or_vector_loops() -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] + 1.0, name="B")
    s = create_schedule(te.workload(te.compute((4,), lambda i: b[i] * 2.0, name="C"), name="demo"))
    s["B"].set_scope("register")
    with pytest.raises(
        ScheduleError, match="demo: B is kept in registers but is indexed by the loop"
    ):
        lower(s)


@pytest.mark.parametrize("kind", ["vectorize", "parallel"])
def test_no_vector_or_parallel_loop_runs_in_lanes(kind: str) -> None:
    a = te.placeholder((4, 8), name="A")
    b = te.compute((4, 8), lambda y, x: a[y, x] + 1.0, name="B")
    c = te.compute((4, 8), lambda y, x: b[y, 7 - x] * 2.0, name="C")
    s = create_schedule(te.workload(c, name="demo"))
    s["C"].vectorize("C.y")
    s["B"].compute_at("C", "C.y")
    getattr(s["B"], kind)("B.x")
    with pytest.raises(
        ScheduleError, match=r"demo: the .* loop B.x is inside the vectorized loop C.y"
    ):
        lower(s)

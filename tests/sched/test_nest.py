"""What a schedule touches: regions by hand, and the laws that code and features stand on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedules import Case, cases

from loopwright.errors import ScheduleError
from loopwright.ir.expr import Binary, Const, Expr, Op, Var
from loopwright.lower.pipeline import lower
from loopwright.sched.nest import Nest, StageNest, nest
from loopwright.sched.schedule import Schedule, create_schedule, replay
from loopwright.sched.steps import SplitStep
from loopwright.sched.terms import LoopTerm, Terms, all_exact
from loopwright.te import language as te
from loopwright.te.workload import Workload

LAW = settings(max_examples=80, deadline=None, suppress_health_check=[*HealthCheck])


def windows(stride: int = 1, rows: int = 20) -> Schedule:
    """out[y, x] reads three rows of mid around y * stride; mid is elementwise in src."""
    src = te.placeholder((rows, 16), name="src")
    mid = te.compute((rows, 16), lambda y, x: src[y, x] + 1.0, name="mid")
    height = (rows - 3) // stride + 1
    out = te.compute(
        (height, 16), lambda y, x: mid[y * stride, x] + mid[y * stride + 2, x], name="out"
    )
    return create_schedule(te.workload(out, name="windows"))


def test_at_root_all_of_a_tensor_is_computed() -> None:
    assert nest(windows()).stage("mid").shape == (20, 16)


def test_a_region_is_what_one_iteration_reads() -> None:
    s = windows()
    yo, _ = s["out"].split("out.y", 4)
    s["mid"].compute_at("out", yo)
    assert nest(s).stage("mid").shape == (6, 16)


def test_a_stride_widens_the_region() -> None:
    s = windows(stride=2)
    yo, _ = s["out"].split("out.y", 4)
    s["mid"].compute_at("out", yo)
    assert nest(s).stage("mid").shape == (9, 16)


def test_a_tail_does_not_widen_the_region_beyond_the_tensor() -> None:
    s = windows(rows=10)
    yo, _ = s["out"].split("out.y", 5)
    s["mid"].compute_at("out", yo)
    assert nest(s).stage("mid").shape == (7, 16)
    s = windows(rows=10)
    yo, _ = s["out"].split("out.y", 64)
    s["mid"].compute_at("out", yo)
    assert nest(s).stage("mid").shape == (10, 16)


def test_a_fused_loop_split_at_whole_rows_keeps_the_region_small() -> None:
    s = windows()
    fo, _ = s["out"].split(s["out"].fuse("out.y", "out.x"), 32)
    s["mid"].compute_at("out", fo)
    assert nest(s).stage("mid").shape == (4, 16)


def test_a_fused_loop_split_across_rows_needs_whole_rows() -> None:
    """Iterations 12..23 of rows of 16 read columns 12..15, then 0..7: below the first one."""
    s = windows()
    fo, _ = s["out"].split(s["out"].fuse("out.y", "out.x"), 12)
    s["mid"].compute_at("out", fo)
    found = nest(s).stage("mid")
    assert found.shape == (20, 16)
    assert not all_exact(nest(s).stage("out").axis("out.x").terms)


def test_readers_at_different_places_need_all_of_it() -> None:
    src = te.placeholder((8, 8), name="src")
    mid = te.compute((8, 8), lambda y, x: src[y, x] + 1.0, name="mid")
    out = te.compute((8, 8), lambda y, x: mid[y, x] + mid[x, y], name="out")
    s = create_schedule(out)
    s["mid"].compute_at("out", "out.y")
    assert nest(s).stage("mid").shape == (8, 8)


def test_an_index_that_is_not_affine_needs_all_of_it() -> None:
    src = te.placeholder((8,), name="src")
    mid = te.compute((8,), lambda i: src[i] + 1.0, name="mid")
    out = te.compute((16,), lambda i: mid[i // 2], name="out")
    s = create_schedule(out)
    s["mid"].compute_at("out", "out.i")
    assert nest(s).stage("mid").shape == (8,)
    assert not nest(s).stage("out").accesses[0].regular


def test_inlined_stages_are_gone_and_chains_of_them_too() -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((4,), lambda i: b[i] * 2.0, name="C")
    s = create_schedule(te.compute((4,), lambda i: c[i] - 3.0, name="D"))
    s["B"].compute_inline()
    s["C"].compute_inline()
    found = nest(s)
    assert [stage.name for stage in found.stages] == ["D"]
    assert [access.tensor for access in found.stages[0].accesses] == ["A", "D"]


def test_identical_reads_are_one_access_and_the_write_is_last() -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] * a[i] + a[3 - i], name="B")
    accesses = nest(create_schedule(b)).stage("B").accesses
    assert [(access.tensor, access.is_write) for access in accesses] == [
        ("A", False),
        ("A", False),
        ("B", True),
    ]


def test_loops_of_different_stages_have_different_variables() -> None:
    k = te.reduce_axis(4, name="k")
    a = te.placeholder((4, 4), name="A")
    b = te.compute((4,), lambda i: te.sum(a[i, k], axis=k), name="B")
    c = te.compute((4,), lambda i: te.sum(a[k, i] * b[k], axis=k), name="C")
    names = [loop.var.name for stage in nest(create_schedule(c)).stages for loop in stage.loops]
    assert len(set(names)) == len(names)


def test_computing_at_a_stage_that_does_not_read_it_is_refused() -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((4,), lambda i: a[i] + 2.0, name="C")
    d = te.compute((4,), lambda i: b[i] + c[i], name="D")
    s = create_schedule(te.workload([d], name="two"))
    s["C"].compute_at("B", "B.i")
    with pytest.raises(ScheduleError, match="C is computed at B, which does not read it"):
        nest(s)


def test_a_reader_outside_of_the_loop_is_refused() -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((4,), lambda i: b[i] + 2.0, name="C")
    d = te.compute((4,), lambda i: b[i] + c[i], name="D")
    s = create_schedule(te.workload([d], name="two"))
    s["B"].compute_at("D", "D.i")
    with pytest.raises(ScheduleError, match=r"B is computed inside .* but C reads it outside"):
        nest(s)


def test_a_batch_is_refused_by_lower() -> None:
    s = windows()
    s.apply(SplitStep("out", "out.y", np.array([2, 4]), "o", "i"))
    with pytest.raises(Exception, match="a batched schedule cannot be lowered; decode one config"):
        lower(s)


# --- laws ---------------------------------------------------------------------------------------


def value(expr: Expr, env: dict[str, np.ndarray]) -> np.ndarray:
    """An index expression on many values of its variables."""
    match expr:
        case Const(value=number):
            return np.array(number)
        case Var(name=name):
            return env[name]
        case Binary(op=op, lhs=lhs, rhs=rhs):
            left, right = value(lhs, env), value(rhs, env)
            table = {
                Op.ADD: np.add,
                Op.SUB: np.subtract,
                Op.MUL: np.multiply,
                Op.FLOORDIV: np.floor_divide,
                Op.FLOORMOD: np.remainder,
            }
            return table[op](left, right)
        case _:
            raise AssertionError(expr)


def total(terms: Terms, env: dict[str, np.ndarray], stages: Nest) -> np.ndarray:
    """The sum of terms on many values of the loops."""
    variables = {loop.id: loop.var.name for stage in stages.stages for loop in stage.loops}
    result = np.zeros((), np.int64)
    for term in terms:
        moved = env[variables[term.loop]] // term.div
        result = result + term.coeff * (moved % term.mod if term.mod else moved)
    return result


def iterations(stage: StageNest, most: int = 3000) -> dict[str, np.ndarray]:
    """Values of all loops around a stage in every iteration, or in `most` random ones."""
    extents = [int(loop.extent) for loop in stage.path]
    count = int(np.prod(extents))
    chosen = (
        np.random.default_rng(0).permutation(count)[:most] if count > most else np.arange(count)
    )
    values = np.unravel_index(chosen, extents) if extents else ()
    return {loop.var.name: v for loop, v in zip(stage.path, values, strict=True)}


@LAW
@given(cases())
def test_exact_terms_move_as_the_index_does(case: Case) -> None:
    found = nest(case.schedule)
    for stage in found.stages:
        env = iterations(stage)
        for axis in stage.axes:
            if axis.index is None or not all_exact(axis.terms):
                continue
            rest = value(axis.index, env) - total(axis.terms, env, found)
            assert np.unique(rest).size <= 1, (stage.name, axis.name)


@LAW
@given(cases())
def test_a_region_starts_no_lower_than_its_low(case: Case) -> None:
    for stage in nest(case.schedule).stages:
        env = iterations(stage)
        for axis in stage.axes:
            if axis.base is not None:
                assert (value(axis.base, env) >= axis.low).all(), (stage.name, axis.name)


def variants(schedule: Schedule, factors: list[list[int]]) -> tuple[Schedule, list[Schedule]]:
    """One schedule with every factor an array, and the schedules with one number each."""
    splits = [n for n, step in enumerate(schedule.steps) if isinstance(step, SplitStep)]
    single = []
    for row in factors:
        steps = list(schedule.steps)
        for place, factor in zip(splits, row, strict=False):
            steps[place] = replace(steps[place], factor=factor)
        single.append(replay(schedule.workload, steps))
    steps = list(schedule.steps)
    for number, place in enumerate(splits):
        column = np.array([s.steps[place].factor for s in single])
        steps[place] = replace(steps[place], factor=column)
        assert column.shape == (len(factors),), number
    return replay(schedule.workload, steps), single


def row(extent: object, n: int, size: int) -> int:
    return int(np.broadcast_to(np.asarray(extent), size)[n])


def moving(terms: Terms, n: int, size: int) -> list[tuple[object, ...]]:
    """The terms of candidate `n` that move at all."""
    plain = [
        (
            t.loop,
            row(t.coeff, n, size),
            row(t.div, n, size),
            row(t.mod, n, size),
            exact_at(t, n, size),
        )
        for t in terms
    ]
    return [t for t in plain if t[1] != 0]


def exact_at(term: LoopTerm, n: int, size: int) -> bool:
    return bool(np.broadcast_to(np.asarray(term.exact), size)[n])


def test_a_stage_is_not_widened_by_another_candidate_of_its_batch() -> None:
    """With 3 all of mid is kept, so that src, computed at its first loop, is read row by row."""
    a = te.placeholder((1, 2), name="a")
    src = te.compute((1, 2), lambda y, x: a[y, x] + 1.0, name="src")
    mid = te.compute((1, 2), lambda y, x: src[y, x] * 2.0, name="mid")
    s = create_schedule(te.compute((1, 2), lambda y, x: mid[y, x] - 3.0, name="out"))
    at, _ = s["out"].split(s["out"].fuse("out.y", "out.x"), 1)
    s["src"].compute_at("mid", "mid.x")
    s["mid"].compute_at("out", at)
    batched, single = variants(s, [[1], [3]])
    for name, wanted in (("mid", [(1, 1), (1, 2)]), ("src", [(1, 1), (1, 1)])):
        assert [nest(one).stage(name).shape for one in single] == wanted
        shape = nest(batched).stage(name).shape
        assert [tuple(row(e, n, 2) for e in shape) for n in range(2)] == wanted


@LAW
@given(
    cases(), st.lists(st.lists(st.integers(1, 9), min_size=16, max_size=16), min_size=2, max_size=4)
)
def test_a_batched_nest_is_its_single_nests_side_by_side(
    case: Case, factors: list[list[int]]
) -> None:
    batched, single = variants(case.schedule, factors)
    together = nest(batched)
    size = len(factors)
    assert together.size in (size, None)
    for n, alone in enumerate(nest(s) for s in single):
        for many, one in zip(together.stages, alone.stages, strict=True):
            assert [row(e, n, size) for e in many.shape] == list(one.shape)
            assert [row(loop.extent, n, size) for loop in many.path] == [
                loop.extent for loop in one.path
            ]
            assert [row(a.low, n, size) for a in many.axes] == [a.low for a in one.axes]
            for left, right in zip(many.axes, one.axes, strict=True):
                assert moving(left.terms, n, size) == moving(right.terms, 0, 1)
            for read, same in zip(many.accesses, one.accesses, strict=True):
                assert (read.tensor, read.is_write, read.regular) == (
                    same.tensor,
                    same.is_write,
                    same.regular,
                )
                for dim, other in zip(read.dims, same.dims, strict=True):
                    assert moving(dim, n, size) == moving(other, 0, 1)


def test_a_batch_of_one_is_still_a_batch() -> None:
    s = windows()
    s.apply(SplitStep("out", "out.y", np.array([4]), "o", "i"))
    s["mid"].compute_at("out", "o")
    found = nest(s)
    assert found.size == 1
    assert [row(e, 0, 1) for e in found.stage("mid").shape] == [6, 16]
    assert isinstance(s.workload, Workload)

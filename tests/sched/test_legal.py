"""Each refusal of each step: a ScheduleError that says which step, and why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from loopwright.errors import ScheduleError
from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched import legal
from loopwright.sched.schedule import Schedule, create_schedule
from loopwright.sched.steps import (
    AnnotateStep,
    CacheReadStep,
    CacheWriteStep,
    ComputeAtStep,
    ComputeInlineStep,
    ComputeRootStep,
    FuseStep,
    ReorderStep,
    SetLayoutStep,
    SetScopeStep,
    SplitReductionStep,
    SplitStep,
    Step,
)
from loopwright.te import language as te


def fresh() -> Schedule:
    """A, B -> pre (elementwise in A) -> C (product of pre and B) -> D (elementwise in C)."""
    a, b = te.placeholder((8, 6), name="A"), te.placeholder((6, 12), name="B")
    k = te.reduce_axis(6, name="k")
    pre = te.compute((8, 6), lambda i, j: a[i, j] + 1.0, name="pre")
    c = te.compute((8, 12), lambda y, x: te.sum(pre[y, k] * b[k, x], axis=k), name="C")
    d = te.compute((8, 12), lambda y, x: te.maximum(c[y, x], 0.0), name="D")
    return create_schedule(te.workload(d, name="demo"))


def annotated(s: Schedule) -> None:
    s["C"].vectorize("C.x")


def split_before(s: Schedule) -> None:
    s["C"].split("C.y", 2)


def pre_at_c(s: Schedule) -> None:
    s["pre"].compute_at("C", "C.y")


def pre_inlined(s: Schedule) -> None:
    s["pre"].compute_inline()


def reordered(s: Schedule) -> None:
    s["C"].reorder("C.x", "C.y")


def nothing(_: Schedule) -> None:
    pass


REFUSED: list[tuple[Callable[[Schedule], None], Step, str]] = [
    (nothing, SplitStep("X", "X.y", 2, "o", "i"), "no stage X; the stages are pre, C, D"),
    (
        nothing,
        SplitStep("C", "C.z", 2, "o", "i"),
        r"C has no loop C.z \(now\); its loops are C.y, C.x, k",
    ),
    (nothing, SplitStep("C", "C.y", 0, "o", "i"), "the factor 0 is less than 1"),
    (nothing, SplitStep("C", "C.y", 2, "o", "o"), "both new loops are called o"),
    (nothing, SplitStep("C", "C.y", 2, "o", "k"), "C has, or had, a loop k; choose another name"),
    (split_before, SplitStep("C", "C.x", 2, "C.y", "i"), "C has, or had, a loop C.y"),
    (
        annotated,
        SplitStep("C", "C.x", 2, "o", "i"),
        "C.x is vectorized already; shape loops before",
    ),
    (pre_at_c, SplitStep("C", "C.y", 2, "o", "i"), "pre is computed at C.y; shape loops before"),
    (nothing, FuseStep("X", "a", "b", "f"), "no stage X"),
    (nothing, FuseStep("C", "C.y", "a", "f"), "C has no loop a"),
    (nothing, FuseStep("C", "a", "C.x", "f"), "C has no loop a"),
    (
        nothing,
        FuseStep("C", "C.x", "C.y", "f"),
        "C.y is not the loop right inside C.x; reorder first",
    ),
    (nothing, FuseStep("C", "C.y", "C.y", "f"), "C.y is not the loop right inside C.y"),
    (nothing, FuseStep("C", "C.x", "k", "f"), "C.x and k are a spatial and a reduce loop"),
    (nothing, FuseStep("C", "C.y", "C.x", "k"), "C has, or had, a loop k"),
    (annotated, FuseStep("C", "C.y", "C.x", "f"), "C.x is vectorized already"),
    (pre_at_c, FuseStep("C", "C.y", "C.x", "f"), "pre is computed at C.y"),
    (nothing, ReorderStep("X", ()), "no stage X"),
    (nothing, ReorderStep("C", ("C.y", "z")), "C has no loop z"),
    (nothing, ReorderStep("C", ("C.y", "C.y")), "a loop is named twice in C.y, C.y"),
    (nothing, AnnotateStep("X", "a", LoopKind.UNROLLED), "no stage X"),
    (nothing, AnnotateStep("C", "a", LoopKind.UNROLLED), "C has no loop a"),
    (nothing, AnnotateStep("C", "k", LoopKind.VECTORIZED), "k is a reduce loop"),
    (nothing, AnnotateStep("C", "k", LoopKind.PARALLEL), "k is a reduce loop"),
    (
        annotated,
        AnnotateStep("C", "C.y", LoopKind.VECTORIZED),
        "C.x is vectorized already; a stage has one",
    ),
    (nothing, ComputeAtStep("X", "C", "k"), "no stage X"),
    (nothing, ComputeAtStep("C", "X", "k"), "no stage X"),
    (nothing, ComputeAtStep("D", "C", "k"), "D is an output, which is computed at root"),
    (nothing, ComputeAtStep("C", "D", "a"), "D has no loop a"),
    (nothing, ComputeAtStep("C", "C", "k"), "C would be computed inside itself"),
    (pre_at_c, ComputeAtStep("C", "pre", "pre.i"), "C would be computed inside itself"),
    (pre_inlined, ComputeAtStep("C", "pre", "pre.i"), "pre is inlined and has no loops"),
    (nothing, ComputeInlineStep("X"), "no stage X"),
    (nothing, ComputeInlineStep("D"), "D is an output, which must be computed"),
    (nothing, ComputeInlineStep("C"), "C is a reduction, which cannot be inlined; use compute_at"),
    (nothing, ComputeRootStep("X"), "no stage X"),
    (nothing, SetScopeStep("X", Scope.LOCAL), "no stage X"),
    (nothing, SetScopeStep("D", Scope.LOCAL), "D is an output, which must stay in global memory"),
    (nothing, SetLayoutStep("X", (0, 1)), "no tensor X; the tensors are A, B, pre, C, D"),
    (nothing, SetLayoutStep("C", (0,)), "must name each of the 2 dimensions of C once unblocked"),
    (nothing, SetLayoutStep("C", (0, 0)), "must name each of the 2 dimensions of C once unblocked"),
    (nothing, SetLayoutStep("C", (0, 1, (1, 0))), r"the block \(1, 0\) is not"),
    (nothing, SetLayoutStep("C", (0, 1, (2, 4))), r"the block \(2, 4\) is not"),
    (nothing, SetLayoutStep("C", (0, (1, 4), 1)), r"\(1, 4\) stands in front of dimension 1"),
    (nothing, CacheReadStep("X", ("C",), "n", Scope.LOCAL), "no tensor X"),
    (nothing, CacheReadStep("A", ("pre",), "C", Scope.LOCAL), "there is a tensor C already"),
    (nothing, CacheReadStep("A", ("pre",), "B", Scope.LOCAL), "there is a tensor B already"),
    (nothing, CacheReadStep("A", (), "n", Scope.LOCAL), "name at least one reader"),
    (nothing, CacheReadStep("A", ("C",), "n", Scope.LOCAL), "C does not read A"),
    (nothing, CacheWriteStep("X", "n", Scope.LOCAL), "no stage X"),
    (nothing, CacheWriteStep("A", "n", Scope.LOCAL), "no stage A"),
    (nothing, CacheWriteStep("C", "B", Scope.LOCAL), "there is a tensor B already"),
    (split_before, CacheWriteStep("C", "n", Scope.LOCAL), "C has scheduled loops already"),
    (annotated, CacheWriteStep("C", "n", Scope.LOCAL), "C has scheduled loops already"),
    (reordered, CacheWriteStep("C", "n", Scope.LOCAL), "C has scheduled loops already"),
    (pre_inlined, CacheWriteStep("pre", "n", Scope.LOCAL), "pre is inlined"),
    (
        pre_at_c,
        CacheWriteStep("C", "n", Scope.LOCAL),
        "pre is computed inside C; call cache_write before",
    ),
    (nothing, SplitReductionStep("X", 4, "n"), "no stage X"),
    (nothing, SplitReductionStep("C", 4, "B"), "there is a tensor B already"),
    (nothing, SplitReductionStep("pre", 4, "n"), "pre is not a reduction"),
    (nothing, SplitReductionStep("C", 1, "n"), "1 lanes are less than 2"),
    (split_before, SplitReductionStep("C", 4, "n"), "C has scheduled loops already"),
]


@pytest.mark.parametrize(("before", "step", "reason"), REFUSED, ids=[r for _, _, r in REFUSED])
def test_a_step_that_can_never_be_right_is_refused(
    before: Callable[[Schedule], None], step: Step, reason: str
) -> None:
    schedule = fresh()
    before(schedule)
    state, steps = schedule.state, schedule.steps
    with pytest.raises(ScheduleError, match=f"^demo: cannot `.*`: .*{reason}"):
        schedule.apply(step)
    assert (schedule.state, schedule.steps) == (state, steps)


def test_a_refusal_is_one_line() -> None:
    schedule = fresh()
    for before, step, _ in REFUSED:
        schedule = fresh()
        before(schedule)
        reason = legal.refuse(schedule.state, step)
        assert reason is not None
        assert "\n" not in reason


def test_a_stage_that_nothing_reads_cannot_be_computed_at_a_loop() -> None:
    schedule = fresh()
    schedule["pre"].compute_inline()
    schedule.cache_read("A", ["pre"], name="copy")
    state = schedule.state
    stages = {n: s for n, s in state.stages.items() if n != "pre"}
    orphaned = type(state)(state.workload, stages, state.layouts)
    assert legal.refuse(orphaned, ComputeAtStep("copy", "C", "C.y")) == "nothing reads copy"


def test_a_stage_with_another_inside_cannot_be_inlined() -> None:
    schedule = fresh()
    copy = schedule.cache_read("A", ["pre"])
    schedule[copy].compute_at("pre", "pre.i")
    with pytest.raises(ScheduleError, match=r"A.local is computed inside pre"):
        schedule["pre"].compute_inline()


def test_every_size_of_a_batch_must_be_at_least_1() -> None:
    step = SplitStep("C", "C.y", np.array([2, 0, 4]), "o", "i")
    reason = legal.refuse(fresh().state, step)
    assert reason is not None
    assert "less than 1" in reason


def test_there_is_a_rule_for_each_step() -> None:
    steps: tuple[Step, ...] = (
        SplitStep("C", "C.y", 2, "o", "i"),
        FuseStep("C", "C.y", "C.x", "f"),
        ReorderStep("C", ("C.x", "C.y")),
        AnnotateStep("C", "C.y", LoopKind.PARALLEL),
        ComputeAtStep("C", "D", "D.y"),
        ComputeInlineStep("pre"),
        ComputeRootStep("C"),
        SetScopeStep("C", Scope.LOCAL),
        SetLayoutStep("C", (1, 0, (0, 4))),
        CacheReadStep("A", ("pre",), "n", Scope.LOCAL),
        CacheWriteStep("C", "n", Scope.LOCAL),
        SplitReductionStep("C", 4, "n"),
    )
    assert {type(s) for s in steps} == set(Step.__args__)
    assert [legal.refuse(fresh().state, s) for s in steps] == [None] * len(steps)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda s: s["X"], "there is no stage X; the stages are pre, C, D"),
        (lambda s: s["C"].split("C.y"), "split C.y: give either factor or nparts"),
        (lambda s: s["C"].split("C.y", 2, nparts=2), "give either factor or nparts"),
        (lambda s: s["C"].split("C.y", nparts=0), "nparts 0 is less than 1"),
        (lambda s: s["C"].split("C.z", nparts=2), "C has no loop C.z"),
        (lambda s: s["C"].split("C.y", 2.5), "the size 2.5 is not an integer"),
        (lambda s: s["C"].tile("C.y", "C.x", 2, -1), "the factor -1 is less than 1"),
    ],
)
def test_the_builder_refuses(call: Callable[[Schedule], object], reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason):
        call(fresh())

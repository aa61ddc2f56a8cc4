"""Random legal schedules for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from workloads import workloads

from loopwright.errors import ScheduleError
from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.lower.pipeline import lower
from loopwright.sched.legal import refuse
from loopwright.sched.nest import nest
from loopwright.sched.schedule import Schedule, replay
from loopwright.sched.steps import (
    AnnotateStep,
    CacheReadStep,
    CacheWriteStep,
    ComputeAtStep,
    ComputeInlineStep,
    FuseStep,
    ReorderStep,
    SetLayoutStep,
    SetScopeStep,
    SplitReductionStep,
    SplitStep,
    Step,
)
from loopwright.te.workload import Workload

_KINDS = ("split",) * 4 + ("fuse", "fuse", "reorder", "reorder") + ("annotate",) * 3 + ("at",) * 4
_RARE = ("fold", "inline", "scope", "layout", "layout", "cache_read", "cache_write")


class Case:
    """A scheduled workload that prints as text, for hypothesis to show."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __repr__(self) -> str:
        return f"\n{self.schedule.workload}\n--\n{self.schedule}\n"


@st.composite
def cases(draw: DrawFn, of: st.SearchStrategy[Workload] | None = None, most: int = 16) -> Case:
    """A random schedule of a random workload."""
    workload = draw(workloads() if of is None else of)
    return Case(draw(schedules(workload, most)))


@st.composite
def schedules(draw: DrawFn, workload: Workload, most: int = 16) -> Schedule:
    """A schedule of up to `most` legal steps that has a meaning as loops."""
    schedule = Schedule(workload)
    for number in range(draw(st.integers(most // 4, most))):
        step = _step(draw, schedule, number)
        if step is None or refuse(schedule.state, step) is not None:
            continue
        longer = replay(workload, (*schedule.steps, step))
        if not isinstance(
            step, ComputeAtStep | CacheReadStep | CacheWriteStep | SplitReductionStep
        ) or _has_a_nest(longer):
            schedule = longer
    while not _lowers(schedule):
        schedule = replay(workload, schedule.steps[:-1])
    return schedule


def _has_a_nest(schedule: Schedule) -> bool:
    try:
        nest(schedule)
    except ScheduleError:
        return False
    return True


def _lowers(schedule: Schedule) -> bool:
    try:
        lower(schedule)
    except ScheduleError:
        return False
    return True


def _step(draw: DrawFn, schedule: Schedule, number: int) -> Step | None:
    state = schedule.state
    how = draw(st.sampled_from(_KINDS + _RARE))
    inner = sorted(n for n in state.stages if not state.is_output(n))
    if how in ("at", "inline") and not inner:
        return None
    name = draw(st.sampled_from(inner if how in ("at", "inline") else sorted(state.stages)))
    stage = state.stages[name]
    leaves = stage.leaves
    if how in ("split", "fuse", "reorder", "annotate") and not leaves:
        return None
    if how == "split":
        loop = draw(st.sampled_from(leaves))
        factor = draw(st.one_of(st.integers(1, 9), st.sampled_from((16, 32))))
        return SplitStep(name, loop, factor, f"{loop}.o{number}", f"{loop}.i{number}")
    if how == "fuse":
        place = draw(st.integers(0, len(leaves) - 1))
        pair = leaves[place : place + 2]
        return FuseStep(name, *pair, f"{name}.f{number}") if len(pair) == 2 else None
    if how == "reorder":
        return ReorderStep(name, tuple(draw(st.permutations(leaves))))
    if how == "annotate":
        return AnnotateStep(name, draw(st.sampled_from(leaves)), draw(st.sampled_from(LoopKind)))
    if how == "at":
        order = list(state.stages)
        later = order[order.index(name) + 1 :]
        consumer = draw(st.sampled_from([*state.readers(name), *later] or order))
        inside = state.stages[consumer].leaves
        return ComputeAtStep(name, consumer, draw(st.sampled_from(inside))) if inside else None
    if how == "inline":
        return ComputeInlineStep(name)
    return _storage_step(draw, schedule, how, number)


def _storage_step(draw: DrawFn, schedule: Schedule, how: str, number: int) -> Step | None:
    state = schedule.state
    tensors = sorted({*(t.name for t in state.workload.inputs), *state.stages})
    name = draw(st.sampled_from(tensors))
    scope = draw(st.sampled_from(Scope))
    if how == "scope":
        return SetScopeStep(name, scope) if name in state.stages else None
    if how == "layout":
        ndim = schedule.tensor(name).ndim
        order: list[int | tuple[int, int]] = list(draw(st.permutations(range(ndim))))
        for _ in range(draw(st.integers(0, 2)) if ndim else 0):
            block = (draw(st.integers(0, ndim - 1)), draw(st.integers(1, 5)))
            order.insert(draw(st.integers(0, len(order))), block)
        return SetLayoutStep(name, tuple(order))
    if how == "fold":
        return SplitReductionStep(name, draw(st.integers(2, 5)), f"{name}.parts{number}")
    if how == "cache_read":
        readers = state.readers(name)
        some = tuple(r for r in readers if draw(st.booleans())) if readers else ()
        return CacheReadStep(name, some, f"{name}.read{number}", scope) if some else None
    return CacheWriteStep(name, f"{name}.write{number}", scope)

"""The schedule builder: AutoTVM's familiar interface over frozen steps.

    s = create_schedule(workload)
    yo, yi = s[C].split(y, 8)
    s[C].reorder(yo, xo, k, yi, xi)
    s[C].vectorize(xi)

Every call checks the step's legality, appends it to `s.steps` and updates the state. `print(s)`
shows the steps; `replay(workload, s.steps)` and `load(workload, str(s))` rebuild the same
schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from loopwright.errors import ScheduleError
from loopwright.ir.expr import ReduceAxis, Scope, Var
from loopwright.ir.stmt import LoopKind
from loopwright.layout import Layout
from loopwright.sched import state as states
from loopwright.sched.extent import Extent, SizeLike, ceildiv, extent, size_of
from loopwright.sched.legal import refuse
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
from loopwright.sched.terms import minimum
from loopwright.sched.text import parse_all, show
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload, workload


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a stage, by name."""

    stage: str
    name: str
    extent: SizeLike = field(compare=False)
    """Its extent if its stage were computed at root."""


LoopLike: TypeAlias = Loop | Var | ReduceAxis | str


class Schedule:
    """A workload and the steps taken so far."""

    def __init__(self, of: Workload) -> None:
        self.workload = of
        self.state = states.initial(of)
        self.steps: tuple[Step, ...] = ()
        self._extents: dict[tuple[str, str], Extent] = {}
        for tensor in of.stages:
            self._note_axes(tensor)

    def __getitem__(self, tensor: Tensor | str) -> Stage:
        name = tensor if isinstance(tensor, str) else tensor.name
        if name not in self.state.stages:
            raise ScheduleError(
                f"{self.workload.name}: there is no stage {name}; "
                f"the stages are {', '.join(self.state.stages)}"
            )
        return Stage(self, name)

    def apply(self, step: Step) -> None:
        """Apply `step`. Raises: ScheduleError with the step and the reason when it is illegal."""
        reason = refuse(self.state, step)
        if reason is not None:
            raise ScheduleError(f"{self.workload.name}: cannot `{show(step)}`: {reason}")
        self.state = states.apply(self.state, step)
        self.steps = (*self.steps, step)
        self._note_extents(step)

    def cache_write(self, tensor: Tensor | str, scope: str | Scope = "local") -> Tensor:
        """The new stage that computes what `tensor` did; `tensor` now copies from it."""
        name, kept = _name(tensor), Scope(scope)
        cache = f"{name}.{kept.value}"
        self.apply(CacheWriteStep(name, cache, kept))
        return self.tensor(cache)

    def cache_read(
        self,
        tensor: Tensor | str,
        readers: Sequence[Tensor | str],
        scope: str | Scope = "local",
        name: str | None = None,
    ) -> Tensor:
        """The new stage that copies `tensor`; `readers` read the copy."""
        kept = Scope(scope)
        cache = name or f"{_name(tensor)}.{kept.value}"
        self.apply(CacheReadStep(_name(tensor), tuple(_name(r) for r in readers), cache, kept))
        return self.tensor(cache)

    def split_reduction(self, tensor: Tensor | str, lanes: int) -> Tensor:
        """The new stage that folds `tensor` in `lanes` parts, its last axis; `tensor` folds them.

        A reduction along contiguous memory is thus vectorized along the parts.
        """
        name = _name(tensor)
        self.apply(SplitReductionStep(name, lanes, f"{name}.parts"))
        return self.tensor(f"{name}.parts")

    def set_layout(self, tensor: Tensor | str, order: Sequence[int | tuple[int, SizeLike]]) -> None:
        """Store `tensor` in `order`, outermost first: `d` is the rest of it, `(d, b)` a block."""
        extents = tuple(o if isinstance(o, int) else (o[0], extent(o[1])) for o in order)
        self.apply(SetLayoutStep(_name(tensor), extents))

    def layout(self, name: str) -> Layout:
        """How a tensor is stored. Requires: no batch."""
        order = self.state.layouts.get(name)
        ndim = self.tensor(name).ndim
        if order is None:
            return Layout.plain(ndim)
        return Layout.blocked(ndim, [o if isinstance(o, int) else (o[0], int(o[1])) for o in order])

    def tensor(self, name: str) -> Tensor:
        """The current tensor called `name`: a stage, or an input of the workload."""
        if name in self.state.stages:
            return self.state.stages[name].tensor
        return self.workload.tensor(name)

    def loop_extent(self, stage: str, loop: str) -> Extent:
        """The extent of a loop if its stage were computed at root."""
        return self._extents[(stage, loop)]

    def __str__(self) -> str:
        return "\n".join(show(step) for step in self.steps) or "# no steps"

    def __repr__(self) -> str:
        return f"Schedule({self.workload!r}, {len(self.steps)} steps)"

    def _note_axes(self, tensor: Tensor) -> None:
        for var, size in zip(tensor.axis, tensor.shape, strict=True):
            self._extents[(tensor.name, var.name)] = size
        for axis in tensor.reduce_axis:
            self._extents[(tensor.name, axis.var.name)] = axis.extent

    def _note_extents(self, step: Step) -> None:
        match step:
            case SplitStep(stage=stage, loop=loop):
                whole = self._extents[(stage, loop)]
                self._extents[(stage, step.outer)] = ceildiv(whole, step.factor)
                self._extents[(stage, step.inner)] = minimum(step.factor, whole)
            case FuseStep(stage=stage):
                first, second = (self._extents[(stage, n)] for n in (step.first, step.second))
                self._extents[(stage, step.fused)] = first * second
            case CacheReadStep() | CacheWriteStep() | SplitReductionStep():
                self._note_axes(self.tensor(step.name))
            case _:
                pass


class Stage:
    """The builder of one stage: each method applies a step and returns the loops it made."""

    def __init__(self, schedule: Schedule, name: str) -> None:
        self._schedule = schedule
        self._name = name

    @property
    def tensor(self) -> Tensor:
        """The tensor the stage computes."""
        return self._schedule.state.stages[self._name].tensor

    @property
    def loops(self) -> tuple[Loop, ...]:
        """The current loops, outermost first."""
        return tuple(self._loop(n) for n in self._schedule.state.stages[self._name].leaves)

    def split(
        self, loop: LoopLike, factor: SizeLike | None = None, nparts: SizeLike | None = None
    ) -> tuple[Loop, Loop]:
        """`(outer, inner)`: inner of extent `factor`, or outer of extent `nparts`."""
        name = _loop_name(loop)
        if factor is not None and nparts is None:
            size = extent(factor)
        elif nparts is not None and factor is None:
            parts = extent(nparts)
            if np.any(np.asarray(parts) < 1):
                raise ScheduleError(f"split {name}: nparts {parts} is less than 1")
            size = ceildiv(self._known_extent(name), parts)
        else:
            raise ScheduleError(f"split {name}: give either factor or nparts")
        outer, inner = self._new_name(f"{name}.o"), self._new_name(f"{name}.i")
        self._schedule.apply(SplitStep(self._name, name, size, outer, inner))
        return self._loop(outer), self._loop(inner)

    def tile(
        self, y: LoopLike, x: LoopLike, y_factor: SizeLike, x_factor: SizeLike
    ) -> tuple[Loop, Loop, Loop, Loop]:
        """Split both loops and reorder to `(y outer, x outer, y inner, x inner)`."""
        yo, yi = self.split(y, y_factor)
        xo, xi = self.split(x, x_factor)
        self.reorder(yo, xo, yi, xi)
        return yo, xo, yi, xi

    def fuse(self, first: LoopLike, second: LoopLike, *more: LoopLike) -> Loop:
        """Fuse adjacent loops, given outermost first, into one."""
        fused = _loop_name(first)
        for loop in (second, *more):
            other = _loop_name(loop)
            name = self._new_name(f"{fused}+{other.rpartition('.')[2] or other}")
            self._schedule.apply(FuseStep(self._name, fused, other, name))
            fused = name
        return self._loop(fused)

    def reorder(self, *loops: LoopLike) -> None:
        """Put the named loops in this order; the others stay where they are."""
        self._schedule.apply(ReorderStep(self._name, tuple(_loop_name(n) for n in loops)))

    def vectorize(self, loop: LoopLike) -> None:
        """Run the iterations as lanes of vectors."""
        self._annotate(loop, LoopKind.VECTORIZED)

    def unroll(self, loop: LoopLike) -> None:
        """Replace the loop with copies of its body."""
        self._annotate(loop, LoopKind.UNROLLED)

    def parallel(self, loop: LoopLike) -> None:
        """Spread the iterations over the threads."""
        self._annotate(loop, LoopKind.PARALLEL)

    def compute_at(self, consumer: Tensor | str | Stage, loop: LoopLike) -> None:
        """Compute, in each iteration of the consumer's `loop`, only what is read there."""
        name = consumer._name if isinstance(consumer, Stage) else _name(consumer)
        self._schedule.apply(ComputeAtStep(self._name, name, _loop_name(loop)))

    def compute_inline(self) -> None:
        """Replace every read with the body."""
        self._schedule.apply(ComputeInlineStep(self._name))

    def compute_root(self) -> None:
        """Compute the whole tensor before its readers start."""
        self._schedule.apply(ComputeRootStep(self._name))

    def set_scope(self, scope: str | Scope) -> None:
        """Keep the stage's buffer in `scope`."""
        self._schedule.apply(SetScopeStep(self._name, Scope(scope)))

    def _annotate(self, loop: LoopLike, kind: LoopKind) -> None:
        self._schedule.apply(AnnotateStep(self._name, _loop_name(loop), kind))

    def _loop(self, name: str) -> Loop:
        return Loop(self._name, name, size_of(self._schedule.loop_extent(self._name, name)))

    def _new_name(self, wanted: str) -> str:
        """`wanted`, with primes where the stage has had a loop of that name."""
        known = self._schedule.state.stages[self._name].loop_names
        while wanted in known:
            wanted += "'"
        return wanted

    def _known_extent(self, loop: str) -> Extent:
        if loop not in self._schedule.state.stages[self._name].leaves:
            raise ScheduleError(f"{self._name} has no loop {loop} (now)")
        return self._schedule.loop_extent(self._name, loop)


def create_schedule(of: Workload | Tensor | Iterable[Tensor]) -> Schedule:
    """A schedule with no steps, of a workload or of output tensors."""
    if isinstance(of, Workload):
        return Schedule(of)
    return Schedule(workload(of if isinstance(of, Tensor) else tuple(of)))


def replay(of: Workload, steps: Iterable[Step]) -> Schedule:
    """The schedule that `steps` make of a workload. Raises: ScheduleError for an illegal one."""
    schedule = Schedule(of)
    for step in steps:
        schedule.apply(step)
    return schedule


def load(of: Workload, text: str) -> Schedule:
    """The schedule whose steps `text` shows, as `str(schedule)` gives them.

    Raises: ScheduleError for a line that is not a step, or an illegal step.
    """
    return replay(of, parse_all(text))


def _name(tensor: Tensor | str) -> str:
    return tensor if isinstance(tensor, str) else tensor.name


def _loop_name(loop: LoopLike) -> str:
    if isinstance(loop, str):
        return loop
    return loop.var.name if isinstance(loop, ReduceAxis) else loop.name

"""The state after some steps: stages with loops, attach points, scopes and layouts.

`apply` is pure: it makes a new state. It trusts its step; `legal.refuse` checks it first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from loopwright.ir import walk
from loopwright.ir.expr import Buffer, Expr, Load, Reduce, Scope, Var
from loopwright.ir.stmt import LoopKind
from loopwright.sched import reductions
from loopwright.sched.extent import Extent
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
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload


@dataclass(frozen=True, slots=True)
class Root:
    """Computed at the top level, all of it."""


@dataclass(frozen=True, slots=True)
class Inline:
    """Inlined: replaced by its body."""


@dataclass(frozen=True, slots=True)
class At:
    """Computed inside a loop of another stage."""

    stage: str
    loop: str


Attach: TypeAlias = Root | Inline | At
LayoutOrder: TypeAlias = tuple[int | tuple[int, Extent], ...]


@dataclass(frozen=True, slots=True, eq=False)
class StageState:
    """One stage. `leaves` are its loops, outermost first; `relations` say how they were made."""

    tensor: Tensor
    leaves: tuple[str, ...]
    relations: tuple[SplitStep | FuseStep, ...] = ()
    kinds: tuple[tuple[str, LoopKind], ...] = ()
    attach: Attach = Root()
    scope: Scope = Scope.GLOBAL

    @property
    def op(self) -> Compute:
        """The computation of the stage."""
        op = self.tensor.op
        if not isinstance(op, Compute):
            raise TypeError(f"{self.tensor.name} is an input, not a stage")
        return op

    @property
    def reduce_names(self) -> frozenset[str]:
        """The loops, former and present, that come from reduce axes."""
        names = {axis.var.name for axis in self.op.reduce_axes}
        for relation in self.relations:
            if isinstance(relation, SplitStep) and relation.loop in names:
                names |= {relation.outer, relation.inner}
            elif isinstance(relation, FuseStep) and relation.first in names:
                names.add(relation.fused)
        return frozenset(names)

    @property
    def loop_names(self) -> frozenset[str]:
        """The names of all loops, including those split or fused away."""
        names = set(initial_loops(self.tensor))
        for relation in self.relations:
            names |= (
                {relation.outer, relation.inner}
                if isinstance(relation, SplitStep)
                else {relation.fused}
            )
        return frozenset(names)

    def kind(self, loop: str) -> LoopKind:
        """How a loop runs."""
        return dict(self.kinds).get(loop, LoopKind.SERIAL)


@dataclass(frozen=True, slots=True, eq=False)
class ScheduleState:
    """All stages, each after what it reads, and the layouts that were set."""

    workload: Workload
    stages: Mapping[str, StageState]
    layouts: Mapping[str, LayoutOrder]

    def readers(self, tensor: str) -> tuple[str, ...]:
        """The stages whose bodies read `tensor`."""
        return tuple(
            name
            for name, stage in self.stages.items()
            if any(t.name == tensor for t in stage.tensor.inputs)
        )

    def is_output(self, name: str) -> bool:
        """True for a tensor that the workload returns."""
        return any(t.name == name for t in self.workload.outputs)

    def with_stage(self, name: str, stage: StageState) -> ScheduleState:
        """The state with one stage replaced."""
        return replace(self, stages={**self.stages, name: stage})


def initial(workload: Workload) -> ScheduleState:
    """Every stage at root, with its initial loops."""
    return ScheduleState(workload, {t.name: _fresh(t) for t in workload.stages}, {})


def initial_loops(tensor: Tensor) -> tuple[str, ...]:
    """One loop per axis: spatial axes first, then reduce axes."""
    return (*(v.name for v in tensor.axis), *(a.var.name for a in tensor.reduce_axis))


def _fresh(tensor: Tensor, scope: Scope = Scope.GLOBAL) -> StageState:
    return StageState(tensor, initial_loops(tensor), scope=scope)


def apply(state: ScheduleState, step: Step) -> ScheduleState:
    """The state after `step`. Requires: `legal.refuse(state, step)` is None."""
    match step:
        case CacheReadStep():
            return _cache_read(state, step)
        case CacheWriteStep():
            return _cache_write(state, step)
        case SplitReductionStep():
            return _split_reduction(state, step)
        case SetLayoutStep():
            return replace(state, layouts={**state.layouts, step.tensor: step.order})
        case _:
            stage = state.stages[step.stage]
            return state.with_stage(step.stage, _apply_to_stage(stage, step))


_StageStep: TypeAlias = (
    SplitStep
    | FuseStep
    | ReorderStep
    | AnnotateStep
    | ComputeAtStep
    | ComputeInlineStep
    | ComputeRootStep
    | SetScopeStep
)


def _apply_to_stage(stage: StageState, step: _StageStep) -> StageState:
    match step:
        case SplitStep():
            leaves = _replace(stage.leaves, (step.loop,), (step.outer, step.inner))
            return replace(stage, leaves=leaves, relations=(*stage.relations, step))
        case FuseStep():
            leaves = _replace(stage.leaves, (step.first, step.second), (step.fused,))
            return replace(stage, leaves=leaves, relations=(*stage.relations, step))
        case ReorderStep():
            wanted = iter(step.loops)
            leaves = tuple(next(wanted) if n in step.loops else n for n in stage.leaves)
            return replace(stage, leaves=leaves)
        case AnnotateStep():
            others = tuple((n, k) for n, k in stage.kinds if n != step.loop)
            return replace(stage, kinds=(*others, (step.loop, step.kind)))
        case ComputeAtStep():
            return replace(stage, attach=At(step.consumer, step.loop))
        case ComputeInlineStep():
            return replace(stage, attach=Inline())
        case ComputeRootStep():
            return replace(stage, attach=Root())
        case SetScopeStep():
            return replace(stage, scope=step.scope)
        case _:
            assert_never(step)


def _replace(
    leaves: tuple[str, ...], old: tuple[str, ...], new: tuple[str, ...]
) -> tuple[str, ...]:
    place = leaves.index(old[0])
    return (*leaves[:place], *new, *leaves[place + len(old) :])


def _cache_read(state: ScheduleState, step: CacheReadStep) -> ScheduleState:
    source = _tensor(state, step.tensor)
    axes = tuple(Var(f"{step.name}.{_axis_name(source, d)}") for d in range(source.ndim))
    copy = Tensor(step.name, source.dtype, source.shape, op=Compute(axes, Load(source, axes)))
    stages: dict[str, StageState] = {}
    for name, stage in state.stages.items():
        if name in step.readers:
            if step.name not in stages:
                stages[step.name] = _fresh(copy, step.scope)
            stages[name] = replace(stage, tensor=_reading(stage.tensor, {step.tensor: copy}))
        else:
            stages[name] = stage
    return replace(state, stages=stages)


def _cache_write(state: ScheduleState, step: CacheWriteStep) -> ScheduleState:
    stage = state.stages[step.tensor]
    axes = tuple(Var(f"{step.name}.{v.name.rpartition('.')[2]}") for v in stage.op.axes)
    renamed = {old.name: new for old, new in zip(stage.op.axes, axes, strict=True)}
    source = stage.tensor
    body = _substitute_body(stage.op.body, renamed)
    cache = Tensor(step.name, source.dtype, source.shape, op=Compute(axes, body))
    copy = replace(source, op=Compute(stage.op.axes, Load(cache, stage.op.axes)))
    stages: dict[str, StageState] = {}
    for name, other in state.stages.items():
        if name == step.tensor:
            stages[step.name] = _fresh(cache, step.scope)
            stages[name] = replace(_fresh(copy), attach=stage.attach, scope=stage.scope)
        else:
            stages[name] = other
    return replace(state, stages=stages)


def _split_reduction(state: ScheduleState, step: SplitReductionStep) -> ScheduleState:
    stage = state.stages[step.tensor]
    parts = reductions.parts(stage.tensor, step.lanes, step.name)
    whole = replace(_fresh(reductions.folded(stage.tensor, parts)), attach=stage.attach)
    stages: dict[str, StageState] = {}
    for name, other in state.stages.items():
        if name == step.tensor:
            stages[step.name] = _fresh(parts, Scope.LOCAL)
            stages[name] = replace(whole, scope=stage.scope)
        else:
            stages[name] = other
    return replace(state, stages=stages)


def _substitute_body(body: Expr, renamed: Mapping[str, Expr]) -> Expr:
    if isinstance(body, Reduce):
        return replace(body, body=walk.substitute(body.body, renamed))
    return walk.substitute(body, renamed)


def _reading(tensor: Tensor, sources: Mapping[str, Buffer]) -> Tensor:
    """`tensor` with its reads of the named tensors redirected to others of the same shape."""

    def turn(expr: Expr) -> Expr:
        if isinstance(expr, Load) and expr.buffer.name in sources:
            return Load(sources[expr.buffer.name], expr.indices)
        return expr

    op = tensor.op
    if not isinstance(op, Compute):
        return tensor
    return replace(tensor, op=replace(op, body=walk.rewrite_expr(op.body, turn)))


def _tensor(state: ScheduleState, name: str) -> Tensor:
    if name in state.stages:
        return state.stages[name].tensor
    return state.workload.tensor(name)


def _axis_name(tensor: Tensor, dim: int) -> str:
    return tensor.axis[dim].name.rpartition(".")[2] if tensor.axis else f"i{dim}"

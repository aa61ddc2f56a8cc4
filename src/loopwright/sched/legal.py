"""Whether a step may be applied to a state: the reason why not, or None.

Only steps that can never be right are refused. Search relies on refusals being returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched.state import At, Inline, ScheduleState, StageState, initial_loops
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

Reason: TypeAlias = str


def refuse(state: ScheduleState, step: Step) -> Reason | None:
    """Why `step` is illegal in `state`, or None."""
    return _RULES[type(step)](state, step)


def _refuse_split(state: ScheduleState, step: SplitStep) -> Reason | None:
    reason = _unknown_stage(state, step.stage) or _fixed_loop(state, step.stage, step.loop)
    if reason is not None:
        return reason
    if (np.asarray(step.factor) < 1).any():
        return f"the factor {step.factor} is less than 1"
    if step.outer == step.inner:
        return f"both new loops are called {step.outer}"
    return _taken(state.stages[step.stage], (step.outer, step.inner))


def _refuse_fuse(state: ScheduleState, step: FuseStep) -> Reason | None:
    reason = (
        _unknown_stage(state, step.stage)
        or _fixed_loop(state, step.stage, step.first)
        or _fixed_loop(state, step.stage, step.second)
    )
    if reason is not None:
        return reason
    stage = state.stages[step.stage]
    place = stage.leaves.index(step.first)
    if stage.leaves[place + 1 : place + 2] != (step.second,):
        return f"{step.second} is not the loop right inside {step.first}; reorder first"
    if (step.first in stage.reduce_names) != (step.second in stage.reduce_names):
        return f"{step.first} and {step.second} are a spatial and a reduce loop"
    return _taken(stage, (step.fused,))


def _refuse_reorder(state: ScheduleState, step: ReorderStep) -> Reason | None:
    reason = _unknown_stage(state, step.stage)
    if reason is not None:
        return reason
    for loop in step.loops:
        reason = _unknown_loop(state.stages[step.stage], loop)
        if reason is not None:
            return reason
    if len(set(step.loops)) != len(step.loops):
        return f"a loop is named twice in {', '.join(step.loops)}"
    return None


def _refuse_annotate(state: ScheduleState, step: AnnotateStep) -> Reason | None:
    reason = _unknown_stage(state, step.stage)
    if reason is not None:
        return reason
    stage = state.stages[step.stage]
    reason = _unknown_loop(stage, step.loop)
    if reason is not None:
        return reason
    if step.kind in (LoopKind.VECTORIZED, LoopKind.PARALLEL) and step.loop in stage.reduce_names:
        return f"{step.loop} is a reduce loop, whose iterations depend on each other"
    if step.kind is LoopKind.VECTORIZED:
        others = [n for n, k in stage.kinds if k is LoopKind.VECTORIZED and n != step.loop]
        if others:
            return f"{others[0]} is vectorized already; a stage has one vectorized loop"
    return None


def _refuse_compute_at(state: ScheduleState, step: ComputeAtStep) -> Reason | None:
    reason = _unknown_stage(state, step.stage) or _unknown_stage(state, step.consumer)
    if reason is not None:
        return reason
    if state.is_output(step.stage):
        return f"{step.stage} is an output, which is computed at root"
    consumer = state.stages[step.consumer]
    if isinstance(consumer.attach, Inline):
        return f"{step.consumer} is inlined and has no loops; compute {step.stage} at its reader"
    reason = _unknown_loop(consumer, step.loop)
    if reason is not None:
        return reason
    if step.stage in _inside(state, step.consumer):
        return f"{step.stage} would be computed inside itself"
    return None if state.readers(step.stage) else f"nothing reads {step.stage}"


def _inside(state: ScheduleState, name: str) -> list[str]:
    """`name`, the stage it is computed in, the stage that one is computed in, and so on."""
    found = [name]
    while isinstance(attach := state.stages[found[-1]].attach, At):
        found.append(attach.stage)
    return found


def _refuse_inline(state: ScheduleState, step: ComputeInlineStep) -> Reason | None:
    name = step.stage
    reason = _unknown_stage(state, name)
    if reason is not None:
        return reason
    if state.is_output(name):
        return f"{name} is an output, which must be computed"
    if state.stages[name].tensor.is_reduction:
        return f"{name} is a reduction, which cannot be inlined; use compute_at"
    inside = [n for n, _ in _attached(state, name)]
    return f"{inside[0]} is computed inside {name}" if inside else None


def _refuse_root(state: ScheduleState, step: ComputeRootStep) -> Reason | None:
    return _unknown_stage(state, step.stage)


def _refuse_scope(state: ScheduleState, step: SetScopeStep) -> Reason | None:
    if state.is_output(step.stage) and step.scope is not Scope.GLOBAL:
        return f"{step.stage} is an output, which must stay in {Scope.GLOBAL.value} memory"
    return _unknown_stage(state, step.stage)


def _refuse_cache_read(state: ScheduleState, step: CacheReadStep) -> Reason | None:
    names = _tensor_names(state)
    if step.name in names:
        return f"there is a tensor {step.name} already"
    if step.tensor not in names:
        return f"there is no tensor {step.tensor}; the tensors are {', '.join(names)}"
    if not step.readers:
        return "name at least one reader"
    for reader in step.readers:
        if reader not in state.readers(step.tensor):
            return f"{reader} does not read {step.tensor}"
    return None


def _refuse_cache_write(state: ScheduleState, step: CacheWriteStep) -> Reason | None:
    return _refuse_new_stage(state, step.tensor, step.name, "cache_write")


def _refuse_split_reduction(state: ScheduleState, step: SplitReductionStep) -> Reason | None:
    reason = _refuse_new_stage(state, step.tensor, step.name, "split_reduction")
    if reason is not None:
        return reason
    if not state.stages[step.tensor].tensor.is_reduction:
        return f"{step.tensor} is not a reduction"
    return None if step.lanes > 1 else f"{step.lanes} lanes are less than 2"


def _refuse_new_stage(state: ScheduleState, tensor: str, name: str, call: str) -> Reason | None:
    """Why the body of `tensor` cannot move to a new stage `name`."""
    reason = _unknown_stage(state, tensor)
    if reason is not None:
        return reason
    if name in _tensor_names(state):
        return f"there is a tensor {name} already"
    stage = state.stages[tensor]
    if isinstance(stage.attach, Inline):
        return f"{tensor} is inlined"
    if stage.kinds or stage.leaves != initial_loops(stage.tensor):
        return f"{tensor} has scheduled loops already; call {call} before them"
    inside = [n for n, _ in _attached(state, tensor)]
    if inside:
        return f"{inside[0]} is computed inside {tensor}; call {call} before compute_at"
    return None


def _refuse_layout(state: ScheduleState, step: SetLayoutStep) -> Reason | None:
    names = _tensor_names(state)
    if step.tensor not in names:
        return f"there is no tensor {step.tensor}; the tensors are {', '.join(names)}"
    ndim = names[step.tensor]
    plain = [o for o in step.order if isinstance(o, int)]
    if sorted(plain) != list(range(ndim)):
        return f"the order must name each of the {ndim} dimensions of {step.tensor} once unblocked"
    for place, item in enumerate(step.order):
        if isinstance(item, int):
            continue
        dim, block = item
        if not 0 <= dim < ndim or (np.asarray(block) < 1).any():
            return f"the block {item} is not (dimension, size >= 1)"
        if dim not in step.order[:place]:
            return f"the block {item} stands in front of dimension {dim}, of which it is a part"
    return None


# One row per step class.
_RULES: Mapping[type, Callable[[ScheduleState, Any], Reason | None]] = {
    SplitStep: _refuse_split,
    FuseStep: _refuse_fuse,
    ReorderStep: _refuse_reorder,
    AnnotateStep: _refuse_annotate,
    ComputeAtStep: _refuse_compute_at,
    ComputeInlineStep: _refuse_inline,
    ComputeRootStep: _refuse_root,
    SetScopeStep: _refuse_scope,
    SetLayoutStep: _refuse_layout,
    CacheReadStep: _refuse_cache_read,
    CacheWriteStep: _refuse_cache_write,
    SplitReductionStep: _refuse_split_reduction,
}


def _unknown_stage(state: ScheduleState, name: str) -> Reason | None:
    if name in state.stages:
        return None
    return f"there is no stage {name}; the stages are {', '.join(state.stages)}"


def _unknown_loop(stage: StageState, loop: str) -> Reason | None:
    if loop in stage.leaves:
        return None
    return f"{stage.tensor.name} has no loop {loop} (now); its loops are {', '.join(stage.leaves)}"


def _fixed_loop(state: ScheduleState, name: str, loop: str) -> Reason | None:
    """Why a loop of a known stage cannot be replaced by others."""
    stage = state.stages[name]
    unknown = _unknown_loop(stage, loop)
    if unknown is not None:
        return unknown
    if stage.kind(loop) is not LoopKind.SERIAL:
        return f"{loop} is {stage.kind(loop).value} already; shape loops before annotating them"
    inside = [n for n, at in _attached(state, name) if at == loop]
    if inside:
        return f"{inside[0]} is computed at {loop}; shape loops before compute_at"
    return None


def _taken(stage: StageState, names: Iterable[str]) -> Reason | None:
    known = stage.loop_names
    for name in names:
        if name in known:
            return f"{stage.tensor.name} has, or had, a loop {name}; choose another name"
    return None


def _attached(state: ScheduleState, consumer: str) -> list[tuple[str, str]]:
    """(stage, loop) of each stage computed in a loop of `consumer`."""
    return [
        (name, stage.attach.loop)
        for name, stage in state.stages.items()
        if isinstance(stage.attach, At) and stage.attach.stage == consumer
    ]


def _tensor_names(state: ScheduleState) -> dict[str, int]:
    """Dimensions of every tensor by name: inputs, then stages."""
    found = {t.name: t.ndim for t in state.workload.inputs}
    return found | {name: stage.tensor.ndim for name, stage in state.stages.items()}

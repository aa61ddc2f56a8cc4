"""Whether a step may be applied to a state: a reason in words, or None.

Only what can never be right is refused here. Search relies on refusals being returned, not raised.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

import numpy as np

from loopwright.ir.expr import Reduce, Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched.state import At, Inline, StageState, State
from loopwright.sched.steps import (
    Annotate,
    CacheRead,
    CacheWrite,
    ComputeAt,
    ComputeInline,
    ComputeRoot,
    Fuse,
    Reorder,
    SetLayout,
    SetScope,
    Split,
    Step,
)

Reason: TypeAlias = str


def refuse(state: State, step: Step) -> Reason | None:
    """Why `step` is illegal in `state`, or None."""
    match step:
        case CacheRead():
            return _refuse_cache_read(state, step)
        case SetLayout():
            return _refuse_layout(state, step)
        case CacheWrite():
            return _unknown_stage(state, step.tensor) or _refuse_cache_write(state, step)
        case _:
            pass
    unknown = _unknown_stage(state, step.stage)
    if unknown is not None:
        return unknown
    stage = state.stages[step.stage]
    match step:
        case Split():
            return _refuse_split(stage, step)
        case Fuse():
            return _refuse_fuse(stage, step)
        case Reorder():
            return _refuse_reorder(stage, step)
        case Annotate():
            return _refuse_annotate(stage, step)
        case ComputeAt():
            return _refuse_compute_at(state, step)
        case ComputeInline():
            return _refuse_inline(state, stage)
        case ComputeRoot():
            return None
        case SetScope():
            if state.is_output(step.stage) and step.scope is not Scope.GLOBAL:
                return f"{step.stage} is an output, which must stay in {Scope.GLOBAL.value} memory"
            return None
        case _:
            assert_never(step)


def _unknown_stage(state: State, name: str) -> Reason | None:
    if name in state.stages:
        return None
    return f"there is no stage {name}; the stages are {', '.join(state.stages)}"


def _unknown_loop(stage: StageState, loop: str) -> Reason | None:
    if loop in stage.leaves:
        return None
    return f"{stage.tensor.name} has no loop {loop} (now); its loops are {', '.join(stage.leaves)}"


def _refuse_split(stage: StageState, step: Split) -> Reason | None:
    if (np.asarray(step.factor) < 1).any():
        return f"the factor {step.factor} is less than 1"
    if stage.kind(step.loop) is not LoopKind.SERIAL:
        return f"{step.loop} is {stage.kind(step.loop).value} already; split it before annotating"
    return _unknown_loop(stage, step.loop)


def _refuse_fuse(stage: StageState, step: Fuse) -> Reason | None:
    unknown = _unknown_loop(stage, step.first) or _unknown_loop(stage, step.second)
    if unknown is not None:
        return unknown
    place = stage.leaves.index(step.first)
    if stage.leaves[place + 1 : place + 2] != (step.second,):
        return f"{step.second} is not the loop right inside {step.first}; reorder first"
    if (step.first in stage.reduce_names) != (step.second in stage.reduce_names):
        return f"{step.first} and {step.second} are a spatial and a reduce loop"
    return None


def _refuse_reorder(stage: StageState, step: Reorder) -> Reason | None:
    for loop in step.loops:
        unknown = _unknown_loop(stage, loop)
        if unknown is not None:
            return unknown
    if len(set(step.loops)) != len(step.loops):
        return f"a loop is named twice in {', '.join(step.loops)}"
    return None


def _refuse_annotate(stage: StageState, step: Annotate) -> Reason | None:
    unknown = _unknown_loop(stage, step.loop)
    if unknown is not None:
        return unknown
    if step.kind in (LoopKind.VECTORIZED, LoopKind.PARALLEL) and step.loop in stage.reduce_names:
        return f"{step.loop} is a reduce loop, whose iterations depend on each other"
    if step.kind is LoopKind.VECTORIZED:
        others = [n for n, k in stage.kinds if k is LoopKind.VECTORIZED and n != step.loop]
        if others:
            return f"{others[0]} is vectorized already; a stage has one vectorized loop"
    return None


def _refuse_compute_at(state: State, step: ComputeAt) -> Reason | None:
    if state.is_output(step.stage):
        return f"{step.stage} is an output, which is computed at root"
    unknown = _unknown_stage(state, step.consumer)
    if unknown is not None:
        return unknown
    unknown = _unknown_loop(state.stages[step.consumer], step.loop)
    if unknown is not None:
        return unknown
    consumer = step.consumer
    seen = {step.stage}
    while True:  # walk outwards: the consumer must not itself be computed inside the stage
        if consumer in seen:
            return f"{step.stage} would be computed inside itself"
        seen.add(consumer)
        attach = state.stages[consumer].attach
        if not isinstance(attach, At):
            break
        consumer = attach.stage
    readers = state.readers(step.stage)
    if not readers:
        return f"nothing reads {step.stage}"
    return None


def _refuse_inline(state: State, stage: StageState) -> Reason | None:
    name = stage.tensor.name
    if state.is_output(name):
        return f"{name} is an output, which must be computed"
    if isinstance(stage.op.body, Reduce):
        return f"{name} is a reduction, which cannot be inlined; use compute_at"
    for other in state.stages.values():
        if isinstance(other.attach, At) and other.attach.stage == name:
            return f"{other.tensor.name} is computed inside {name}"
    return None


def _refuse_cache_read(state: State, step: CacheRead) -> Reason | None:
    if step.name in state.stages:
        return f"there is a stage {step.name} already"
    names = [t.name for t in (*state.workload.inputs, *state.workload.stages)]
    if step.tensor not in state.stages and step.tensor not in names:
        return f"there is no tensor {step.tensor}; the tensors are {', '.join(names)}"
    if not step.readers:
        return "name at least one reader"
    for reader in step.readers:
        if reader not in state.readers(step.tensor):
            return f"{reader} does not read {step.tensor}"
    return None


def _refuse_cache_write(state: State, step: CacheWrite) -> Reason | None:
    if step.name in state.stages:
        return f"there is a stage {step.name} already"
    stage = state.stages[step.tensor]
    if stage.relations or stage.kinds:
        return f"{step.tensor} has scheduled loops already; call cache_write before them"
    if isinstance(stage.attach, Inline):
        return f"{step.tensor} is inlined"
    return None


def _refuse_layout(state: State, step: SetLayout) -> Reason | None:
    tensors = {t.name: t for t in state.workload.inputs}
    tensors |= {name: s.tensor for name, s in state.stages.items()}
    if step.tensor not in tensors:
        return f"there is no tensor {step.tensor}; the tensors are {', '.join(tensors)}"
    ndim = tensors[step.tensor].ndim
    plain = sorted(o for o in step.order if isinstance(o, int))
    if plain != list(range(ndim)):
        return f"the order must name each of the {ndim} dimensions of {step.tensor} once unblocked"
    for item in step.order:
        if not isinstance(item, int):
            dim, block = item
            if not 0 <= dim < ndim or (np.asarray(block) < 1).any():
                return f"the block {item} is not (dimension, size >= 1)"
    return None

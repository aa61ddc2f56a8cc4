"""Schedule steps: frozen data, one class a primitive.

A stage is named by its tensor, a loop by its name in the stage. Sizes are ints, or int64 arrays in a
batch. `text` prints a step on one line; a schedule is the workload and a tuple of steps, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched.extent import Extent


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """`for loop` -> `for outer: for inner` with inner of extent `factor`.

    Rewrite: loop = outer * factor + inner; iterations past the extent are guarded away.
    """

    stage: str
    loop: str
    factor: Extent
    outer: str
    inner: str


@dataclass(frozen=True, slots=True, eq=False)
class Fuse:
    """`for first: for second` -> `for fused`, first = fused // extent(second), second = the rest."""

    stage: str
    first: str
    second: str
    fused: str


@dataclass(frozen=True, slots=True, eq=False)
class Reorder:
    """The named loops take, in this order, the places that they hold together."""

    stage: str
    loops: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Annotate:
    """The loop runs as `kind`."""

    stage: str
    loop: str
    kind: LoopKind


@dataclass(frozen=True, slots=True, eq=False)
class ComputeAt:
    """The stage computes, in each iteration of `consumer`'s `loop`, just what is read there."""

    stage: str
    consumer: str
    loop: str


@dataclass(frozen=True, slots=True, eq=False)
class ComputeInline:
    """The stage's body replaces every read of it."""

    stage: str


@dataclass(frozen=True, slots=True, eq=False)
class ComputeRoot:
    """The stage computes all of its tensor before its readers start."""

    stage: str


@dataclass(frozen=True, slots=True, eq=False)
class SetScope:
    """The stage's buffer lives in `scope`."""

    stage: str
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class SetLayout:
    """The tensor (stage, input or output) is stored in the order given by `order` (see `Layout.blocked`)."""

    tensor: str
    order: tuple[int | tuple[int, Extent], ...]


@dataclass(frozen=True, slots=True, eq=False)
class CacheRead:
    """`readers` read `tensor` through a copy, the new stage `name`."""

    tensor: str
    readers: tuple[str, ...]
    name: str
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class CacheWrite:
    """The stage's body moves to the new stage `name`; the stage itself copies from it."""

    tensor: str
    name: str
    scope: Scope


Step: TypeAlias = (
    Split
    | Fuse
    | Reorder
    | Annotate
    | ComputeAt
    | ComputeInline
    | ComputeRoot
    | SetScope
    | SetLayout
    | CacheRead
    | CacheWrite
)


def text(step: Step) -> str:
    """The step on one line, as a person would write it."""
    match step:
        case Split():
            return f"{step.outer}, {step.inner} = split {step.loop} by {_size(step.factor)}"
        case Fuse():
            return f"{step.fused} = fuse {step.first}, {step.second}"
        case Reorder():
            return f"reorder {', '.join(step.loops)}"
        case Annotate():
            return f"{_VERBS[step.kind]} {step.loop}"
        case ComputeAt():
            return f"compute {step.stage} at {step.consumer} in {step.loop}"
        case ComputeInline():
            return f"inline {step.stage}"
        case ComputeRoot():
            return f"compute {step.stage} at root"
        case SetScope():
            return f"keep {step.stage} in {step.scope.value}"
        case SetLayout():
            order = " ".join(
                str(o) if isinstance(o, int) else f"{o[0]}:{_size(o[1])}" for o in step.order
            )
            return f"store {step.tensor} as {order}"
        case CacheRead():
            readers = ", ".join(step.readers)
            return f"{step.name} = cache read of {step.tensor} for {readers} in {step.scope.value}"
        case CacheWrite():
            return f"{step.name} = cache write of {step.tensor} in {step.scope.value}"


_VERBS = {
    LoopKind.SERIAL: "serial",
    LoopKind.PARALLEL: "parallel",
    LoopKind.VECTORIZED: "vectorize",
    LoopKind.UNROLLED: "unroll",
}


def _size(size: Extent) -> str:
    if isinstance(size, np.ndarray):
        return f"<{size.size} sizes>"
    return str(size)

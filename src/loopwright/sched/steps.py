"""Schedule steps: frozen data, one class per primitive.

A stage is named by its tensor, a loop by its name in the stage. Sizes are ints, or int64 arrays in
a batch. `text.show` prints a step on one line; a schedule is the workload and a tuple of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched.extent import Extent


@dataclass(frozen=True, slots=True, eq=False)
class SplitStep:
    """`for loop` -> `for outer: for inner` with inner of extent `factor`.

    Rewrite: loop = outer * factor + inner; iterations past the extent are guarded away.
    """

    stage: str
    loop: str
    factor: Extent
    outer: str
    inner: str


@dataclass(frozen=True, slots=True, eq=False)
class FuseStep:
    """`for first: for second` -> `for fused`.

    Rewrite: first = fused // extent(second), second = fused % extent(second).
    """

    stage: str
    first: str
    second: str
    fused: str


@dataclass(frozen=True, slots=True, eq=False)
class ReorderStep:
    """The named loops are put in this order in the positions that they hold together."""

    stage: str
    loops: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AnnotateStep:
    """The loop runs as `kind`."""

    stage: str
    loop: str
    kind: LoopKind


@dataclass(frozen=True, slots=True, eq=False)
class ComputeAtStep:
    """The stage computes, in each iteration of `consumer`'s `loop`, only what is read there."""

    stage: str
    consumer: str
    loop: str


@dataclass(frozen=True, slots=True, eq=False)
class ComputeInlineStep:
    """The stage's body replaces every read of it."""

    stage: str


@dataclass(frozen=True, slots=True, eq=False)
class ComputeRootStep:
    """The stage computes all of its tensor before its readers start."""

    stage: str


@dataclass(frozen=True, slots=True, eq=False)
class SetScopeStep:
    """The stage's buffer lives in `scope`."""

    stage: str
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class SetLayoutStep:
    """The tensor (stage, input or output) is stored as `order` says; see `Layout.blocked`."""

    tensor: str
    order: tuple[int | tuple[int, Extent], ...]


@dataclass(frozen=True, slots=True, eq=False)
class CacheReadStep:
    """`readers` read `tensor` through a copy, the new stage `name`."""

    tensor: str
    readers: tuple[str, ...]
    name: str
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class CacheWriteStep:
    """The stage's body moves to the new stage `name`; the stage itself copies from it."""

    tensor: str
    name: str
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class SplitReductionStep:
    """The reduction `tensor` is folded in `lanes` parts by the new stage `name`, then as a whole.

    Rewrite: T[i] = fold(k) f(i, k) -> N[i, l] = fold(o) f(i, o * lanes + l), T[i] = the fold of
    N[i, 0], ..., N[i, lanes - 1] in one expression. k is all reduce axes as one, the last one
    innermost.
    """

    tensor: str
    lanes: int
    name: str


Step: TypeAlias = (
    SplitStep
    | FuseStep
    | ReorderStep
    | AnnotateStep
    | ComputeAtStep
    | ComputeInlineStep
    | ComputeRootStep
    | SetScopeStep
    | SetLayoutStep
    | CacheReadStep
    | CacheWriteStep
    | SplitReductionStep
)

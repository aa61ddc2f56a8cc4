"""The loops of a stage in memory order, and how far each moves every tensor it touches.

An axis is cut into *parts* where its own layout, or that of a tensor read along it, has a block:
then every index is a sum of parts, without quotients and remainders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loopwright.ir import walk
from loopwright.ir.expr import Binary, Expr, Load, Op, Reduce, Select, Var, const
from loopwright.ir.simplify import affine
from loopwright.layout import Layout
from loopwright.sched.schedule import Schedule
from loopwright.te.tensor import Tensor

REDUCED = "fold"
"""The variable of all reduce axes of a stage, flattened."""


@dataclass(frozen=True, slots=True)
class LoopPart:
    """A piece of axis `dim`: `extent` steps of `stride` elements each.

    It is `exact` when the parts of its axis cover no more than its elements. An `own` part comes
    from the layout of the stage itself.
    """

    dim: int
    stride: int
    extent: int
    exact: bool
    own: bool

    @property
    def name(self) -> str:
        """The name of its variable in strides."""
        return f"{self.dim}/{self.stride}"


@dataclass(frozen=True, slots=True)
class TensorReach:
    """How a tensor is accessed: the stride of each variable, in elements of memory.

    `strides` is None when the address is not affine in the variables; `names` are those it uses.
    """

    tensor: str
    size: int
    strides: Mapping[str, int] | None
    names: frozenset[str]

    def stride(self, name: str) -> int | None:
        """How many elements one step of `name` moves by; None if unknown."""
        if self.strides is None:
            return None if name in self.names else 0
        return self.strides.get(name, 0)


@dataclass(frozen=True, slots=True)
class Touches:
    """The accesses of a stage, the write first, and the variables that conditions depend on."""

    reaches: tuple[TensorReach, ...]
    tested: frozenset[str]

    def collapses(self, outer: LoopPart, inner: LoopPart) -> bool:
        """True when both can be one loop that moves every tensor by a constant stride."""
        names = {outer.name, inner.name}
        if not (outer.exact and inner.exact) or names & self.tested:
            return False
        for reach in self.reaches:
            steps = (reach.stride(outer.name), reach.stride(inner.name))
            if steps[0] is None or steps[1] is None or steps[0] != steps[1] * inner.extent:
                return False
        return True


def parts_of(s: Schedule, tensor: Tensor, bodies: Sequence[Expr]) -> list[LoopPart]:
    """The parts of the axes of `tensor`, outermost first in its memory.

    `bodies` are computed in its loops, in terms of its axes.
    """
    layout = s.layout(tensor.name)
    foreign = _foreign_cuts(s, tensor, bodies)
    found: list[LoopPart] = []
    for position, part in enumerate(layout.parts):
        above = [p.stride for p in layout.parts[:position] if p.dim == part.dim]
        top = min(above, default=0)
        cuts = [c for c in foreign[part.dim] if part.stride < c and (not top or c < top)]
        strides = sorted({part.stride, *_chain(part.stride, top, cuts)}, reverse=True)
        own_strides = {p.stride for p in layout.parts if p.dim == part.dim}
        extent = tensor.shape[part.dim]
        edges = [top, *strides]
        for outer, stride in itertools.pairwise(edges):
            steps = min(outer or extent, extent)
            size = -(-steps // stride)
            even = _even(extent, [*own_strides, *foreign[part.dim]])
            found.append(LoopPart(part.dim, stride, size, even, stride in own_strides))
    return found


def _even(extent: int, strides: Sequence[int]) -> bool:
    return all(extent % stride == 0 or stride >= extent for stride in strides)


def _chain(low: int, top: int, cuts: Sequence[int]) -> list[int]:
    """Those of `cuts` that divide each other, `low` and `top`."""
    kept: list[int] = []
    below = low
    for cut in sorted(set(cuts)):
        if cut % below == 0 and (not top or top % cut == 0):
            kept.append(cut)
            below = cut
    return kept


def _foreign_cuts(s: Schedule, tensor: Tensor, bodies: Sequence[Expr]) -> list[list[int]]:
    """Strides at which blocks of the tensors read begin, for each axis of `tensor`."""
    cuts: list[list[int]] = [[] for _ in tensor.shape]
    places = {var.name: d for d, var in enumerate(tensor.axis)}
    for body in bodies:
        for load in walk.loads(body):
            for part in s.layout(load.buffer.name).parts:
                if not part.extent:
                    continue
                form = affine(load.indices[part.dim])
                if form is None or len(form.terms) != 1:
                    continue
                ((name, coeff),) = form.terms.items()
                block = part.stride * part.extent
                if name in places and coeff == 1 and form.const % block == 0:
                    cuts[places[name]] += [part.stride, block]
    return [sorted({c for c in cut if c > 1}) for cut in cuts]


def touches(
    s: Schedule, tensor: Tensor, parts: Sequence[LoopPart], bodies: Sequence[Expr], lanes: int
) -> Touches:
    """How the parts, and the flattened reduce axes in steps of one lane, move every access.

    The flattened reduce axes of `bodies` are `fold.o * lanes + fold.l`.
    """
    index, ranges = _indices(tensor, parts)
    write = Load(tensor, tuple(index[var.name] for var in tensor.axis))
    reaches = [_reach(s, write, ranges)]
    tested: set[str] = set()
    for body in bodies:
        folded, inner = _flattened(body, lanes)
        value = body.body if isinstance(body, Reduce) else body
        placed = walk.substitute(value, {**index, **folded})
        tested.update(*map(walk.names, _conditions(placed)))
        reaches += [_reach(s, load, {**ranges, **inner}) for load in walk.loads(placed)]
    return Touches(tuple(reaches), frozenset(tested))


def _indices(
    tensor: Tensor, parts: Sequence[LoopPart]
) -> tuple[dict[str, Expr], dict[str, tuple[int, int]]]:
    """Each axis as the sum of its parts, and the ranges of their variables."""
    index: dict[str, Expr] = {var.name: const(0) for var in tensor.axis}
    ranges: dict[str, tuple[int, int]] = {}
    for part in parts:
        name = tensor.axis[part.dim].name
        step = Binary(Op.MUL, Var(part.name), const(part.stride))
        index[name] = Binary(Op.ADD, index[name], step)
        ranges[part.name] = (0, part.extent - 1)
    return index, ranges


def _conditions(body: Expr) -> Iterator[Expr]:
    for node in walk.visit(body):
        if isinstance(node, Select):
            yield node.cond


def _flattened(body: Expr, lanes: int) -> tuple[dict[str, Expr], dict[str, tuple[int, int]]]:
    """The reduce axes of `body` in terms of one variable, in steps of `lanes`."""
    reduces = body.axes if isinstance(body, Reduce) else ()
    if not reduces:
        return {}, {}
    total = math.prod(a.extent for a in reduces)
    outer, lane = Var(f"{REDUCED}.o"), Var(f"{REDUCED}.l")
    flat = Binary(Op.ADD, Binary(Op.MUL, outer, const(lanes)), lane)
    found: dict[str, Expr] = {}
    inner = 1
    for axis in reversed(reduces):
        value: Expr = flat if inner == 1 else Binary(Op.FLOORDIV, flat, const(inner))
        if inner * axis.extent != total:
            value = Binary(Op.FLOORMOD, value, const(axis.extent))
        found[axis.var.name] = value
        inner *= axis.extent
    ranges = {outer.name: (0, max(0, total // lanes - 1)), lane.name: (0, lanes - 1)}
    return found, ranges


def _reach(s: Schedule, load: Load, ranges: Mapping[str, tuple[int, int]]) -> TensorReach:
    name = load.buffer.name
    layout: Layout = s.layout(name)
    shape = layout.physical_shape(load.buffer.shape)
    address: Expr = const(0)
    for part, extent in zip(layout.parts, shape, strict=True):
        index = load.indices[part.dim]
        if part.stride != 1:
            index = Binary(Op.FLOORDIV, index, const(part.stride))
        if part.extent:
            index = Binary(Op.FLOORMOD, index, const(part.extent))
        address = Binary(Op.ADD, Binary(Op.MUL, address, const(extent)), index)
    names = walk.names(address)
    form = affine(address, ranges)
    strides = None if form is None else form.terms
    size = math.prod(shape)
    return TensorReach(name, size, strides, names)

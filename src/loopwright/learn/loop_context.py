"""A stage of a nest as columns over N candidates: iterations, touched bytes and steps by loop."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.ir.expr import Reduce, Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched.extent import Extent
from loopwright.sched.nest import Access, Nest, NestLoop, StageNest
from loopwright.sched.terms import LoopId, Terms, reach, span, step_of

Column: TypeAlias = npt.NDArray[np.float64]
TILE_KINDS = (LoopKind.UNROLLED, LoopKind.VECTORIZED)
READS = 3
"""Accesses that features distinguish: the write and the first two reads."""


class StageView:
    """One stage of a nest, every figure a float64 column [N]."""

    def __init__(self, stage: StageNest, analysed: Nest) -> None:
        self.stage = stage
        self.size = analysed.size or 1
        self.path = stage.path
        self.is_reduction = isinstance(stage.body, Reduce)
        self.accesses = (*stage.accesses[-1:], *stage.accesses[:-1])  # the write first
        self.in_registers = stage.scope is Scope.REGISTER
        self._extents = analysed.extents
        self._unit_dims = tuple(_unit_dim(analysed, a) for a in self.accesses)
        sizes = {t.name: t.dtype.nbytes for t in analysed.inputs}
        sizes |= {s.name: s.tensor.dtype.nbytes for s in analysed.stages}
        self._nbytes = tuple(sizes[a.tensor] for a in self.accesses)

    def product(self, loops: Sequence[NestLoop]) -> Column:
        """The product of the loops' extents."""
        total = np.ones(self.size)
        for loop in loops:
            total = total * loop.extent
        return total

    def elements(self, access: Access, loops: Sequence[NestLoop]) -> Column:
        """Elements that an access touches while `loops` run and all others are fixed."""
        inside = frozenset(loop.id for loop in loops)
        total: Extent = 1
        for dim in access.dims:
            total = total * (1 + reach(dim, self._extents, inside))
        return np.minimum(np.asarray(total, np.float64), self.product(loops))

    @functools.cached_property
    def inside(self) -> Column:
        """[depth, N]: iterations while the loops from `depth` inwards run once."""
        return _suffix_products(self._matrix([loop.extent for loop in self.path]))

    @functools.cached_property
    def outside(self) -> Column:
        """[depth, N]: how often the loops from `depth` inwards are entered."""
        entered: Column = self.inside[0] / self.inside
        return entered

    @functools.cached_property
    def touched(self) -> Column:
        """[access, depth, N]: bytes touched while the loops from `depth` inwards run once."""
        place = {loop.id: depth for depth, loop in enumerate(self.path)}
        result = np.empty((len(self.accesses), len(self.path) + 1, self.size))
        for number, access in enumerate(self.accesses):
            elements = np.ones((len(self.path) + 1, self.size))
            for dim in access.dims:
                moves = np.zeros((len(self.path) + 1, self.size))
                for term in dim:
                    moves[place[term.loop]] += span(term, self._extents[term.loop])
                elements *= 1.0 + np.cumsum(moves[::-1], axis=0)[::-1]
            result[number] = np.minimum(elements, self.inside) * self._nbytes[number]
        return result

    def _matrix(self, extents: Sequence[Extent]) -> Column:
        rows = np.empty((len(extents), self.size))
        for number, extent in enumerate(extents):
            rows[number] = extent
        return rows

    def stride(self, number: int, loop: NestLoop) -> Column:
        """How access `number` moves with `loop`: 0 not at all, 1 to the next element, else 2."""
        result = np.zeros(self.size)
        for dim, terms in enumerate(self.accesses[number].dims):
            step = np.abs(np.asarray(_step(terms, loop.id), np.float64))
            along = np.where(step == 1, 1.0, 2.0) if dim == self._unit_dims[number] else 2.0
            result = np.maximum(result, np.where(step == 0, 0.0, along))
        return result

    def loop(self, kind: LoopKind) -> NestLoop | None:
        """The innermost loop of that kind."""
        return next((n for n in reversed(self.path) if n.kind is kind), None)

    def tile(self) -> tuple[NestLoop, ...]:
        """The unrolled and vectorized loops."""
        return tuple(loop for loop in self.path if loop.kind in TILE_KINDS)


def _suffix_products(rows: Column) -> Column:
    """[L + 1, N]: the product of the rows from each one on; 1 after the last."""
    ones = np.ones((1, rows.shape[1]))
    return np.concatenate([np.cumprod(rows[::-1], axis=0)[::-1], ones])


def _step(terms: Terms, loop: LoopId) -> Extent:
    total: Extent = 0
    for term in terms:
        if term.loop == loop:
            total = total + step_of(term)
    return total


def _unit_dim(analysed: Nest, access: Access) -> int:
    """The dimension that is contiguous in memory."""
    order: Mapping[str, Sequence[object]] = analysed.layouts
    layout = order.get(access.tensor)
    if not layout:
        return len(access.dims) - 1
    last = layout[-1]
    return last if isinstance(last, int) else int(last[0])  # type: ignore[index]  # (dim, block)

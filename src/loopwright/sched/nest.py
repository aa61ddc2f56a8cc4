"""The nest: the loops of a schedule, the part of each tensor they touch, and the strides.

`nest(schedule)` is the one analysis that both code and features are based on. Stages are visited
consumers first: a stage computed at a loop covers only the region that its readers need in one
iteration of that loop. All extents are ints, or int64 [N] when the schedule's sizes are;
expressions (`AxisNest.base`, `AxisNest.index`) exist for one candidate only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from loopwright.errors import InternalError, ScheduleError
from loopwright.ir import walk
from loopwright.ir.expr import Binary, Const, Expr, Load, Op, Scope, Var, const
from loopwright.ir.simplify import affine
from loopwright.ir.stmt import LoopKind
from loopwright.sched.extent import Extent, ceildiv
from loopwright.sched.index import IndexForm, index_form
from loopwright.sched.schedule import Schedule
from loopwright.sched.state import At, Inline, LayoutOrder, ScheduleState, StageState
from loopwright.sched.steps import SplitStep
from loopwright.sched.terms import (
    Flag,
    LoopId,
    LoopTerm,
    Terms,
    all_exact,
    choose,
    expand,
    maximum,
    minimum,
    reach,
    scaled,
)
from loopwright.te.tensor import Compute, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class NestLoop:
    """A loop. `var` is its variable, unique in the nest."""

    id: LoopId
    extent: Extent
    kind: LoopKind
    is_reduce: bool
    var: Var


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """Iterations run only while the former loop `loop` is below `extent`."""

    loop: str
    extent: Extent


@dataclass(frozen=True, slots=True, eq=False)
class AxisNest:
    """An axis of a stage: the part of it that one run of the stage covers.

    `terms` say how its index moves, loops of enclosing stages included; `low` is the least index
    that the part starts at. `base` is where it starts and `index` the index itself (one candidate
    only, else None).
    """

    name: str
    extent: Extent
    is_reduce: bool
    terms: Terms
    low: Extent
    base: Expr | None
    index: Expr | None


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """A read or write: one sum of terms per dimension; not `regular` if an index is not affine."""

    tensor: str
    is_write: bool
    dims: tuple[Terms, ...]
    regular: bool


@dataclass(frozen=True, slots=True, eq=False)
class StageNest:
    """One stage: its loops, outermost first, and where it is computed."""

    name: str
    tensor: Tensor
    body: Expr
    loops: tuple[NestLoop, ...]
    around: tuple[NestLoop, ...]
    """The loops of other stages that this stage is computed in, outermost first."""
    attach: At | None
    scope: Scope
    axes: tuple[AxisNest, ...]
    guards: tuple[Guard, ...]
    recovered: Mapping[str, Expr] = field(repr=False)
    """Former loop name -> its value in loop variables, region-local (one candidate only)."""
    accesses: tuple[Access, ...] = ()

    @property
    def shape(self) -> tuple[Extent, ...]:
        """Extents of the part of the tensor that is kept: all of it at root."""
        return tuple(a.extent for a in self.axes if not a.is_reduce)

    @property
    def path(self) -> tuple[NestLoop, ...]:
        """All loops around the stage's body, outermost first."""
        return (*self.around, *self.loops)

    def axis(self, name: str) -> AxisNest:
        """The axis with that variable name."""
        return next(a for a in self.axes if a.name == name)


@dataclass(frozen=True, slots=True, eq=False)
class Nest:
    """Stages in the order of computation, without inlined ones."""

    name: str
    stages: tuple[StageNest, ...]
    inputs: tuple[Tensor, ...]
    layouts: Mapping[str, LayoutOrder]
    size: int | None
    """How many candidates the arrays describe; None for one candidate with plain ints."""

    def stage(self, name: str) -> StageNest:
        """The stage of that name."""
        return next(s for s in self.stages if s.name == name)

    @property
    def extents(self) -> dict[LoopId, Extent]:
        """The extent of every loop."""
        return {loop.id: loop.extent for stage in self.stages for loop in stage.loops}


_Read: TypeAlias = tuple[StageNest, Load]


def nest(schedule: Schedule) -> Nest:
    """The nest of a schedule.

    Raises: ScheduleError when a stage is computed at a loop that some reader of it is not inside.
    """
    state = inline_all(schedule.state)
    builder = _Builder(state)
    for name in reversed(list(state.stages)):
        builder.add(state.stages[name])
    stages = tuple(builder.done[name] for name in state.stages)
    return Nest(
        schedule.workload.name, stages, schedule.workload.inputs, state.layouts, builder.size
    )


def inline_all(state: ScheduleState) -> ScheduleState:
    """The state with inlined stages substituted into their readers and removed."""
    for name in list(state.stages):
        stage = state.stages[name]  # its current form: stages it reads may have been inlined
        if not isinstance(stage.attach, Inline):
            continue
        stages = {n: s for n, s in state.stages.items() if n != name}
        for reader in state.readers(name):
            stages[reader] = _inlined(state.stages[reader], stage)
        state = ScheduleState(state.workload, stages, state.layouts)
    return state


def _inlined(reader: StageState, stage: StageState) -> StageState:
    name, op = stage.tensor.name, stage.op

    def turn(expr: Expr) -> Expr:
        if isinstance(expr, Load) and expr.buffer.name == name:
            mapping = {v.name: i for v, i in zip(op.axes, expr.indices, strict=True)}
            return walk.substitute(op.body, mapping)
        return expr

    body = walk.rewrite_expr(reader.op.body, turn)
    return replace(reader, tensor=replace(reader.tensor, op=Compute(reader.op.axes, body)))


class _Builder:
    """Works through the stages, consumers first."""

    def __init__(self, state: ScheduleState) -> None:
        self.state = state
        self.done: dict[str, StageNest] = {}
        self.extents: dict[LoopId, Extent] = {}
        self.names: set[str] = set()
        self.size = _batch_size(state)

    def add(self, stage: StageState) -> None:
        name = stage.tensor.name
        around = self._around(stage)
        region = self._region(stage, around)
        extents, guards, terms = self._loops(stage, region)
        for axis in (*stage.op.axes, *(a.var for a in stage.op.reduce_axes)):
            self.extents[(name, axis.name)] = extents[axis.name]
        reduce_names = stage.reduce_names
        loops = []
        for leaf in stage.leaves:
            loop_id = (name, leaf)
            self.extents[loop_id] = extents[leaf]
            is_reduce = leaf in reduce_names
            loops.append(
                NestLoop(loop_id, extents[leaf], stage.kind(leaf), is_reduce, self._var(name, leaf))
            )
        recovered = {} if self.size is not None else _recover(stage, loops, extents)
        axes = self._axes(stage, region, terms, recovered)
        body = stage.op.body
        self.done[name] = StageNest(
            name=name,
            tensor=stage.tensor,
            body=body,
            loops=tuple(loops),
            around=around,
            attach=stage.attach if isinstance(stage.attach, At) else None,
            scope=stage.scope,
            axes=axes,
            guards=guards,
            recovered=recovered,
            accesses=_accesses(stage.tensor, axes, body, self.extents),
        )

    def _var(self, stage: str, leaf: str) -> Var:
        """The variable of a loop: its name, or a longer one if another stage has that name."""
        name = leaf
        while name in self.names:
            name = f"{stage}.{name}"
        self.names.add(name)
        return Var(name)

    def _around(self, stage: StageState) -> tuple[NestLoop, ...]:
        """The loops that the stage is computed in, outermost first: none at root."""
        if not isinstance(stage.attach, At):
            return ()
        consumer = self.done.get(stage.attach.stage)
        if consumer is None:
            raise ScheduleError(
                f"{stage.tensor.name} is computed at {stage.attach.stage}, which does not read it; "
                "compute it at a stage that does"
            )
        for depth, loop in enumerate(consumer.loops):
            if loop.id[1] == stage.attach.loop:
                return (*consumer.around, *consumer.loops[: depth + 1])
        raise InternalError(f"{consumer.name} has no loop {stage.attach.loop}")

    def _region(self, stage: StageState, around: tuple[NestLoop, ...]) -> list[_Region]:
        """The part of each spatial axis that is computed in one run of the stage."""
        shape = stage.tensor.shape
        if not around:
            return [_Region(extent, (), 0, const(0)) for extent in shape]
        fixed = frozenset(loop.id for loop in around)
        reads: list[_Read] = []
        for reader_name in self.state.readers(stage.tensor.name):
            reader = self.done[reader_name]
            if not fixed <= frozenset(loop.id for loop in reader.path):
                raise ScheduleError(
                    f"{stage.tensor.name} is computed inside the loop {around[-1].id[1]} of "
                    f"{around[-1].id[0]}, but {reader_name} reads it outside that loop"
                )
            reads += [
                (reader, load)
                for load in walk.loads(reader.body)
                if load.buffer.name == stage.tensor.name
            ]
        return [self._region_of_dim(reads, dim, shape[dim], fixed) for dim in range(len(shape))]

    def _region_of_dim(
        self, reads: Sequence[_Read], dim: int, whole: int, fixed: frozenset[LoopId]
    ) -> _Region:
        """The part of dimension `dim` that `reads` need while the loops `fixed` are fixed.

        All of it, unless the reads of each reader are the same sum of its axes up to a constant,
        with terms that are exact (only then is the least index the one where all other loops are at
        their start), and the fixed loops move all readers alike.
        """
        everything = _Region(whole, (), 0, const(0))
        found: _Region | None = None
        partial: Flag = True
        for name in dict.fromkeys(reader.name for reader, _ in reads):
            own = [(reader, load) for reader, load in reads if reader.name == name]
            part = self._part_of_dim(own, dim, fixed)
            if part is None:
                return everything
            region, exact = part
            alike = True if found is None else _alike(found.outer, region.outer)
            if alike is False:
                return everything
            found = region if found is None else _union(found, region)
            partial = partial & exact & alike
        if found is None:
            return everything
        partial = partial & (found.extent < whole)
        if partial is False:
            return everything
        # Where all of it is computed no loop moves the start, so the terms are exact.
        outer = tuple(
            replace(
                t,
                coeff=choose(partial, t.coeff, 0),
                exact=t.exact if isinstance(partial, bool) else t.exact | ~partial,
            )
            for t in found.outer
        )
        extent, low = choose(partial, found.extent, whole), choose(partial, found.low, 0)
        return _Region(extent, outer, low, found.base)

    def _part_of_dim(
        self, reads: Sequence[_Read], dim: int, fixed: frozenset[LoopId]
    ) -> tuple[_Region, Flag] | None:
        """The part of dimension `dim` that the reads of one reader need, and where that is exact.

        None when they are not sums of its axes, or not the same sums.
        """
        reader = reads[0][0]
        forms = [index_form(load.indices[dim]) for _, load in reads]
        first = forms[0]
        if first is None:
            return None
        constants = []
        for form in forms:
            if form is None or not first.alike(form):
                return None
            constants.append(form.total.const)
        start: Extent = min(constants)
        coeffs = first.total.terms
        for name, coeff in coeffs.items():
            start = start + coeff * reader.axis(name).low
        terms, low = first.moved(_index_terms(reader, coeffs, fixed), start, self.extents)
        inner = frozenset(t.loop for t in terms) - fixed
        last = first.last(min(constants) + _greatest(reader, coeffs))
        span = minimum(1 + reach(terms, self.extents, inner), 1 + last - low)
        extent = span + (max(constants) - min(constants))
        base = _base(reader, first, min(constants), fixed) if self.size is None else None
        outer = tuple(t for t in terms if t.loop in fixed)
        return _Region(extent, outer, low, base), all_exact(terms)

    def _loops(
        self, stage: StageState, region: list[_Region]
    ) -> tuple[dict[str, Extent], tuple[Guard, ...], dict[str, Terms]]:
        """Extents of all loops, former and present, guards for the tails, terms of each axis."""
        name = stage.tensor.name
        extents: dict[str, Extent] = {}
        terms: dict[str, Terms] = {}
        for var, part in zip(stage.op.axes, region, strict=True):
            extents[var.name] = part.extent
        for axis in stage.op.reduce_axes:
            extents[axis.var.name] = axis.extent
        for axis_name in extents:
            terms[axis_name] = (LoopTerm((name, axis_name), 1),)
        axis_names = list(terms)
        guards: list[Guard] = []
        for relation in stage.relations:
            if isinstance(relation, SplitStep):
                whole = extents[relation.loop]
                extents[relation.outer] = ceildiv(whole, relation.factor)
                extents[relation.inner] = minimum(relation.factor, whole)
                if np.any(extents[relation.outer] * extents[relation.inner] != whole):
                    guards.append(Guard(relation.loop, whole))
                inner_extent: Extent = relation.factor
            else:
                inner_extent = extents[relation.second]
                extents[relation.fused] = extents[relation.first] * inner_extent
            for axis_name in axis_names:
                terms[axis_name] = expand(terms[axis_name], name, relation, inner_extent)
        return extents, tuple(guards), terms

    def _axes(
        self,
        stage: StageState,
        region: list[_Region],
        terms: dict[str, Terms],
        recovered: Mapping[str, Expr],
    ) -> tuple[AxisNest, ...]:
        axes = []
        for var, part in zip(stage.op.axes, region, strict=True):
            index = None
            if part.base is not None and self.size is None:
                index = _plus(part.base, recovered[var.name])
            axes.append(
                AxisNest(
                    name=var.name,
                    extent=part.extent,
                    is_reduce=False,
                    terms=(*part.outer, *terms[var.name]),
                    low=part.low,
                    base=part.base,
                    index=index,
                )
            )
        for axis in stage.op.reduce_axes:
            name = axis.var.name
            index = recovered[name] if self.size is None else None
            axes.append(
                AxisNest(
                    name=name,
                    extent=axis.extent,
                    is_reduce=True,
                    terms=terms[name],
                    low=0,
                    base=const(0),
                    index=index,
                )
            )
        return tuple(axes)


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """A part of a dimension: its extent, how its start moves, the least start, and the start."""

    extent: Extent
    outer: Terms
    low: Extent
    base: Expr | None


def _alike(a: Terms, b: Terms) -> Flag:
    """True where the loops of both terms move an index in the same way."""
    if [t.loop for t in a] != [t.loop for t in b]:
        return False
    flag: Flag = True
    for x, y in zip(a, b, strict=True):
        same = (x.coeff == y.coeff) & (x.div == y.div) & (x.mod == y.mod)
        flag = flag & (same if isinstance(same, np.ndarray) else bool(same))
    return flag


def _union(a: _Region, b: _Region) -> _Region:
    """The part that covers both, which the same loops move."""
    low = minimum(a.low, b.low)
    extent = maximum(a.low + a.extent, b.low + b.extent) - low
    return _Region(extent, a.outer, low, a.base if np.all(a.low <= b.low) else b.base)


def _plus(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and a.value == 0:
        return b
    return Binary(Op.ADD, a, b)


def _recover(
    stage: StageState, loops: list[NestLoop], extents: Mapping[str, Extent]
) -> dict[str, Expr]:
    """Every former loop in terms of the present loop variables."""
    values: dict[str, Expr] = {
        loop.id[1]: const(0) if loop.extent == 1 else loop.var for loop in loops
    }
    for relation in reversed(stage.relations):
        if isinstance(relation, SplitStep):
            step = const(int(relation.factor))
            scaled_outer = Binary(Op.MUL, values[relation.outer], step)
            values[relation.loop] = _plus(scaled_outer, values[relation.inner])
        else:
            size = const(int(extents[relation.second]))
            fused = values[relation.fused]
            values[relation.first] = Binary(Op.FLOORDIV, fused, size)
            values[relation.second] = Binary(Op.FLOORMOD, fused, size)
    return values


def _base(reader: StageNest, form: IndexForm, low: int, fixed: frozenset[LoopId]) -> Expr:
    """The least index in one iteration of the fixed loops: every other loop at its start."""
    starts: dict[str, Expr] = {
        loop.var.name: const(0) for loop in reader.path if loop.id not in fixed
    }
    total: Expr = const(low)
    for name, coeff in form.total.terms.items():
        index = reader.axis(name).index
        if index is None:
            raise ScheduleError(f"{reader.name}.{name} has no index in a batch")
        start = walk.substitute(index, starts)
        total = _plus(total, Binary(Op.MUL, start, const(coeff)))
    return form.of(total)


def _index_terms(stage: StageNest, coeffs: Mapping[str, int], fixed: frozenset[LoopId]) -> Terms:
    """How a sum of axes moves while the loops `fixed` are fixed.

    An axis with no fixed loop runs over all of its part, however it was split.
    """
    found: list[LoopTerm] = []
    for name, coeff in coeffs.items():
        terms = stage.axis(name).terms
        own = [t for t in terms if t.loop[0] == stage.name]
        if not any(t.loop in fixed for t in own):
            outer = [t for t in terms if t.loop[0] != stage.name]
            terms = (*outer, LoopTerm((stage.name, name), 1))
        found += scaled(terms, coeff)
    return tuple(found)


def _greatest(stage: StageNest, coeffs: Mapping[str, int]) -> Extent:
    """The greatest sum of axes times `coeffs`: each axis at the end of its tensor, as in a tail."""
    shape = zip(stage.tensor.axis, stage.tensor.shape, strict=True)
    whole = {var.name: extent for var, extent in shape}
    whole |= {axis.var.name: axis.extent for axis in stage.tensor.reduce_axis}
    total: Extent = 0
    for name, coeff in coeffs.items():
        total = total + coeff * (whole[name] - 1)
    return total


def _accesses(
    tensor: Tensor,
    axes: tuple[AxisNest, ...],
    body: Expr,
    extents: Mapping[LoopId, Extent],
) -> tuple[Access, ...]:
    """The reads of the body, then the write; identical reads once."""
    terms = {axis.name: axis.terms for axis in axes}
    lows = {axis.name: axis.low for axis in axes}
    found: list[Access] = []
    seen: list[Load] = []
    for load in walk.loads(body):
        if any(walk.same(load, other) for other in seen):
            continue
        seen.append(load)
        dims: list[Terms] = []
        regular = True
        for index in load.indices:
            part = affine(index)
            form = index_form(index) if part is None else None
            coeffs = (
                dict(part.terms) if part is not None else {v.name: 1 for v in walk.free_vars(index)}
            )
            if form is not None:
                coeffs = dict(form.total.terms)
            moved = tuple(t for n, c in coeffs.items() for t in scaled(terms[n], c))
            if form is not None:
                low: Extent = form.total.const
                for name, coeff in coeffs.items():
                    low = low + coeff * lows[name]
                moved, _ = form.moved(moved, low, extents)
            regular = regular and (
                part is not None or (form is not None and bool(np.all(all_exact(moved))))
            )
            dims.append(moved)
        found.append(Access(load.buffer.name, False, tuple(dims), regular))
    write = tuple(axis.terms for axis in axes if not axis.is_reduce)
    found.append(Access(tensor.name, True, write, True))
    return tuple(found)


def _batch_size(state: ScheduleState) -> int | None:
    sizes = [
        relation.factor
        for stage in state.stages.values()
        for relation in stage.relations
        if isinstance(relation, SplitStep)
    ]
    sizes += [b[1] for order in state.layouts.values() for b in order if not isinstance(b, int)]
    return next((s.size for s in sizes if isinstance(s, np.ndarray)), None)

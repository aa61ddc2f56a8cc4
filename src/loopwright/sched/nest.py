"""The nest: what loops a schedule makes, what region of every tensor they touch, and with what strides.

`nest(schedule)` is the one analysis that both code and features stand on. Stages are visited consumers
first: a stage computed at a loop gets just the region that its readers need in one iteration of that
loop. All extents are ints, or int64 [N] when the schedule's sizes are; expressions (`Region.base`,
`StageNest.index`) exist for one candidate only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from loopwright.errors import ScheduleError
from loopwright.ir import walk
from loopwright.ir.expr import Binary, Const, Expr, Load, Op, Reduce, Scope, Var, const
from loopwright.ir.stmt import LoopKind
from loopwright.sched.extent import Extent, ceildiv
from loopwright.sched.schedule import Schedule
from loopwright.sched.state import At, Inline, LayoutOrder, StageState, State
from loopwright.sched.steps import Fuse, Split
from loopwright.sched.terms import LoopId, Term, Terms, expand, maximum, minimum, reach, scaled
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
    """Iterations count only where the loop of the past `loop` stays below `extent`."""

    loop: str
    extent: Extent


@dataclass(frozen=True, slots=True, eq=False)
class AxisNest:
    """An axis of a stage: the part of it that one run of the stage covers.

    `terms` say how its index moves, with loops of the stages around included; `base` is where the part
    starts and `index` the index itself (one candidate only, else None).
    """

    name: str
    extent: Extent
    is_reduce: bool
    terms: Terms
    base: Expr | None
    index: Expr | None


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """A read or write: one sum of terms a dimension. `regular` is False where an index is not affine."""

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
    """Past loop name -> its value in terms of loop variables, region-local (one candidate only)."""
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
        """The axis of that variable name."""
        return next(a for a in self.axes if a.name == name)


@dataclass(frozen=True, slots=True, eq=False)
class Nest:
    """Stages in the order of computation; inlined ones are gone."""

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


def nest(schedule: Schedule) -> Nest:
    """The nest of a schedule.

    Raises: ScheduleError when a stage is computed at a loop that some reader of it is not inside.
    """
    state = inline_all(schedule.state)
    builder = _Builder(state)
    for name in reversed(list(state.stages)):
        builder.add(state.stages[name])
    stages = tuple(builder.done[name] for name in state.stages)
    return Nest(schedule.workload.name, stages, schedule.workload.inputs, state.layouts, builder.size)


def inline_all(state: State) -> State:
    """The state with inlined stages substituted into their readers, and gone."""
    for name, stage in list(state.stages.items()):
        if not isinstance(stage.attach, Inline):
            continue
        stages = {n: s for n, s in state.stages.items() if n != name}
        for reader in state.readers(name):
            stages[reader] = _inlined(state.stages[reader], stage)
        state = State(state.workload, stages, state.layouts)
    return state


def _inlined(reader: StageState, stage: StageState) -> StageState:
    name, op = stage.tensor.name, stage.op

    def turn(expr: Expr) -> Expr:
        if isinstance(expr, Load) and expr.buffer.name == name:
            mapping = {v.name: i for v, i in zip(op.axes, expr.indices, strict=True)}
            return walk.substitute(op.body, mapping)
        return expr

    body = walk.rewrite_expr(reader.op.body, turn)
    tensor = Tensor(
        reader.tensor.name, reader.tensor.dtype, reader.tensor.shape, op=Compute(reader.op.axes, body)
    )
    return StageState(
        tensor, reader.leaves, reader.relations, reader.kinds, reader.attach, reader.scope
    )


class _Builder:
    """Works through the stages, consumers first."""

    def __init__(self, state: State) -> None:
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
            name,
            stage.tensor,
            body,
            tuple(loops),
            around,
            stage.attach if isinstance(stage.attach, At) else None,
            stage.scope,
            axes,
            guards,
            recovered,
            _accesses(stage.tensor, axes, body),
        )

    def _var(self, stage: str, leaf: str) -> Var:
        name = leaf if leaf not in self.names else f"{stage}.{leaf}"
        self.names.add(name)
        return Var(name)

    def _around(self, stage: StageState) -> tuple[NestLoop, ...]:
        if not isinstance(stage.attach, At):
            return ()
        consumer = self.done.get(stage.attach.stage)
        if consumer is None:
            raise ScheduleError(f"{stage.tensor.name} is computed at {stage.attach.stage}, which does not read it")
        for depth, loop in enumerate(consumer.loops):
            if loop.id[1] == stage.attach.loop:
                return (*consumer.around, *consumer.loops[: depth + 1])
        raise ScheduleError(
            f"{stage.tensor.name} is computed at the loop {stage.attach.loop} of {consumer.name}, "
            "which has since been split or fused; call compute_at after shaping the consumer"
        )

    def _region(self, stage: StageState, around: tuple[NestLoop, ...]) -> list[_Region]:
        """The part of each spatial axis that is computed in one run of the stage."""
        shape = stage.tensor.shape
        if not around:
            return [_Region(extent, (), const(0)) for extent in shape]
        fixed = frozenset(loop.id for loop in around)
        reads: list[tuple[StageNest, Load]] = []
        for reader_name in self.state.readers(stage.tensor.name):
            reader = self.done[reader_name]
            if not fixed <= frozenset(loop.id for loop in reader.path):
                raise ScheduleError(
                    f"{stage.tensor.name} is computed inside the loop {around[-1].id[1]} of "
                    f"{around[-1].id[0]}, but {reader_name} reads it outside of that loop"
                )
            reads += [
                (reader, load)
                for load in walk.loads(reader.body)
                if load.buffer.name == stage.tensor.name
            ]
        return [self._region_of_dim(reads, dim, shape[dim], fixed) for dim in range(len(shape))]

    def _region_of_dim(
        self, reads: list[tuple[StageNest, Load]], dim: int, whole: int, fixed: frozenset[LoopId]
    ) -> _Region:
        everything = _Region(whole, (), const(0))
        parts = [_affine(load.indices[dim]) for _, load in reads]
        spans: list[Extent] = []
        constants: list[int] = []
        for (reader, _), part in zip(reads, parts, strict=True):
            if part is None or any(c < 0 for c in part[0].values()):
                return everything
            terms = _index_terms(reader, part[0])
            inner = frozenset(t.loop for t in terms) - fixed
            span: Extent = 1 + reach(terms, self.extents, inner)
            spans.append(minimum(span, 1 + _whole_span(reader, part[0])))
            constants.append(part[1])
        first = parts[0]
        if first is None or any(p is None or p[0] != first[0] for p in parts):
            return everything
        if any(reader is not reads[0][0] for reader, _ in reads):
            return everything
        low = min(constants)
        extent: Extent = 0
        for span, offset in zip(spans, constants, strict=True):
            extent = maximum(extent, span + (offset - low))
        reader = reads[0][0]
        if self.size is None:
            if isinstance(extent, int) and extent >= whole:
                return everything
            base = _base(reader, first[0], low, fixed)
        else:
            base = None
        outer = tuple(t for t in _index_terms(reader, first[0]) if t.loop in fixed)
        return _Region(minimum(extent, whole), outer, base)

    def _loops(
        self, stage: StageState, region: list[_Region]
    ) -> tuple[dict[str, Extent], tuple[Guard, ...], dict[str, Terms]]:
        """Extents of all loops past and present, guards for the tails, terms of each axis."""
        name = stage.tensor.name
        extents: dict[str, Extent] = {}
        terms: dict[str, Terms] = {}
        for var, part in zip(stage.op.axes, region, strict=True):
            extents[var.name] = part.extent
        for axis in stage.op.reduce_axes:
            extents[axis.var.name] = axis.extent
        for axis_name in extents:
            terms[axis_name] = (Term((name, axis_name), 1),)
        axis_names = list(terms)
        guards: list[Guard] = []
        for relation in stage.relations:
            if isinstance(relation, Split):
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
                    var.name, part.extent, False, (*part.outer, *terms[var.name]), part.base, index
                )
            )
        for axis in stage.op.reduce_axes:
            name = axis.var.name
            index = recovered[name] if self.size is None else None
            axes.append(AxisNest(name, axis.extent, True, terms[name], const(0), index))
        return tuple(axes)


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """A part of a dimension: its extent, how its start moves, and its start."""

    extent: Extent
    outer: Terms
    base: Expr | None


def _plus(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and a.value == 0:
        return b
    return Binary(Op.ADD, a, b)


def _recover(
    stage: StageState, loops: list[NestLoop], extents: Mapping[str, Extent]
) -> dict[str, Expr]:
    """Every past loop in terms of the present loop variables."""
    values: dict[str, Expr] = {
        loop.id[1]: const(0) if loop.extent == 1 else loop.var for loop in loops
    }
    for relation in reversed(stage.relations):
        if isinstance(relation, Split):
            step = const(int(relation.factor))
            scaled_outer = Binary(Op.MUL, values[relation.outer], step)
            values[relation.loop] = _plus(scaled_outer, values[relation.inner])
        else:
            size = const(int(extents[relation.second]))
            fused = values[relation.fused]
            values[relation.first] = Binary(Op.FLOORDIV, fused, size)
            values[relation.second] = Binary(Op.FLOORMOD, fused, size)
    return values


def _base(reader: StageNest, coeffs: Mapping[str, int], low: int, fixed: frozenset[LoopId]) -> Expr:
    """The least index in one iteration of the fixed loops: every other loop at its start."""
    starts: dict[str, Expr] = {
        loop.var.name: const(0) for loop in reader.path if loop.id not in fixed
    }
    total: Expr = const(low)
    for name, coeff in coeffs.items():
        index = reader.axis(name).index
        if index is None:
            raise ScheduleError(f"{reader.name}.{name} has no index in a batch")
        start = walk.substitute(index, starts)
        total = _plus(total, Binary(Op.MUL, start, const(coeff)))
    return total


def _index_terms(stage: StageNest, coeffs: Mapping[str, int]) -> Terms:
    terms: list[Term] = []
    for name, coeff in coeffs.items():
        terms += scaled(stage.axis(name).terms, coeff)
    return tuple(terms)


def _whole_span(stage: StageNest, coeffs: Mapping[str, int]) -> int:
    """The distance an index covers when each axis runs through the whole tensor: tails end there."""
    whole = {v.name: extent for v, extent in zip(stage.tensor.axis, stage.tensor.shape, strict=True)}
    whole |= {a.var.name: a.extent for a in stage.tensor.reduce_axis}
    return sum(abs(coeff) * (whole[name] - 1) for name, coeff in coeffs.items())


def _accesses(tensor: Tensor, axes: tuple[AxisNest, ...], body: Expr) -> tuple[Access, ...]:
    """The reads of the body, then the write; identical reads once."""
    terms = {axis.name: axis.terms for axis in axes}
    found: list[Access] = []
    seen: list[Load] = []
    for load in walk.loads(body.body if isinstance(body, Reduce) else body):
        if any(walk.same(load, other) for other in seen):
            continue
        seen.append(load)
        dims: list[Terms] = []
        regular = True
        for index in load.indices:
            part = _affine(index)
            regular = regular and part is not None
            coeffs = part[0] if part is not None else {v.name: 1 for v in walk.free_vars(index)}
            dims.append(tuple(t for n, c in coeffs.items() for t in scaled(terms[n], c)))
        found.append(Access(load.buffer.name, False, tuple(dims), regular))
    write = tuple(axis.terms for axis in axes if not axis.is_reduce)
    found.append(Access(tensor.name, True, write, True))
    return tuple(found)


def _affine(expr: Expr) -> tuple[dict[str, int], int] | None:
    """Coefficients by variable and the constant of an affine index; None for any other."""
    match expr:
        case Const(value=value):
            return {}, int(value)
        case Var(name=name):
            return {name: 1}, 0
        case Binary(op=Op.ADD | Op.SUB as op, lhs=lhs, rhs=rhs):
            left, right = _affine(lhs), _affine(rhs)
            if left is None or right is None:
                return None
            sign = 1 if op is Op.ADD else -1
            coeffs = dict(left[0])
            for name, coeff in right[0].items():
                coeffs[name] = coeffs.get(name, 0) + sign * coeff
            return {n: c for n, c in coeffs.items() if c}, left[1] + sign * right[1]
        case Binary(op=Op.MUL, lhs=lhs, rhs=rhs):
            left, right = _affine(lhs), _affine(rhs)
            if left is None or right is None or (left[0] and right[0]):
                return None
            (coeffs, constant), factor = (left, right[1]) if not right[0] else (right, left[1])
            return {n: c * factor for n, c in coeffs.items() if factor}, constant * factor
        case _:
            return None


def _batch_size(state: State) -> int | None:
    sizes = [
        relation.factor
        for stage in state.stages.values()
        for relation in stage.relations
        if isinstance(relation, Split)
    ]
    sizes += [b[1] for order in state.layouts.values() for b in order if not isinstance(b, int)]
    return next((s.size for s in sizes if isinstance(s, np.ndarray)), None)


__all__ = ["Access", "AxisNest", "Fuse", "Guard", "Nest", "NestLoop", "StageNest", "nest"]

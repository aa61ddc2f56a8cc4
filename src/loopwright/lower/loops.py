"""From a nest to loops: the statements that compute every stage where the schedule put it.

How a reduction becomes code. The innermost loops of a stage that are unrolled, vectorized or
reduce loops form its *tile*. The elements a tile adds to are kept in a register buffer: set to the
identity (or loaded, when reduce loops run outside the tile too), updated through the reduce loops,
and stored once after them. Tails are guarded; `tails.specialise` makes a version without guards
for full tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loopwright.errors import LoweringError
from loopwright.ir import walk
from loopwright.ir.bounds import Interval, prove
from loopwright.ir.dtype import DType
from loopwright.ir.expr import (
    COMBINER_OP,
    Binary,
    Buffer,
    Const,
    Expr,
    Load,
    Op,
    Reduce,
    Scope,
    Var,
    const,
    identity,
)
from loopwright.ir.kernel import Kernel
from loopwright.ir.simplify import simplify
from loopwright.ir.stmt import Alloc, For, LoopKind, Stmt, Store, block
from loopwright.layout import Layout
from loopwright.lower.tails import Maker, guarded, specialise
from loopwright.sched.nest import AxisNest, Nest, NestLoop, StageNest, nest
from loopwright.sched.schedule import Schedule
from loopwright.sched.terms import LoopId

_TILE_KINDS = (LoopKind.UNROLLED, LoopKind.VECTORIZED)
MAX_TILE_BYTES = 64 * 64
"""Larger tiles (over 64 registers of 512 bits) are kept in memory: they would be spilled."""


def build_loops(
    schedule: Schedule, name: str | None = None, in_place: Mapping[str, str] | None = None
) -> Kernel:
    """The kernel of a schedule, buffers not yet flattened.

    Args:
        in_place: names of inputs that share an output's memory. They are read from the output, and
            none of its elements is computed twice.

    Raises: ScheduleError when the schedule has no meaning as loops, saying which stage and why.
    """
    analysed = nest(schedule)
    if analysed.size is not None:
        raise LoweringError("a batched schedule cannot be lowered; decode one config first")
    builder = _Builder(schedule, analysed, in_place or {})
    return builder.kernel(name or schedule.workload.name)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A stage's loops, cut where its tile begins, and the guards that an iteration must pass."""

    stage: StageNest
    outer: tuple[NestLoop, ...]
    tile: tuple[NestLoop, ...]
    guards: tuple[Expr, ...]

    @property
    def loops(self) -> tuple[NestLoop, ...]:
        """All loops, outermost first."""
        return (*self.outer, *self.tile)

    @property
    def tile_guards(self) -> list[Expr]:
        """The guards that use a loop of the tile."""
        return [g for g in self.guards if _innermost(g, self.loops) in self.tile]

    @property
    def spatial(self) -> tuple[NestLoop, ...]:
        """The loops of the tile that run over elements."""
        return tuple(loop for loop in self.tile if not loop.is_reduce and loop.extent != 1)

    @property
    def continues(self) -> bool:
        """True when a tile continues from partial results, as reduce loops run outside it."""
        return any(_reduces(loop) for loop in self.outer)

    @property
    def fits_registers(self) -> bool:
        """True when the elements of a tile may be kept in registers during the reduction."""
        nbytes = self.stage.tensor.dtype.nbytes
        for loop in self.spatial:
            nbytes *= int(loop.extent)
        folds = any(_reduces(loop) for loop in self.tile) or not self.continues
        return folds and nbytes <= MAX_TILE_BYTES


class _Builder:
    def __init__(self, schedule: Schedule, analysed: Nest, in_place: Mapping[str, str]) -> None:
        self.schedule = schedule
        self.in_place = in_place
        self.nest = analysed
        self.layouts: dict[str, Layout] = {}
        self.buffers: dict[str, Buffer] = {}
        self.bases: dict[str, tuple[Expr, ...]] = {}
        self.ranges: dict[str, Interval] = {}
        self.attached: dict[LoopId, list[StageNest]] = {}
        self.numbers = {stage.name: n for n, stage in enumerate(analysed.stages)}
        for tensor in analysed.inputs:
            self._declare(tensor.name, tensor.shape, tensor.dtype, Scope.GLOBAL)
        for stage in analysed.stages:
            self._declare_stage(stage)

    def kernel(self, name: str) -> Kernel:
        workload = self.schedule.workload
        params = tuple(self.buffers[t.name] for t in workload.args)
        roots = [s for s in self.nest.stages if s.attach is None]
        body = block(*(self._stage(s) for s in roots))
        for stage in reversed(roots):
            if self.buffers[stage.name] not in params:
                body = Alloc(self.buffers[stage.name], body)
        shared = {self.buffers[a]: self.buffers[b] for a, b in self.in_place.items()}
        if shared:
            body = walk.substitute_buffers(body, shared)
        return Kernel(name, params, workload.n_outputs, body)

    def _declare(self, name: str, shape: Sequence[int], dtype: DType, scope: Scope) -> None:
        layout = self.schedule.layout(name)
        self.layouts[name] = layout
        self.buffers[name] = Buffer(name, dtype, layout.physical_shape(shape), scope)

    def _declare_stage(self, stage: StageNest) -> None:
        shape = [int(e) for e in stage.shape]
        self._declare(stage.name, shape, stage.tensor.dtype, stage.scope)
        for loop in stage.loops:
            self.ranges[loop.var.name] = (0, int(loop.extent) - 1)
        spatial = [a for a in stage.axes if not a.is_reduce]
        self.bases[stage.name] = tuple(a.base if a.base is not None else const(0) for a in spatial)
        if stage.attach is not None:
            key = (stage.attach.stage, stage.attach.loop)
            self.attached.setdefault(key, []).append(stage)

    # expressions

    def _simplify(self, expr: Expr) -> Expr:
        return simplify(expr, self.ranges)

    def _element(self, name: str, indices: Sequence[Expr]) -> tuple[Buffer, tuple[Expr, ...]]:
        """Buffer and physical indices of a tensor's element at its logical indices."""
        bases = self.bases.get(name)
        if bases is not None:
            indices = [
                i if isinstance(b, Const) and b.value == 0 else Binary(Op.SUB, i, b)
                for i, b in zip(indices, bases, strict=True)
            ]
        physical: list[Expr] = []
        for part in self.layouts[name].parts:
            index = indices[part.dim]
            if part.stride != 1:
                index = Binary(Op.FLOORDIV, index, const(part.stride))
            if part.extent:
                index = Binary(Op.FLOORMOD, index, const(part.extent))
            physical.append(self._simplify(index))
        return self.buffers[name], tuple(physical)

    def _value(self, stage: StageNest, body: Expr) -> Expr:
        """The body with axes replaced by their indices and reads by physical loads."""
        mapping = {a.name: self._index(stage, a.name) for a in stage.axes}
        placed = walk.substitute(body, mapping)

        def turn(expr: Expr) -> Expr:
            if isinstance(expr, Load):
                return Load(*self._element(expr.buffer.name, expr.indices))
            return expr

        return self._simplify(walk.rewrite_expr(placed, turn))

    def _index(self, stage: StageNest, axis: str) -> Expr:
        index = stage.axis(axis).index
        if index is None:
            raise LoweringError(f"{axis} has no index")
        return index

    def _target(self, stage: StageNest) -> tuple[Buffer, tuple[Expr, ...]]:
        return self._element(
            stage.name, [self._index(stage, a.name) for a in stage.axes if not a.is_reduce]
        )

    def _guards(self, stage: StageNest) -> list[Expr]:
        """The conditions for an iteration to count, without those that always hold."""
        conditions: list[Expr] = [
            Binary(Op.LT, stage.recovered[g.loop], const(int(g.extent))) for g in stage.guards
        ]
        if stage.attach is not None:
            spatial = [a for a in stage.axes if not a.is_reduce]
            for axis, extent in zip(spatial, stage.tensor.shape, strict=True):
                index = self._index(stage, axis.name)
                if not self._ends_within(axis, extent):
                    conditions.append(Binary(Op.LT, index, const(extent)))
                conditions.append(Binary(Op.GE, index, const(0)))
        simple = [self._simplify(c) for c in conditions]
        return [c for c in simple if prove(c, self.ranges) is not True]

    def _ends_within(self, axis: AxisNest, extent: int) -> bool:
        """True when the part of `axis` that is computed never ends past `extent`."""
        base = const(0) if axis.base is None else axis.base
        last = Binary(Op.ADD, base, const(int(axis.extent) - 1))
        return prove(Binary(Op.LT, self._simplify(last), const(extent)), self.ranges) is True

    # statements

    def _stage(self, stage: StageNest) -> Stmt:
        cut = self._cut(stage)
        is_reduction = isinstance(stage.body, Reduce)
        body = self._reduction(cut) if is_reduction else self._elementwise(cut)
        reduces = [depth for depth, loop in enumerate(cut.outer) if _reduces(loop)]
        for depth in range(len(cut.outer) - 1, -1, -1):
            body = self._loop(cut, cut.outer[depth], body, cut.guards)
            if reduces and depth == reduces[0]:
                body = block(self._start(cut, cut.loops[depth:]), body)
        return guarded([g for g in cut.guards if _innermost(g, cut.loops) is None], body)

    def _cut(self, stage: StageNest) -> _Cut:
        loops = [n for n in stage.loops if n.extent != 1 or n.id in self.attached]
        inner = len(loops)
        while inner > 0 and _in_tile(loops[inner - 1]):
            inner -= 1
        guards = tuple(self._guards(stage))
        return _Cut(stage, tuple(loops[:inner]), tuple(loops[inner:]), guards)

    def _loop(self, cut: _Cut, loop: NestLoop, body: Stmt, guards: Sequence[Expr]) -> Stmt:
        """`body` in `loop`, after the stages computed there; one iteration needs no loop.

        Of `guards`, it tests those that use its variable and none of an inner loop.
        """
        producers = self.attached.get(loop.id, [])
        body = block(*(self._stage(p) for p in producers), body)
        for producer in reversed(producers):
            body = Alloc(self.buffers[producer.name], body)
        body = guarded([g for g in guards if _innermost(g, cut.loops) is loop], body)
        return body if loop.extent == 1 else For(loop.var, int(loop.extent), loop.kind, body)

    def _tile(self, cut: _Cut, make: Maker, *, again: bool = False) -> Stmt:
        """What `make` makes for a tile under guards, and for full tiles without any.

        `again` says that an element may be computed twice.
        """
        bound = {loop.var.name for loop in cut.tile}
        spatial = {loop.var.name for loop in cut.spatial}
        number = self.numbers[cut.stage.name]
        return specialise(make, cut.tile_guards, bound, spatial, self.ranges, number, again=again)

    def _through(self, cut: _Cut, body: Stmt, guards: Sequence[Expr]) -> Stmt:
        """`body` in the loops of the tile."""
        for loop in reversed(cut.tile):
            body = self._loop(cut, loop, body, guards)
        return body

    def _elementwise(self, cut: _Cut) -> Stmt:
        store = Store(*self._target(cut.stage), self._value(cut.stage, cut.stage.body))
        again = not self.in_place
        return self._tile(cut, lambda kept: self._through(cut, store, kept), again=again)

    def _reduction(self, cut: _Cut) -> Stmt:
        if cut.fits_registers:
            return self._accumulate_in_registers(cut)
        reduce = _reduce_of(cut.stage)
        buffer, indices = self._target(cut.stage)
        value = self._value(cut.stage, reduce.body)
        update = Store(buffer, indices, _fold(reduce, Load(buffer, indices), value))
        body = self._tile(cut, lambda kept: self._through(cut, update, kept))
        return body if cut.continues else block(self._start(cut, cut.tile), body)

    def _start(self, cut: _Cut, inside: Sequence[NestLoop]) -> Stmt:
        """Set the accumulators of the loops `inside` to the identity."""
        reduce = _reduce_of(cut.stage)
        store = Store(*self._target(cut.stage), identity(reduce.combiner, reduce.dtype))
        spatial = [loop for loop in inside if not loop.is_reduce and loop.extent != 1]
        return self._nest_of(spatial, store, cut.guards, ".start")

    def _accumulate_in_registers(self, cut: _Cut) -> Stmt:
        reduce = _reduce_of(cut.stage)
        buffer, indices = self._target(cut.stage)
        value = self._value(cut.stage, reduce.body)
        spatial = _vector_last(cut.spatial)
        shape = tuple(int(loop.extent) for loop in spatial) or (1,)
        registers = Buffer(f"{cut.stage.name}.acc", buffer.dtype, shape, Scope.REGISTER)
        slots: tuple[Expr, ...] = tuple(loop.var for loop in spatial) or (const(0),)
        begin = Store(registers, slots, identity(reduce.combiner, reduce.dtype))
        load = Store(registers, slots, Load(buffer, indices))
        update = Store(registers, slots, _fold(reduce, Load(registers, slots), value))
        finish = Store(buffer, indices, Load(registers, slots))

        def make(kept: Sequence[Expr]) -> Stmt:
            before = (load, kept) if cut.continues else (begin, ())
            body = block(
                self._nest_of(cut.spatial, *before, ".load"),
                self._through(cut, update, kept),
                self._nest_of(cut.spatial, finish, kept, ".store"),
            )
            return Alloc(registers, body)

        return self._tile(cut, make)

    def _nest_of(
        self, loops: Sequence[NestLoop], body: Stmt, guards: Sequence[Expr], suffix: str
    ) -> Stmt:
        """`body` inside copies of `loops` with new variables, and the guards on them."""
        fresh = {loop.var.name: Var(loop.var.name + suffix) for loop in loops}
        for old, new in fresh.items():
            self.ranges[new.name] = self.ranges[old]
        for loop in reversed(loops):
            body = guarded([g for g in guards if _innermost(g, loops) is loop], body)
            body = For(fresh[loop.var.name], int(loop.extent), loop.kind, body)
        return walk.substitute(body, fresh)


def _innermost(guard: Expr, loops: Sequence[NestLoop]) -> NestLoop | None:
    """The innermost of `loops` that `guard` depends on."""
    names = walk.names(guard)
    return next((loop for loop in reversed(loops) if loop.var.name in names), None)


def _in_tile(loop: NestLoop) -> bool:
    """True for the loops that may be part of a tile; see the head of this file."""
    if int(loop.extent) == 1 or loop.kind in _TILE_KINDS:
        return True
    return loop.is_reduce and loop.kind is LoopKind.SERIAL


def _vector_last(loops: Sequence[NestLoop]) -> tuple[NestLoop, ...]:
    """The vectorized loop innermost, so that its lanes are adjacent."""
    return tuple(sorted(loops, key=lambda loop: loop.kind is LoopKind.VECTORIZED))


def _reduces(loop: NestLoop) -> bool:
    return loop.is_reduce and loop.extent != 1


def _reduce_of(stage: StageNest) -> Reduce:
    if not isinstance(stage.body, Reduce):
        raise LoweringError(f"{stage.name} is not a reduction")
    return stage.body


def _fold(reduce: Reduce, total: Expr, value: Expr) -> Expr:
    return Binary(COMBINER_OP[reduce.combiner], total, value)

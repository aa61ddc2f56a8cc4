"""From a nest to loops: the statements that compute every stage where the schedule put it.

How a reduction becomes code. The loops at the end of a stage that are unrolled, vectorized or reduce
loops form its *tile*. The elements a tile adds to are kept in a register buffer: set to the identity (or
loaded, when reduce loops run outside the tile too), updated through the reduce loops, and stored once
behind them. Tails are guarded; `tails.specialise` makes a fast version without guards for full tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loopwright.errors import LoweringError, ScheduleError
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
from loopwright.ir.simplify import simplify
from loopwright.ir.stmt import Alloc, For, Kernel, LoopKind, Stmt, Store, block
from loopwright.layout import Layout
from loopwright.lower.tails import guarded, specialise
from loopwright.sched.nest import Nest, NestLoop, StageNest, nest
from loopwright.sched.schedule import Schedule

_TILE_KINDS = (LoopKind.UNROLLED, LoopKind.VECTORIZED)
MAX_TILE_BYTES = 64 * 64
"""Larger tiles than this (64 registers of 512 bits) are accumulated in memory: they would be spilled."""


def build_loops(schedule: Schedule, name: str | None = None) -> Kernel:
    """The kernel of a schedule, buffers not yet flattened.

    Raises: ScheduleError when the schedule has no meaning as loops, saying which stage and why.
    """
    analysed = nest(schedule)
    if analysed.size is not None:
        raise LoweringError("a batched schedule cannot be lowered; decode one config first")
    return _Builder(schedule, analysed).kernel(name or schedule.workload.name)


@dataclass(frozen=True, slots=True)
class _Tile:
    """The register buffer of a tile and the loops that index it."""

    buffer: Buffer
    loops: tuple[NestLoop, ...]

    def indices(self, rename: Callable[[Var], Expr]) -> tuple[Expr, ...]:
        return tuple(rename(loop.var) for loop in self.loops)


class _Builder:
    def __init__(self, schedule: Schedule, analysed: Nest) -> None:
        self.schedule = schedule
        self.nest = analysed
        self.layouts: dict[str, Layout] = {}
        self.buffers: dict[str, Buffer] = {}
        self.bases: dict[str, tuple[Expr, ...]] = {}
        self.ranges: dict[str, Interval] = {}
        self.attached: dict[tuple[str, str], list[StageNest]] = {}
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

    def _conditions(self, stage: StageNest) -> list[Expr]:
        """What must hold for an iteration to count, less what always holds."""
        conditions: list[Expr] = [
            Binary(Op.LT, stage.recovered[g.loop], const(int(g.extent))) for g in stage.guards
        ]
        if stage.attach is not None:
            spatial = [a for a in stage.axes if not a.is_reduce]
            for axis, extent in zip(spatial, stage.tensor.shape, strict=True):
                index = self._index(stage, axis.name)
                conditions.append(Binary(Op.LT, index, const(extent)))
                conditions.append(Binary(Op.GE, index, const(0)))
        simple = [self._simplify(c) for c in conditions]
        return [c for c in simple if prove(c, self.ranges) is not True]

    # statements

    def _stage(self, stage: StageNest) -> Stmt:
        loops = [n for n in stage.loops if int(n.extent) != 1 or (stage.name, n.id[1]) in self.attached]
        inner = len(loops)
        while inner > 0 and _in_tile(loops[inner - 1]):
            inner -= 1
        outer, tile = loops[:inner], loops[inner:]
        conditions = self._conditions(stage)
        body = (
            self._reduction(stage, outer, tile, conditions)
            if isinstance(stage.body, Reduce)
            else self._elementwise(stage, tile, conditions)
        )
        return self._wrap_outer(stage, outer, body, conditions)

    def _wrap_outer(
        self, stage: StageNest, outer: list[NestLoop], body: Stmt, conditions: list[Expr]
    ) -> Stmt:
        """The outer loops around `body`; the outermost reduce loop among them starts from the identity."""
        first_reduce = next(
            (d for d, n in enumerate(outer) if n.is_reduce and int(n.extent) != 1), None
        )
        for depth in range(len(outer) - 1, -1, -1):
            loop = outer[depth]
            body = self._loop(stage, loop, body)
            if depth == first_reduce:
                body = block(self._start(stage, outer[depth:], conditions), body)
        return body

    def _loop(self, stage: StageNest, loop: NestLoop, body: Stmt) -> Stmt:
        """`body` in `loop`, behind the stages computed there; one iteration needs no loop."""
        body = self._with_attached(stage, loop.id[1], body)
        return body if loop.extent == 1 else For(loop.var, int(loop.extent), loop.kind, body)

    def _with_attached(self, stage: StageNest, loop: str, body: Stmt) -> Stmt:
        producers = self.attached.get((stage.name, loop), [])
        body = block(*(self._stage(p) for p in producers), body)
        for producer in reversed(producers):
            body = Alloc(self.buffers[producer.name], body)
        return body

    def _start(self, stage: StageNest, inside: list[NestLoop], conditions: list[Expr]) -> Stmt:
        """Set what the loops `inside` (and the tile) accumulate into to the identity."""
        after = stage.loops[stage.loops.index(inside[0]) :]
        spatial = [loop for loop in after if not loop.is_reduce and int(loop.extent) != 1]
        buffer, indices = self._target(stage)
        reduce = stage.body
        if not isinstance(reduce, Reduce):
            raise LoweringError(f"{stage.name} is not a reduction")
        store: Stmt = Store(buffer, indices, identity(reduce.combiner, reduce.dtype))
        reduce_vars = {loop.var.name for loop in stage.loops if loop.is_reduce}
        own = [c for c in conditions if not _uses(c, reduce_vars)]
        return self._nest_of(spatial, guarded(own, store), ".start")

    def _elementwise(self, stage: StageNest, tile: list[NestLoop], conditions: list[Expr]) -> Stmt:
        buffer, indices = self._target(stage)
        store = Store(buffer, indices, self._value(stage, stage.body))

        def make(kept: Sequence[Expr]) -> Stmt:
            body: Stmt = guarded(kept, store)
            for loop in reversed(tile):
                body = self._loop(stage, loop, body)
            return body

        return specialise(make, conditions, {t.var.name for t in tile}, self.ranges)

    def _reduction(
        self,
        stage: StageNest,
        outer: list[NestLoop],
        tile: list[NestLoop],
        conditions: list[Expr],
    ) -> Stmt:
        reduce = stage.body
        if not isinstance(reduce, Reduce):
            raise LoweringError(f"{stage.name} is not a reduction")
        buffer, indices = self._target(stage)
        term = self._value(stage, reduce.body)
        op = COMBINER_OP[reduce.combiner]
        spatial = tuple(n for n in tile if not n.is_reduce and int(n.extent) != 1)
        nbytes = buffer.dtype.nbytes
        for loop in spatial:
            nbytes *= int(loop.extent)
        from_memory = any(n.is_reduce and int(n.extent) != 1 for n in outer)
        in_registers = nbytes <= MAX_TILE_BYTES and any(loop.is_reduce for loop in tile)
        if not in_registers:
            return self._accumulate_in_memory(stage, outer, tile, conditions, term, op)
        registers = Buffer(
            f"{stage.name}.acc",
            buffer.dtype,
            tuple(int(t.extent) for t in _vector_last(spatial)) or (1,),
            Scope.REGISTER,
        )
        slots = tuple(t.var for t in _vector_last(spatial)) or (const(0),)
        reduce_vars = {loop.var.name for loop in tile if loop.is_reduce}

        def make(kept: Sequence[Expr]) -> Stmt:
            own = [c for c in kept if not _uses(c, reduce_vars)]
            start: Stmt = (
                guarded(own, Store(registers, slots, Load(buffer, indices)))
                if from_memory
                else Store(registers, slots, identity(reduce.combiner, reduce.dtype))
            )
            update: Stmt = guarded(
                kept, Store(registers, slots, Binary(op, Load(registers, slots), term))
            )
            for loop in reversed(tile):
                update = self._loop(stage, loop, update)
            finish = guarded(own, Store(buffer, indices, Load(registers, slots)))
            return Alloc(
                registers,
                block(
                    self._nest_of(spatial, start, ".load"),
                    update,
                    self._nest_of(spatial, finish, ".store"),
                ),
            )

        names = {t.var.name for t in spatial}
        return specialise(make, conditions, names, self.ranges)

    def _accumulate_in_memory(
        self,
        stage: StageNest,
        outer: list[NestLoop],
        tile: list[NestLoop],
        conditions: list[Expr],
        term: Expr,
        op: Op,
    ) -> Stmt:
        buffer, indices = self._target(stage)
        update: Stmt = Store(buffer, indices, Binary(op, Load(buffer, indices), term))

        def make(kept: Sequence[Expr]) -> Stmt:
            body: Stmt = guarded(kept, update)
            for loop in reversed(tile):
                body = self._loop(stage, loop, body)
            return body

        body = specialise(make, conditions, {t.var.name for t in tile if not t.is_reduce}, self.ranges)
        if any(n.is_reduce and int(n.extent) != 1 for n in outer):
            return body
        return block(self._start(stage, tile, conditions), body) if tile else body

    def _nest_of(self, loops: Sequence[NestLoop], body: Stmt, suffix: str) -> Stmt:
        """`body` inside copies of `loops` with variables of their own."""
        fresh = {loop.var.name: Var(loop.var.name + suffix) for loop in loops}
        for old, new in fresh.items():
            self.ranges[new.name] = self.ranges[old]
        body = walk.substitute(body, fresh)
        for loop in reversed(loops):
            body = For(fresh[loop.var.name], int(loop.extent), loop.kind, body)
        return body


def _in_tile(loop: NestLoop) -> bool:
    """True for the loops that may be part of a tile; see the head of this file."""
    if int(loop.extent) == 1 or loop.kind in _TILE_KINDS:
        return True
    return loop.is_reduce and loop.kind is LoopKind.SERIAL


def _vector_last(loops: Sequence[NestLoop]) -> tuple[NestLoop, ...]:
    """The vectorized loop innermost, so that its lanes lie side by side."""
    return tuple(sorted(loops, key=lambda loop: loop.kind is LoopKind.VECTORIZED))


def _uses(expr: Expr, names: set[str]) -> bool:
    return any(v.name in names for v in walk.free_vars(expr))


def refuse_register_misuse(kernel: Kernel) -> None:
    """Raise ScheduleError when a register buffer is indexed by a loop that stays a loop."""
    fixed = {
        loop.var.name for loop in walk.loops(kernel.body) if loop.kind in _TILE_KINDS
    }
    for node in (*walk.loads(kernel.body), *walk.stores(kernel.body)):
        if node.buffer.scope is not Scope.REGISTER:
            continue
        for index in node.indices:
            for var in walk.free_vars(index):
                if var.name not in fixed:
                    raise ScheduleError(
                        f"{kernel.name}: {node.buffer.name} is kept in registers but is indexed by the "
                        f"loop {var.name}; unroll or vectorize that loop, or set_scope('local')"
                    )

"""Loops for any stage on CPUs: vectors along what is contiguous where it is written.

    rows, or outer parts (parallel, fused until there are enough for the threads)
      reduce loops
        tile: unrolled columns or vectors
          vector

Parts of axes that every access traverses at one stride become one loop, so that the length of a
last axis does not matter. Stages computed in the rows of another get loops of the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loopwright.ir import walk
from loopwright.ir.expr import Expr, Reduce
from loopwright.sched.nest import inline_all
from loopwright.sched.schedule import Loop, Schedule, Stage
from loopwright.te.tensor import Compute, Tensor
from loopwright.templates.cpu.parts import LoopPart, Touches, parts_of, touches
from loopwright.templates.cpu.placement import Attached, Level, Placement, operations

LINE = 16
"""Steps along the lines of a tensor that is read across them: the floats of a cache line."""
MAX_SUMS = 12
"""Vectors of sums in the tile of a product: with its factors they fit 16 registers."""
MAX_UNROLLED = 36
"""The most vector operations of a reduction that are unrolled."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a config says: lanes of a vector, vectors or columns of a tile, work worth threads.

    `grain` is what a stage must cost, in simple operations, to be spread over threads (0: never);
    `chunks` is the least number of pieces.
    """

    lanes: int
    tile: int
    grain: int
    chunks: int = 16


@dataclass(frozen=True, slots=True)
class Nested:
    """A stage at root with its parts and how they access memory."""

    tensor: Tensor
    parts: tuple[LoopPart, ...]
    touches: Touches
    work: int
    weight: int


def analysed(s: Schedule, placement: Placement, name: str, lanes: int) -> Nested:
    """The parts of the stage `name` and the accesses of every stage computed in its tile."""
    state = inline_all(s.state)
    tensor = state.stages[name].tensor
    bodies = [state.stages[name].op.body]
    work = _work(tensor)
    for inner in placement.inside(name):
        own = state.stages[inner.name].tensor
        work += _work(own)
        if inner.level is Level.TILE:
            bodies.append(_in_terms_of(own, inner, tensor))
    parts = parts_of(s, tensor, bodies)
    weight = sum(operations(body) for body in bodies)
    return Nested(tensor, tuple(parts), touches(s, tensor, parts, bodies, lanes), work, weight)


def _work(tensor: Tensor) -> int:
    if not isinstance(tensor.op, Compute):
        return 0
    folded = math.prod(axis.extent for axis in tensor.reduce_axis)
    return tensor.buffer.size * folded * (1 + operations(tensor.op.body) // 2)


def _in_terms_of(own: Tensor, inner: Attached, home: Tensor) -> Expr:
    """The body of a stage of the tile, with the axes of `home` in place of its own."""
    axes = zip(own.axis, inner.axes, strict=True)
    mapping: dict[str, Expr] = {v.name: home.axis[d] for v, d in axes if d is not None}
    body = own.op.body if isinstance(own.op, Compute) else None
    if isinstance(body, Reduce):
        return Reduce(body.combiner, walk.substitute(body.body, mapping), body.axes)
    if body is None:
        raise TypeError(f"{own.name} is an input")
    return walk.substitute(body, mapping)


def nest_root(
    s: Schedule, placement: Placement, name: str, wishes: Wishes, split: frozenset[str]
) -> None:
    """Give the stage `name`, at root, its loops, and place its inner stages in them.

    `split` are the stages that fold the parts of a split reduction.
    """
    found = analysed(s, placement, name, wishes.lanes)
    inside = placement.inside(name)
    rows = [a for a in inside if a.level is Level.ROW]
    row_dims = placement.row_axes(found.tensor) if rows else frozenset()
    if not found.tensor.shape:
        _unroll_folds(s[name], found.tensor, 1)
        return
    builder = _Nest(s, found, wishes, row_dims, has_tile=len(rows) < len(inside))
    builder.build(scalar_rows=any(a.name in split for a in rows))
    for inner in inside:
        at = builder.row_loop if inner.level is Level.ROW else builder.tile_loop
        s[inner.name].compute_at(name, at)
        s[inner.name].set_scope("local")
        _nest_inner(s, inner, builder.vector_dim, row_dims, wishes)


class _Nest:
    """The loops of one stage at root, step by step.

    `shared` loops are outermost and may run in parallel, `middle` ones follow, then the reduce
    loops, the unrolled ones of the tile, and the lanes of a vector.
    """

    def __init__(
        self, s: Schedule, found: Nested, wishes: Wishes, rows: frozenset[int], *, has_tile: bool
    ) -> None:
        self.stage = s[found.tensor]
        self.found = found
        self.wishes = wishes
        self.rows = rows
        self.has_tile = has_tile
        self.shared: list[Loop] = []
        self.middle: list[Loop] = []
        self.tile: list[Loop] = []
        self.lane: Loop | None = None
        self.vector_dim: int | None = None
        """The dimension that runs along the lanes, when it is exactly one."""

    @property
    def row_loop(self) -> Loop:
        """The loop that holds one row."""
        return self.shared[-1]

    @property
    def tile_loop(self) -> Loop:
        """The loop that holds one tile."""
        return (*self.shared, *self.middle)[-1]

    def build(self, *, scalar_rows: bool) -> None:
        """Split, order and annotate the loops."""
        parts = self.found.parts
        loops = dict(zip(parts, _split(self.stage, self.found.tensor, parts), strict=True))
        wide = [p for p in parts if p.extent > 1]
        outer = [p for p in parts if p.extent == 1]
        outer += [p for p in wide if p.dim in self.rows]
        inner = [p for p in wide if p.dim not in self.rows]
        along_row = bool(self.rows and wide) and wide[-1].dim in self.rows
        group: list[LoopPart] = []
        if along_row and not scalar_rows:
            group = [outer.pop()]
        elif inner:
            group = self._group(inner)
            inner = inner[: len(inner) - len(group)]
        across = None
        if not self.rows:
            across = self._across(inner, group)
            within = [p for p in inner if not p.own and not self.has_tile and p != across]
            outer += [p for p in inner if p not in within]
            inner = within
        self._place(loops, outer, inner, group, in_row=along_row)
        if across is not None:
            self._walk_lines(loops[across], across.extent)
        self._annotate()

    def _group(self, inner: Sequence[LoopPart]) -> list[LoopPart]:
        """The innermost parts that form one loop for every access."""
        group = list(inner[-1:])
        for part in reversed(inner[:-1]):
            if self.has_tile or not self.found.touches.collapses(part, group[0]):
                break
            group.insert(0, part)
        return group

    def _across(self, inner: Sequence[LoopPart], group: Sequence[LoopPart]) -> LoopPart | None:
        """The part along which the largest tensor read is contiguous, where the vectors are not."""
        reads = self.found.touches.reaches[1:]
        if self.folds or not reads or not group:
            return None
        largest = max(reads, key=lambda r: r.size)
        if largest.stride(group[-1].name) in (0, 1):
            return None
        return next((p for p in inner if largest.stride(p.name) == 1), None)

    def _walk_lines(self, loop: Loop, extent: int) -> None:
        """Run a piece of `loop` inside the loop over vectors, to use whole cache lines."""
        sizes = [n for n in range(LINE, LINE // 4, -1) if extent % n == 0]
        place = self.shared.index(loop)
        self.shared[place], piece = self.stage.split(loop, sizes[0] if sizes else LINE)
        self.middle.append(piece)
        self.stage.reorder(*self.shared, *self.middle, *self.tile, *self._lanes)

    @property
    def folds(self) -> bool:
        """True when elements of a tile are folded in registers."""
        return bool(self.found.tensor.reduce_axis) or self.has_tile

    @property
    def _lanes(self) -> list[Loop]:
        return [] if self.lane is None else [self.lane]

    def _place(
        self,
        loops: Mapping[LoopPart, Loop],
        outer: Sequence[LoopPart],
        inner: Sequence[LoopPart],
        group: Sequence[LoopPart],
        *,
        in_row: bool,
    ) -> None:
        """Put the loops in order; those of `group` are fused and split into vectors."""
        stage = self.stage
        reduces = [n for n in stage.loops if n.name in _reduce_names(self.found.tensor)]
        self.shared = [loops[p] for p in outer]
        self.middle = [loops[p] for p in inner]
        vector = [loops[p] for p in group]
        stage.reorder(*self.shared, *self.middle, *vector, *reduces)
        if not vector:
            return
        extent = math.prod(p.extent for p in group)
        vectors = 1 if in_row else self._vectors(extent)
        columns = self._columns(outer, inner, vectors) if not in_row else None
        whole = stage.fuse(*vector) if len(vector) > 1 else vector[0]
        over, within = stage.split(whole, self.wishes.lanes * vectors)
        step, self.lane = stage.split(within, self.wishes.lanes)
        self.vector_dim = group[0].dim if len(group) == 1 else None
        self.tile = [step]
        if columns is not None:
            part, size = columns
            among = self.shared if part in outer else self.middle
            place = among.index(loops[part])
            among[place], column = stage.split(loops[part], size)
            self.tile = [column, step]
        if in_row or not self.rows:
            self.shared.append(over)
        else:
            self.middle.append(over)
        stage.reorder(*self.shared, *self.middle, *reduces, *self.tile, self.lane)

    def _vectors(self, extent: int) -> int:
        """Vectors of a tile: a number that divides the extent, or wastes little of it."""
        lanes = self.wishes.lanes
        most = self.wishes.tile if self.found.weight <= 4 else 2 if self.found.weight <= 8 else 1
        for count in range(most, 1, -1):
            if extent % (lanes * count) == 0 or extent >= 8 * lanes * count:
                return count
        return 1

    def _columns(
        self, outer: Sequence[LoopPart], inner: Sequence[LoopPart], vectors: int
    ) -> tuple[LoopPart, int] | None:
        """The part next to the vectors, and how many of its steps are in a tile of a reduction."""
        near = [p for p in (*outer, *inner) if p.extent > 1 and p.own]
        if not self.folds or not near or self.wishes.tile < 2:
            return None
        extent = near[-1].extent
        most = self.wishes.tile + 2
        if vectors > 1:  # then columns pay off only for products, whose factors they share
            most = MAX_SUMS // vectors if len(self.found.touches.reaches) > 2 else 1
        sizes = range(min(extent, most), 1, -1)
        size = min(sizes, key=lambda n: (-(-extent // n) * n, -n), default=1)
        return (near[-1], size) if size > 1 else None

    def _annotate(self) -> None:
        size = math.prod(_steps(loop) for loop in self.tile)
        _unroll_folds(self.stage, self.found.tensor, size)
        for loop in self.tile:
            self.stage.unroll(loop)
        if self.lane is not None:
            self.stage.vectorize(self.lane)
        self._share()

    def _share(self) -> None:
        """Fuse outer loops until there are enough iterations, and spread them over the threads."""
        if not self.shared:
            return
        if self.rows:
            fused = self.stage.fuse(*self.shared) if len(self.shared) > 1 else self.shared[0]
            self.shared = [fused]
        else:
            count, taken = 1, 0
            while taken < len(self.shared) and count < self.wishes.chunks:
                count *= _steps(self.shared[taken])
                taken += 1
            fused = self.stage.fuse(*self.shared[:taken]) if taken > 1 else self.shared[0]
            self.shared = [fused, *self.shared[taken:]]
        if 0 < self.wishes.grain <= self.found.work and _steps(fused) > 1:
            self.stage.parallel(fused)


def _steps(loop: Loop) -> int:
    """The iterations of a loop. Requires: no batch of sizes; the steps here never have one."""
    return int(loop.extent) if isinstance(loop.extent, int) else 1


def _reduce_names(tensor: Tensor) -> frozenset[str]:
    return frozenset(axis.var.name for axis in tensor.reduce_axis)


def _split(stage: Stage, tensor: Tensor, parts: Sequence[LoopPart]) -> list[Loop]:
    """A loop for each of `parts`, in their order."""
    found: dict[LoopPart, Loop] = {}
    axes = {var.name: loop for var, loop in zip(tensor.axis, stage.loops, strict=False)}
    for dim, var in enumerate(tensor.axis):
        rest = axes[var.name]
        *others, last = sorted((p for p in parts if p.dim == dim), key=lambda p: -p.stride)
        for part in others:
            found[part], rest = stage.split(rest, part.stride)
        found[last] = rest
    return [found[part] for part in parts]


def _unroll_folds(stage: Stage, tensor: Tensor, size: int) -> None:
    """Unroll the innermost reduce loops while a tile of `size` vectors stays small with them."""
    for axis in reversed(tensor.reduce_axis):
        size *= axis.extent
        if size > MAX_UNROLLED:
            return
        stage.unroll(axis)


def _nest_inner(
    s: Schedule, inner: Attached, home_dim: int | None, rows: frozenset[int], wishes: Wishes
) -> None:
    """Loops for a stage computed inside those of another."""
    stage = s[inner.name]
    tensor = stage.tensor
    loops = dict(zip(range(tensor.ndim), stage.loops, strict=False))
    along = _vector_dim(tensor, inner, home_dim, rows)
    if along is None:
        _unroll_folds(stage, tensor, 1)
        return
    order = [d for d in range(tensor.ndim) if d != along]
    if along != tensor.ndim - 1:
        s.set_layout(inner.name, [*order, along])
    reduces = [n for n in stage.loops if n.name in _reduce_names(tensor)]
    in_tile = inner.level is Level.TILE
    extent = tensor.shape[along]
    whole = in_tile or inner.axes[along] in rows
    vectors = 1 if whole else max(n for n in (1, 2, 4) if extent >= n * wishes.lanes or n == 1)
    over, within = stage.split(loops[along], wishes.lanes * vectors)
    step, lane = stage.split(within, wishes.lanes)
    others = [loops[d] for d in order]
    if in_tile:
        stage.reorder(*reduces, *others, over, step, lane)
        for loop in (*others, over):
            stage.unroll(loop)
    else:
        stage.reorder(*others, over, *reduces, step, lane)
    stage.unroll(step)
    stage.vectorize(lane)
    _unroll_folds(stage, tensor, vectors * (wishes.tile if in_tile else 1))


def _vector_dim(
    tensor: Tensor, inner: Attached, home_dim: int | None, rows: frozenset[int]
) -> int | None:
    """The axis of an inner stage to vectorize: that of its home, or else its last one in a row."""
    if home_dim is not None and home_dim in inner.axes:
        return inner.axes.index(home_dim)
    within = [d for d, axis in enumerate(inner.axes) if axis not in rows and tensor.shape[d] > 1]
    return within[-1] if within and inner.level is Level.ROW else None

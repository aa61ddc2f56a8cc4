"""Where the stages of a workload are computed: inlined, in a loop of a reader, or at root.

A stage is inlined when recomputing it at every read is cheap. Any other stage that feeds a single
output (or stage at root) is computed inside the loops of that one: in its tile, when each element
is read once and at the same place, or in a row, the loops over the axes that it shares with its
reader.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loopwright.ir import walk
from loopwright.ir.expr import Binary, Call, Expr, Fn, Load, Op, Select, Var
from loopwright.sched.nest import inline_all
from loopwright.sched.schedule import Schedule
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload

MAX_EXTRA = 8
"""Extra operations per element allowed for inlining into several readers."""
MAX_INLINED = 400
"""Most nodes of a body inlined where it is read more than once: expressions grow by copies."""
_CHEAP = frozenset({Fn.NEG, Fn.NOT, Fn.ABS, Fn.FLOOR, Fn.CEIL, Fn.ROUND})
_ROOTS = frozenset({Fn.SQRT, Fn.RSQRT})


class Level(enum.Enum):
    """How deep inside its home a stage is computed."""

    ROW = "row"
    TILE = "tile"


@dataclass(frozen=True, slots=True)
class Attached:
    """A stage in the loops of `home`; `axes` has the axis of home for each of its own, or None."""

    name: str
    home: str
    level: Level
    axes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """The stages at root in the order of computation, each with the stages in its loops."""

    roots: tuple[str, ...]
    attached: Mapping[str, Attached]

    def inside(self, home: str) -> tuple[Attached, ...]:
        """What is computed in the loops of `home`."""
        return tuple(a for a in self.attached.values() if a.home == home)

    def row_axes(self, home: Tensor) -> frozenset[int]:
        """The axes of `home` that every stage in its rows has too; all of them if there is none."""
        rows = [a for a in self.inside(home.name) if a.level is Level.ROW]
        return shared_axes(home, [a.axes for a in rows])


def shared_axes(home: Tensor, maps: Sequence[tuple[int | None, ...]]) -> frozenset[int]:
    """The axes of `home` that are in all of `maps`; those of extent 1 always are."""
    everywhere = {d for d, extent in enumerate(home.shape) if extent == 1}
    found = frozenset(range(home.ndim))
    for axes in maps:
        found &= frozenset(d for d in axes if d is not None) | everywhere
    return found


def operations(body: Expr) -> int:
    """The cost of one evaluation in simple operations; index arithmetic is free."""
    total = 0
    pending: list[Expr] = [body]
    while pending:
        expr = pending.pop()
        if isinstance(expr, Load):
            continue
        if isinstance(expr, Select):
            pending += [expr.yes, expr.no]
            if walk.loads(expr.cond):
                pending.append(expr.cond)
                total += 1
            continue
        total += _weight(expr)
        pending.extend(walk.exprs(expr))
    return total


def _weight(expr: Expr) -> int:
    match expr:
        case Binary(op=op):
            return 4 if op in (Op.DIV, Op.FLOORDIV, Op.FLOORMOD) else 1
        case Call(fn=fn):
            return 1 if fn in _CHEAP else 4 if fn in _ROOTS else 10
        case _:
            return 0


def inlined_stages(workload: Workload) -> frozenset[str]:
    """The names of the stages to inline."""
    outputs = {t.name for t in workload.outputs}
    evaluations: dict[str, int] = {}
    chosen: set[str] = set()
    for tensor in reversed(workload.stages):
        readers = [r for r in workload.stages if any(i.name == tensor.name for i in r.inputs)]
        times = sum(evaluations[r.name] * _reads(r, tensor.name) for r in readers)
        own = tensor.buffer.size
        if _inlines(tensor, times, own) and tensor.name not in outputs:
            chosen.add(tensor.name)
            evaluations[tensor.name] = times
        else:
            folded = math.prod(axis.extent for axis in tensor.reduce_axis)
            evaluations[tensor.name] = own * folded
    return frozenset(chosen)


def _inlines(tensor: Tensor, times: int, own: int) -> bool:
    if tensor.is_reduction or not isinstance(tensor.op, Compute):
        return False
    if times <= own:
        return True
    body = tensor.op.body
    if sum(1 for _ in walk.visit(body)) > MAX_INLINED:
        return False
    return operations(body) * (times - own) <= MAX_EXTRA * own


def _reads(reader: Tensor, name: str) -> int:
    """How many distinct elements of a tensor one evaluation of `reader` reads."""
    found: list[Load] = []
    for load in _loads_of(reader, name):
        if not any(walk.same(load, other) for other in found):
            found.append(load)
    return len(found)


def _loads_of(reader: Tensor, name: str) -> list[Load]:
    if not isinstance(reader.op, Compute):
        return []
    return [load for load in walk.loads(reader.op.body) if load.buffer.name == name]


def place(s: Schedule) -> Placement:
    """Where to compute each stage that is not inlined."""
    state = inline_all(s.state)
    tensors = {name: stage.tensor for name, stage in state.stages.items()}
    attached: dict[str, Attached] = {}
    for name in reversed(list(tensors)):
        if state.is_output(name):
            continue
        found = _home(name, tensors, attached)
        if found is None:
            continue
        home = tensors[found.home]
        maps = [a.axes for a in attached.values() if a.home == home.name and a.level is Level.ROW]
        if found.level is Level.ROW:
            maps.append(found.axes)
        if _extent(home, shared_axes(home, maps)) > 1:
            attached[name] = found
    order = [name for name in tensors if name in attached]
    roots = tuple(name for name in tensors if name not in attached)
    return Placement(roots, {name: attached[name] for name in order})


def _extent(home: Tensor, axes: frozenset[int]) -> int:
    return math.prod(home.shape[d] for d in axes)


def _home(
    name: str, tensors: Mapping[str, Tensor], attached: Mapping[str, Attached]
) -> Attached | None:
    """The one stage at root that all readers of `name` belong to, and how its axes map."""
    readers = [t for t in tensors.values() if any(i.name == name for i in t.inputs)]
    homes = {attached[r.name].home if r.name in attached else r.name for r in readers}
    if len(homes) != 1:
        return None
    (home,) = homes
    own = tensors[name]
    axes: list[int | None] | None = None
    same_place = True
    for reader in readers:
        to_home = attached[reader.name].axes if reader.name in attached else None
        in_tile = reader.name not in attached or attached[reader.name].level is Level.TILE
        same_place = same_place and in_tile and not reader.is_reduction
        for load in _loads_of(reader, name):
            found = _mapped(load, reader, to_home)
            axes = found if axes is None else _agreeing(axes, found)
    if axes is None:
        return None
    covers = all(d in axes or extent == 1 for d, extent in enumerate(tensors[home].shape)) and all(
        d is not None or extent == 1 for d, extent in zip(axes, own.shape, strict=True)
    )
    level = Level.TILE if covers and same_place else Level.ROW
    return Attached(name, home, level, tuple(axes))


def _mapped(load: Load, reader: Tensor, to_home: tuple[int | None, ...] | None) -> list[int | None]:
    """The axis of home that each index of `load` is; None where it is something else."""
    places = {var.name: d for d, var in enumerate(reader.axis)}
    found: list[int | None] = []
    for index in load.indices:
        axis = places.get(index.name) if isinstance(index, Var) else None
        if axis is not None and to_home is not None:
            axis = to_home[axis]
        found.append(None if axis in found else axis)
    return found


def _agreeing(a: Sequence[int | None], b: Sequence[int | None]) -> list[int | None]:
    return [x if x == y else None for x, y in zip(a, b, strict=True)]

"""Layout changes on CPUs: a copy between row-major memory and a blocked layout.

Lanes run along what is contiguous where it is written: stores are dense and loads gather. From
NCHW to NCHW16c and back that takes half the time of dense loads with scattered stores. Packing
walks the blocked memory front to back. Unpacking writes one vector for each element of a block
before it moves on, so that the lines it gathers from are still in the nearest cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from loopwright.ir.dtype import DType
from loopwright.layout import Layout, Part
from loopwright.sched.schedule import Loop, Schedule, Stage
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space
from loopwright.target.union import Target
from loopwright.te.tensor import compute, placeholder
from loopwright.te.workload import Workload, workload
from loopwright.templates.task import Task, make
from loopwright.templates.template import Configuration, Template

VERSION = 1
_UNROLLED = (1, 2, 4, 8, 16)


def copy(shape: Sequence[int], dtype: DType) -> Workload:
    """The workload that copies a tensor."""
    data = placeholder(shape, dtype, "data")
    output = compute(shape, lambda *at: data[at], name="output")
    return workload(output, [data, output], name="relayout")


def task_of(
    shape: Sequence[int],
    dtype: DType,
    before: Layout,
    after: Layout,
    target: Target,
    threads: int,
    alignment: int,
) -> tuple[Task, Config]:
    """The task of copying a tensor from one layout into another, and a good config of it.

    Its workload has as few dimensions as the change allows. Of two blocked layouts, `before` is
    left to the schedule that `after` asks for.
    """
    row_major = after.is_row_major(shape)
    extents, layout = merged(shape, before if row_major else after)
    of = copy(extents, dtype)
    layouts: tuple[tuple[str, Layout], ...] = ()
    if not row_major and not before.is_row_major(shape):
        of, layout, layouts = copy(shape, dtype), after, (("data", before),)
    packs = not row_major
    task = make(
        of,
        template(layout, packs=packs),
        target,
        threads=threads,
        layouts=layouts,
        alignment=alignment,
    )
    return task, good_config(of, target, packs=packs)


def merged(shape: Sequence[int], layout: Layout) -> tuple[tuple[int, ...], Layout]:
    """The same change of layout with as few dimensions as can be.

    Dimensions that stay neighbours become one; one of a single element is left out.
    """
    blocked = {part.dim for part in layout.parts if part.extent}
    parts = [p for p in layout.parts if shape[p.dim] > 1 or p.dim in blocked]
    order = [p.dim for p in parts]
    dims = sorted(set(order))
    groups: list[list[int]] = []
    for dim in dims:
        last = groups[-1][-1] if groups else None
        if last is not None and not {last, dim} & blocked:
            where = order.index(last)
            if order[where + 1 : where + 2] == [dim]:
                groups[-1].append(dim)
                continue
        groups.append([dim])
    number = {group[0]: n for n, group in enumerate(groups)}
    kept = tuple(Part(number[p.dim], p.stride, p.extent) for p in parts if p.dim in number)
    extents = tuple(math.prod(shape[dim] for dim in group) for group in groups)
    return extents, Layout(kept)


def template(layout: Layout, *, packs: bool) -> Template:
    """How to copy into `layout` (`packs`) or out of it; the other side is row-major.

    The row-major side may lie at any address that its dtype may.
    """
    return Template(
        f"cpu.relayout.{'to' if packs else 'from'}.{layout}",
        VERSION,
        functools.partial(space, packs=packs),
        functools.partial(schedule, layout=layout, packs=packs),
        any_address=True,
    )


def space(of: Workload, target: Target, *, packs: bool) -> Space:
    """The knobs: lanes of a vector, and how many vectors are copied without a loop."""
    return Space(
        (ChoiceKnob("lanes", _lanes(of, target, packs=packs)), ChoiceKnob("unroll", _UNROLLED))
    )


def good_config(of: Workload, target: Target, *, packs: bool) -> Config:
    """The config to use without tuning: near the best for NCHW16c on AVX-512."""
    lanes = _lanes(of, target, packs=packs)[0]
    return Config.of({"lanes": lanes, "unroll": 4 if packs else 16})


def _lanes(of: Workload, target: Target, *, packs: bool) -> tuple[int, ...]:
    """Whole vectors and halves of them, the better first."""
    whole = max(2, target.lanes(of.outputs[0].dtype))
    return (whole, whole // 2) if packs or whole <= 8 else (whole // 2, whole)


def schedule(s: Schedule, config: Configuration, *, layout: Layout, packs: bool) -> None:
    """Apply the knobs; see the head of this file for the loops."""
    (source,), (output,) = s.workload.inputs, s.workload.outputs
    s.set_layout(output if packs else source, layout.order)
    stage = s[output]
    loops = _part_loops(stage, layout)
    if packs:
        *outer, last = loops
        tile: list[Loop] = []
    else:
        outer, tile, last = _by_lines(layout, loops)
    over, vector = stage.split(last, config.integer("lanes"))
    order = [*outer, *tile, over] if packs else [*outer, over, *tile]
    line, step = stage.split(order[-1], config.integer("unroll"))
    stage.reorder(*order[:-1], line, step, vector)
    stage.unroll(step)
    stage.vectorize(vector)
    shared = outer[:2] if len(outer) > 2 or not packs else outer[:1]
    if shared and order[-1] not in shared:
        stage.parallel(stage.fuse(*shared) if len(shared) == 2 else shared[0])


def _part_loops(stage: Stage, layout: Layout) -> list[Loop]:
    """One loop for each part of the layout, in its order."""
    found: dict[Part, Loop] = {}
    for dim, axis in enumerate(stage.loops):
        rest = axis
        *parts, innermost = sorted((p for p in layout.parts if p.dim == dim), key=_by_stride)
        for part in parts:
            found[part], rest = stage.split(rest, part.stride)
        found[innermost] = rest
    return [found[part] for part in layout.parts]


def _by_stride(part: Part) -> int:
    return -part.stride


def _by_lines(layout: Layout, loops: Sequence[Loop]) -> tuple[list[Loop], list[Loop], Loop]:
    """The loops outside, those of the tile, and the one along the lines that are written."""
    of = dict(zip(layout.parts, loops, strict=True))
    along = min((p for p in of if p.dim == layout.ndim - 1), key=lambda p: p.stride)
    outer = sorted((p for p in of if not p.extent and p != along), key=lambda p: p.dim)
    tile = [p for p in of if p.extent and p != along]
    return [of[p] for p in outer], [of[p] for p in tile], of[along]

"""Layout changes on CPUs: a copy between row-major memory and a blocked layout.

Lanes run along the contiguous dimension of the destination: stores are dense and loads gather.
From NCHW to NCHW16c and back that takes half the time of dense loads with scattered stores. Packing
writes the blocked memory in order. Unpacking writes one vector for each element of a block
before it moves on, so that the lines it gathers from are still in L1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from loopwright.layout import Layout, Part
from loopwright.sched.schedule import Loop, Schedule, Stage
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space
from loopwright.target.union import Target
from loopwright.te.workload import Workload
from loopwright.templates.template import Configuration, Template

VERSION = 1
_UNROLLED = (1, 2, 4, 8, 16)


def template(layout: Layout, *, packs: bool) -> Template:
    """How to copy into `layout` (`packs`) or out of it; the other side is row-major.

    The row-major side may have any address that is aligned for its dtype.
    """
    return Template(
        f"cpu.relayout.{'to' if packs else 'from'}.{layout}",
        VERSION,
        functools.partial(space, packs=packs),
        functools.partial(schedule, layout=layout, packs=packs),
        any_address=True,
        default=functools.partial(good_config, packs=packs),
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
    """Whole and half vectors, the better first."""
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

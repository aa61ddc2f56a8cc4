"""The derived template: a space for any workload, from its tensor expressions alone.

Stages that only rearrange or combine elements are inlined into elementwise readers. In every other
stage the last axis is vectorized, reductions get a register tile over the last two axes with the
reduce loops around it, and the outermost axes run in parallel.
"""

from __future__ import annotations

import numpy.typing as npt

from loopwright.sched.schedule import Schedule
from loopwright.space.constraints import Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, SplitKnob
from loopwright.space.space import Space
from loopwright.target.union import Target
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.template import Configuration, Template


def space(workload: Workload, target: Target) -> Space:
    """Knobs for every stage that is not inlined: `<stage>.x`, `.y` and `.k`, and `lanes`."""
    lanes = target.lanes(workload.outputs[0].dtype)
    room = target.registers - 2
    knobs: list[Knob] = [ChoiceKnob("lanes", tuple(n for n in (lanes, lanes // 2) if n > 0))]
    constraints: list[Constraint] = []
    for tensor in kept_stages(workload):
        if not tensor.shape:
            continue
        x = f"{tensor.name}.x"
        knobs.append(_tile(x, -(-tensor.shape[-1] // lanes), 4))
        if not tensor.is_reduction:
            continue
        last = tensor.reduce_axis[-1].extent
        k = f"{tensor.name}.k"
        knobs.append(SplitKnob(k, last, policy="factors", max_factor=min(last, 8)))
        if tensor.ndim > 1:
            y = f"{tensor.name}.y"
            knobs.append(_tile(y, tensor.shape[-2], 8))
            constraints.append(_fits(x, y, room))
    return Space(knobs, constraints)


def _tile(name: str, extent: int, most: int) -> SplitKnob:
    sizes = tuple((n,) for n in (1, 2, 3, 4, 6, 8) if n <= min(extent, most))
    return SplitKnob(name, extent, policy="listed", candidates=sizes)


def _fits(x: str, y: str, room: int) -> Constraint:
    def within(columns: Columns) -> npt.ArrayLike:
        return columns[x][1] * columns[y][1] <= room

    return Constraint((x, y), within, f"the tile does not fit {room} registers")


def kept_stages(workload: Workload) -> tuple[Tensor, ...]:
    """The stages that are computed on their own; the others are inlined.

    A stage is inlined when it is elementwise, not an output, and only elementwise stages read it:
    then nothing that costs more than a load is computed twice.
    """
    kept = []
    for tensor in workload.stages:
        readers = [t for t in workload.stages if any(i.name == tensor.name for i in t.inputs)]
        is_output = any(t.name == tensor.name for t in workload.outputs)
        inlined = (
            not is_output
            and not tensor.is_reduction
            and len(readers) == 1
            and not readers[0].is_reduction
        )
        if not inlined:
            kept.append(tensor)
    return tuple(kept)


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs to every stage."""
    kept = kept_stages(s.workload)
    for tensor in s.workload.stages:
        if tensor not in kept:
            s[tensor].compute_inline()
    for tensor in kept:
        if tensor.shape:
            _tile_stage(s, tensor, config)


def _tile_stage(s: Schedule, tensor: Tensor, config: Configuration) -> None:
    stage = s[tensor]
    lanes = config.integer("lanes")
    *others, last = tensor.axis
    xt, xi = stage.split(last, config.sizes(f"{tensor.name}.x")[1] * lanes)
    xv, xl = stage.split(xi, lanes)
    outer = list(stage.loops[: len(others)])
    if tensor.is_reduction:
        *reduces, deepest = tensor.reduce_axis
        ko, ki = stage.split(deepest, config.sizes(f"{tensor.name}.k")[1])
        tile = []
        if others:
            yo, yi = stage.split(others[-1], config.sizes(f"{tensor.name}.y")[1])
            outer = [*outer[:-1], yo]
            tile = [yi]
        stage.reorder(*outer, xt, *reduces, ko, ki, *tile, xv, xl)
        stage.unroll(ki)
        for loop in tile:
            stage.unroll(loop)
    stage.unroll(xv)
    stage.vectorize(xl)
    stage.parallel(stage.fuse(*outer) if len(outer) > 1 else (outer[0] if outer else xt))


TEMPLATE = Template("derived", 1, space, schedule)

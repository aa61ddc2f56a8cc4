"""Depthwise separable convolution on CPUs: depthwise rows are made as the 1x1 part reads them.

The 1x1 part runs as a direct convolution does (`conv_loops.py`). For each block of rows the
depthwise part of all its channels is computed into a buffer that stays in the L2 cache, by vectors
of channels and tiles of `depth_w` pixels; the values between the two never go through memory. They
have no halo, so nothing is computed twice, unless blocks of output channels come first in `order`:
where maps are small, that is how cores share the work, and the depthwise part is a small share.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwright.errors import TemplateError
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.space.constraints import Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, KnobValue, SplitKnob
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.cpu import conv2d_default
from loopwright.templates.cpu.blocking import (
    completed,
    imbalance,
    of_floats,
    sizes_of,
    spans,
    store_as,
    tile_cycles,
    traffic_cycles,
)
from loopwright.templates.cpu.conv_loops import (
    MAX_UNROLLED,
    accumulators,
    channel_tiles,
    inner_loops,
    lane_choices,
    least_accumulators,
    listed_channel_tiles,
    outer_loops,
    row_tiles,
    suits_blocking,
    tile_widths,
)
from loopwright.templates.cpu.conv_roles import ConvRoles, added_to, moving_inputs
from loopwright.templates.cpu.depthwise import reduce_loops
from loopwright.templates.template import Configuration, CpuOnly, Template

_WIDEST = 8
"""Pixels per depthwise tile without tuning."""
_CACHE_SHARE = 0.5
"""The share of the L2 cache that a block of rows between the two parts may take."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The depthwise part, from `data` to `between`, and the 1x1 part, which reads `between`."""

    data: Tensor
    pad: Tensor | None
    weight: Tensor
    depth: Tensor
    between: Tensor
    pointwise: ConvRoles


def _parts(workload: Workload) -> _Parts:
    """Which tensor is which. Raises: TemplateError for anything but two such convolutions."""
    sums = [tensor for tensor in workload.stages if tensor.is_reduction]
    if [len(tensor.reduce_axis) for tensor in sums] != [2, 3]:
        raise TemplateError(f"{workload.name} is not a depthwise and a 1x1 convolution")
    depth, conv = sums
    computed = [tensor for tensor in conv.inputs if tensor.axis]
    sources = [tensor for tensor in depth.inputs if tensor.name in moving_inputs(depth)]
    if len(computed) != 1 or len(sources) != 1:
        raise TemplateError(f"{workload.name} is not a depthwise and a 1x1 convolution")
    between, source = computed[0], sources[0]
    pad = source if source.axis else None
    data = source if pad is None else pad.inputs[0]
    weight = next(tensor for tensor in depth.inputs if tensor is not source)
    point = next(tensor for tensor in conv.inputs if tensor is not between)
    added = added_to(workload, conv)
    pointwise = ConvRoles(between, point, conv, None, workload.outputs[0], added)
    return _Parts(data, pad, weight, depth, between, pointwise)


def space(workload: Workload, target: CpuTarget) -> Space:
    """The knobs; sizes are vectors for output channels, else elements."""
    parts = _parts(workload)
    conv = parts.pointwise.conv
    lanes = target.lanes(conv.dtype)
    _, channels, height, width = conv.shape
    vectors, blockings = -(-channels // lanes), lane_choices(channels, lanes)
    inputs = conv.reduce_axis[0].extent
    room = target.registers - 2
    taps_h, taps_w = (axis.extent for axis in parts.depth.reduce_axis)
    widths, rows = tile_widths(width, room), row_tiles(height)
    groups = listed_channel_tiles(channels, blockings)
    least = least_accumulators(width * height, room, widths, rows, groups)
    knobs: list[Knob] = [
        SplitKnob("tile_w", width, policy="listed", candidates=widths),
        SplitKnob("rows", height, parts=3, policy="listed", candidates=rows),
        SplitKnob("oc", vectors, parts=3, policy="listed", candidates=groups),
        SplitKnob("ic", inputs, policy="factors", max_factor=lanes),
        ChoiceKnob("lanes", blockings),
        ChoiceKnob("depth_lanes", (lanes,)),
        ChoiceKnob("order", ("rows,oc", "oc,rows")),
        ChoiceKnob("unroll_kw", (False,)),
        SplitKnob("depth_w", width, policy="listed", candidates=tile_widths(width, room - 2)),
        ChoiceKnob("unroll", ("kh,kw", "kw")),
    ]
    if parts.pad is not None:
        knobs.append(ChoiceKnob("pad", ("skip", "channel")))

    def fits(columns: Columns) -> npt.ArrayLike:
        tile = accumulators(columns)
        return (tile <= room) & (tile >= least)

    def not_too_long(columns: Columns) -> npt.ArrayLike:
        return accumulators(columns) * columns["ic"][1] <= MAX_UNROLLED

    def depth_not_too_long(columns: Columns) -> npt.ArrayLike:
        width = columns["depth_w"][1]
        return np.equal(width, 1) | np.less_equal(width * taps_h * taps_w, MAX_UNROLLED)

    long = f"the unrolled body has more than {MAX_UNROLLED} multiply-adds"
    return Space(
        knobs,
        (
            Constraint(("tile_w", "rows", "oc"), fits, f"the tile does not suit {room} registers"),
            Constraint(("tile_w", "rows", "oc", "ic"), not_too_long, long),
            Constraint(
                ("oc", "lanes"),
                lambda columns: suits_blocking(columns, channels, blockings),
                "the tile is not one of these lanes",
            ),
            Constraint(("depth_w",), depth_not_too_long, f"of the depthwise part {long}"),
        ),
    )


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs; see the head of this file for the loops."""
    parts = _parts(s.workload)
    role, lanes = parts.pointwise, config.integer("lanes")
    depth_lanes = config.integer("depth_lanes")
    blocked = (0, 1, 2, 3, (1, lanes))
    store_as(s, parts.data, [0, 1, 2, 3, (1, depth_lanes)])
    for tensor in (role.output, *role.added):
        store_as(s, tensor, blocked)
    store_as(s, parts.weight, [0, 1, 2, 3, (0, depth_lanes)])
    packed = (1, config.sizes("ic")[1]), (0, config.sizes("oc")[2] * lanes)
    store_as(s, role.weight, [0, 1, 2, 3, *packed])
    loops = outer_loops(s, role, config, lanes)
    if role.output is not role.conv:
        s.set_layout(role.conv, blocked)
        s[role.conv].compute_at(role.output, loops.tiles)
        s[role.conv].set_scope("register")
        inner_loops(s[role.conv], role.conv, config, lanes, [])
    s[role.output].parallel(loops.shared)
    s[parts.between].compute_at(role.output, loops.rows)
    _depthwise(s, parts, config, depth_lanes)


def _depthwise(s: Schedule, parts: _Parts, config: Configuration, lanes: int) -> None:
    """The loops of the depthwise part within a block of rows."""
    blocked = (0, 1, 2, 3, (1, lanes))
    stage, depth, pad = s[parts.between], parts.depth, parts.pad
    s.set_layout(parts.between, blocked)
    n, c, y, x = parts.between.axis
    outer, lane = stage.split(c, lanes)
    xo, xi = stage.split(x, config.sizes("depth_w")[1])
    stage.reorder(n, outer, y, xo, xi, lane)
    if parts.between is depth:
        reduce_loops(stage, depth, config, [xi, lane])
    else:
        stage.unroll(xi)
        stage.vectorize(lane)
        s[depth].compute_at(parts.between, xo)
        s[depth].set_scope("register")
        s.set_layout(depth, blocked)
        loops = {loop.name: loop for loop in s[depth].loops}
        tile = [loops[depth.axis[dim].name] for dim in (2, 3, 1)]
        reduce_loops(s[depth], depth, config, tile)
    if pad is None:
        return
    if config.text("pad") == "skip":
        s[pad].compute_inline()
        return
    s[pad].compute_at(parts.between, outer)
    s.set_layout(pad, blocked)
    n, c, y, x = pad.axis
    pad_outer, pad_lane = s[pad].split(c, lanes)
    s[pad].reorder(n, pad_outer, y, x, pad_lane)
    s[pad].vectorize(pad_lane)


def default(workload: Workload, target: CpuTarget) -> Config:
    """The register tile of the 1x1 part alone, and the blocks that cost least.

    Of the blocks of rows that stay in the L2 cache, larger ones read the weights less often;
    smaller ones spread more evenly over the cores.
    """
    parts, knobs = _parts(workload), space(workload, target)
    role = parts.pointwise
    tile = conv2d_default.register_tile(role, knobs, target)
    depth_w, depth_cycles = _depth_tile(parts, knobs, target)
    batch, channels, height, width = role.conv.shape
    inputs, lanes = role.conv.reduce_axis[0].extent, conv2d_default.blocking(knobs)
    vectors = -(-inputs // target.lanes(role.conv.dtype))
    line = vectors * width * target.vector_bits // 8
    weights = channels * inputs * role.conv.dtype.nbytes

    def cycles(rows: tuple[int, ...], oc: tuple[int, ...], order: str) -> float:
        by_rows = order == "rows,oc"
        work = tile.cycles + depth_cycles * vectors * height * (1 if by_rows else oc[0])
        shared = batch * (rows[0] if by_rows else oc[0])
        again = rows[0] if weights > target.l2 // 2 else 1
        return work * imbalance(shared, target.cores) + traffic_cycles(target, weights * again)

    of_tile = [value for value in sizes_of(knobs, "rows") if value[2] == tile.rows]
    cached = target.l2 * _CACHE_SHARE
    fitting = [v for v in of_tile if line * _rows(v) <= cached] or [min(of_tile, key=_rows)]
    whole = channel_tiles(-(-channels // lanes))
    groups = [v for v in sizes_of(knobs, "oc") if v[2] == tile.vectors and v[1:] in whole]
    rows, oc, order = min(
        itertools.product(fitting, groups, ("rows,oc", "oc,rows")),
        key=lambda found: (cycles(*found), -_rows(found[0]), found[1][0]),
    )
    chosen: dict[str, KnobValue] = {
        "lanes": lanes,
        "tile_w": tile.width,
        "rows": rows,
        "oc": oc,
        "order": order,
        "ic": conv2d_default.unrolled_inputs(knobs, tile),
        "depth_w": depth_w,
    }
    return completed(knobs, chosen)


def _depth_tile(parts: _Parts, knobs: Space, target: CpuTarget) -> tuple[tuple[int, ...], float]:
    """The split of the depthwise part's width, and cycles of a row of one vector of channels."""
    width = parts.depth.shape[3]
    taps = math.prod(axis.extent for axis in parts.depth.reduce_axis)

    def cycles(columns: tuple[int, ...]) -> float:
        tails = spans(width, columns[1])
        return sum(tile_cycles(target, w, 1, taps) * count for w, count in tails)

    best = min((w for w in sizes_of(knobs, "depth_w") if w[1] <= _WIDEST), key=cycles)
    return best, cycles(best)


def _rows(value: tuple[int, ...]) -> int:
    """Rows in a block."""
    return value[1] * value[2]


TEMPLATE = Template(
    "cpu.separable",
    1,
    CpuOnly(space),
    schedule,
    default=CpuOnly(default),
    blocking=("lanes",),
    is_for=of_floats,
)

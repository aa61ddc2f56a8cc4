"""Depthwise convolution on CPUs: one vector of channels, a register tile of rows x width.

Data and output are NCHW with the channel blocked by the lanes, the weight is [C/l][1][kh][kw][l].
Memory traffic is the limit, so the knobs are the tile, what is unrolled, and where the padded copy
is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from loopwright.sched.schedule import Loop, Schedule, Stage
from loopwright.space.config import Config
from loopwright.space.constraints import Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, KnobValue, SplitKnob
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.cpu.blocking import (
    completed,
    divides_nearly,
    of_floats,
    sizes_of,
    spans,
    store_as,
    tile_cycles,
)
from loopwright.templates.cpu.conv_roles import ConvRoles, find_roles
from loopwright.templates.template import Configuration, CpuOnly, Template

_WIDEST = 8
"""Pixels per tile without tuning."""
_FEW_TAPS = 9


def roles(workload: Workload) -> ConvRoles:
    """The roles of the tensors. Raises: TemplateError when it is not a depthwise convolution."""
    return find_roles(workload, 2, "a depthwise convolution of NCHW data")


def space(workload: Workload, target: CpuTarget) -> Space:
    """The knobs of a depthwise convolution."""
    role = roles(workload)
    lanes = target.lanes(role.conv.dtype)
    _, _, height, width = role.conv.shape
    room = target.registers - 4
    tiles = tuple((t,) for t in range(1, min(width, room) + 1) if divides_nearly(t, width))
    rows = tuple(
        (block, tile)
        for tile in (1, 2, 4)
        if divides_nearly(tile, height)
        for block in range(1, -(-height // tile) + 1)
        if -(-height // tile) % block == 0
    )
    knobs: list[Knob] = [
        ChoiceKnob("lanes", (lanes,)),
        SplitKnob("tile_w", width, policy="listed", candidates=tiles),
        SplitKnob("rows", height, 3, policy="listed", candidates=rows),
        ChoiceKnob("unroll", ("none", "kw", "kh,kw")),
    ]
    if role.pad is not None:
        knobs.append(ChoiceKnob("pad", ("rows", "channel", "root", "skip")))

    def fits(columns: Columns) -> npt.ArrayLike:
        return columns["tile_w"][1] * columns["rows"][2] <= room

    return Space(
        knobs, (Constraint(("tile_w", "rows"), fits, f"the tile does not fit {room} registers"),)
    )


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs."""
    role = roles(s.workload)
    lanes = config.integer("lanes")
    blocked = (0, 1, 2, 3, (1, lanes))
    same_channels = role.data.shape[1] == role.conv.shape[1]
    if same_channels:
        store_as(s, role.data, blocked)
    store_as(s, role.weight, [0, 1, 2, 3, (0, lanes)])
    for tensor in (role.output, *role.added):
        store_as(s, tensor, blocked)
    for tensor in s.workload.stages:
        if tensor not in (role.pad, role.conv, role.output):
            s[tensor].compute_inline()
    stage = s[role.output]
    n, c, y, x = role.output.axis
    _, rows_block, tile_h = config.sizes("rows")
    co, cl = stage.split(c, lanes)
    yt, yi = stage.split(y, tile_h)
    yo, ym = stage.split(yt, rows_block)
    xo, xi = stage.split(x, config.sizes("tile_w")[1])
    tile = [yi, xi, cl]
    stage.reorder(n, co, yo, ym, xo, *tile)
    if role.output is role.conv:
        reduce_loops(stage, role.conv, config, tile)
    else:
        stage.unroll(yi)
        stage.unroll(xi)
        stage.vectorize(cl)
    shared = stage.fuse(n, co)
    stage.parallel(shared)
    if role.output is not role.conv:
        s[role.conv].compute_at(role.output, xo)
        s[role.conv].set_scope("register")
        s.set_layout(role.conv, blocked)
        own = s[role.conv]
        loops = {loop.name: loop for loop in own.loops}
        yi, xi, cl = (
            loops[v.name] for v in (role.conv.axis[2], role.conv.axis[3], role.conv.axis[1])
        )
        reduce_loops(own, role.conv, config, [yi, xi, cl])
    if role.pad is not None:
        _place_pad(s, role.pad, role.output, config, shared, yo, same_channels=same_channels)


def reduce_loops(stage: Stage, conv: Tensor, config: Configuration, tile: Sequence[Loop]) -> None:
    """The loops over the taps around a `tile`: the loops to unroll, and the one over the lanes."""
    r, c = conv.reduce_axis
    stage.reorder(r, c, *tile)
    for loop in tile[:-1]:
        stage.unroll(loop)
    stage.vectorize(tile[-1])
    unroll = config.text("unroll")
    if unroll != "none":
        stage.unroll(c)
    if unroll == "kh,kw":
        stage.unroll(r)


def _place_pad(
    s: Schedule,
    pad: Tensor,
    output: Tensor,
    config: Configuration,
    channel_loop: Loop,
    rows_loop: Loop,
    *,
    same_channels: bool,
) -> None:
    """The padded copy: all ahead, by blocks of channels, by the rows read, or none."""
    stage = s[pad]
    lanes = config.integer("lanes")
    where = config.text("pad")
    if where == "skip":
        stage.compute_inline()
        return
    if where != "root":
        stage.compute_at(output, channel_loop if where == "channel" else rows_loop)
    if not same_channels:
        _, inner = stage.split(pad.axis[3], lanes)
        stage.vectorize(inner)
        return
    s.set_layout(pad, [0, 1, 2, 3, (1, lanes)])
    outer, inner = stage.split(pad.axis[1], lanes)
    stage.reorder(pad.axis[0], outer, pad.axis[2], pad.axis[3], inner)
    stage.vectorize(inner)
    if where == "root":
        stage.parallel(stage.fuse(pad.axis[0], outer))


def default(workload: Workload, target: CpuTarget) -> Config:
    """One row of pixels per tile; blocks of rows whose padded copy stays in L1."""
    role, knobs = roles(workload), space(workload, target)
    _, _, height, width = role.conv.shape
    kh, kw = (axis.extent for axis in role.conv.reduce_axis)
    widths = [w for w in sizes_of(knobs, "tile_w") if w[1] <= _WIDEST]

    def cycles(tile: tuple[int, ...]) -> float:
        return sum(tile_cycles(target, w, 1, kh * kw) * count for w, count in spans(width, tile[1]))

    line = role.padded.shape[3] * target.vector_bits // 8
    stride = max(1, (role.padded.shape[2] - kh) // max(1, height - 1))

    def copied(rows: tuple[int, ...]) -> int:
        return line * ((min(height, rows[1] * rows[2]) - 1) * stride + kh)

    single = [r for r in sizes_of(knobs, "rows") if r[2] == 1]
    fitting = [r for r in single if copied(r) <= target.l1 // 2] or single[:1]
    rows = max(fitting, key=lambda r: r[1])
    chosen: dict[str, KnobValue] = {
        "tile_w": min(widths, key=cycles),
        "rows": rows,
        "unroll": "kh,kw" if kh * kw <= _FEW_TAPS else "kw",
    }
    if role.pad is not None:
        chosen["pad"] = "channel" if rows[0] == 1 else "rows"
    return completed(knobs, chosen)


TEMPLATE = Template(
    "cpu.depthwise",
    1,
    CpuOnly(space),
    schedule,
    default=CpuOnly(default),
    is_for=of_floats,
)

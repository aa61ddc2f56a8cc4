"""Direct convolution in groups whose output channels do not fill vectors, on CPUs.

All lanes of a vector of output channels must read the same input channels, or every product
becomes a gather. So vectors are as long as a group allows: the largest power of two that divides
its output channels. A core with as many multiply-adds a cycle at half the vector length loses
nothing by that; at a quarter it loses half, far less than gathers or products with zeros.

Layouts are those of the neighbours: channels in blocks of the target's full vector where those
divide them, and a block may hold several vectors and groups. Loops are those of the direct
convolution (`conv_loops.py`); a register tile lies within one group.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.space.constraints import Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, SplitKnob
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.workload import Workload
from loopwright.templates.cpu import conv2d_default
from loopwright.templates.cpu.blocking import completed, of_floats, store_as
from loopwright.templates.cpu.conv2d_direct import roles
from loopwright.templates.cpu.conv_loops import (
    MAX_UNROLLED,
    accumulators,
    channel_tiles,
    inner_loops,
    least_accumulators,
    outer_loops,
    place_pad,
    row_tiles,
    tile_widths,
)
from loopwright.templates.cpu.conv_roles import ConvRoles
from loopwright.templates.template import Configuration, CpuOnly, Template

FULL = 16
"""Output channels of a group that fill vectors of every target."""
LEAST = 4
"""The shortest vector that is worth its instructions."""


def is_for(workload: Workload) -> bool:
    """Whether `workload` has groups of channels that fill short vectors only."""
    if not of_floats(workload):
        return False
    role = roles(workload)
    group = outputs_of_group(role)
    return group < role.conv.shape[1] and group % FULL != 0 and group % LEAST == 0


def outputs_of_group(role: ConvRoles) -> int:
    """The output channels of a group."""
    groups = role.data.shape[1] // role.conv.reduce_axis[0].extent
    return role.conv.shape[1] // groups


def block_of(channels: int, lanes: int) -> int:
    """The channels of a block in memory: the largest power of two up to `lanes` that divides."""
    block = lanes
    while channels % block:
        block //= 2
    return block


def space(workload: Workload, target: CpuTarget) -> Space:
    """The knobs of the direct convolution; tiles of output channels lie within a group."""
    role = roles(workload)
    full = target.lanes(role.conv.dtype)
    _, channels, height, width = role.conv.shape
    inputs, _, taps = (axis.extent for axis in role.conv.reduce_axis)
    lanes = block_of(outputs_of_group(role), full)
    within = outputs_of_group(role) // lanes
    tiles = [pair for pair in channel_tiles(channels // lanes) if within % pair[1] == 0]
    room = target.registers - 2
    widths, rows = tile_widths(width, room), row_tiles(height)
    least = least_accumulators(width * height, room, widths, rows, tiles)
    steps = min(inputs, full)
    knobs: list[Knob] = [
        SplitKnob("tile_w", width, policy="listed", candidates=widths),
        SplitKnob("rows", height, parts=3, policy="listed", candidates=rows),
        SplitKnob("oc", channels // lanes, parts=3, policy="listed", candidates=tuple(tiles)),
        SplitKnob("ic", inputs, policy="factors", max_factor=steps),
        ChoiceKnob("lanes", (lanes,)),
        ChoiceKnob("block", (block_of(channels, full),)),
        ChoiceKnob("data_block", (block_of(role.data.shape[1], full),)),
        ChoiceKnob("order", ("oc,rows", "rows,oc")),
        ChoiceKnob("unroll_kw", (False, True) if taps > 1 else (False,)),
    ]
    if role.pad is not None:
        knobs.append(ChoiceKnob("pad", ("root", "rows", "skip")))

    def fits(columns: Columns) -> npt.ArrayLike:
        tile = accumulators(columns)
        return (tile <= room) & (tile >= least)

    def not_too_long(columns: Columns) -> npt.ArrayLike:
        unrolled = accumulators(columns) * columns["ic"][1]
        return unrolled * np.where(columns["unroll_kw"], taps, 1) <= MAX_UNROLLED

    return Space(
        knobs,
        (
            Constraint(("tile_w", "rows", "oc"), fits, f"the tile does not suit {room} registers"),
            Constraint(
                ("tile_w", "rows", "oc", "ic", "unroll_kw"),
                not_too_long,
                f"the unrolled body has more than {MAX_UNROLLED} multiply-adds",
            ),
        ),
    )


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs; see the head of this file."""
    role = roles(s.workload)
    lanes, block = config.integer("lanes"), config.integer("block")
    data_block = config.integer("data_block")
    if data_block > 1:
        store_as(s, role.data, [0, 1, 2, 3, (1, data_block)])
    vectors = config.sizes("oc")[2] * lanes
    store_as(s, role.weight, [0, 1, 2, 3, (1, config.sizes("ic")[1]), (0, vectors)])
    for tensor in (role.output, *role.added):
        store_as(s, tensor, [0, 1, 2, 3, (1, block)])
    for tensor in s.workload.stages:
        if tensor not in (role.pad, role.conv, role.output):
            s[tensor].compute_inline()
    loops = outer_loops(s, role, config, lanes)
    if role.output is not role.conv:
        s.set_layout(role.conv, [0, 1, 2, 3, (1, lanes)])
        s[role.conv].compute_at(role.output, loops.tiles)
        s[role.conv].set_scope("register")
        inner_loops(s[role.conv], role.conv, config, lanes, [])
    s[role.output].parallel(loops.shared)
    if role.pad is not None:
        place_pad(s, role, config, loops.rows, data_block, vectorized=data_block > 1)


def default(workload: Workload, target: CpuTarget) -> Config:
    """The cheapest config by the model of the direct convolution."""
    knobs = space(workload, target)
    return completed(knobs, conv2d_default.choose(roles(workload), knobs, target))


TEMPLATE = Template(
    "cpu.conv2d_grouped",
    1,
    CpuOnly(space),
    schedule,
    default=CpuOnly(default),
    is_for=is_for,
)

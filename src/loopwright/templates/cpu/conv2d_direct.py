"""Direct convolution on CPUs: blocked channels, a register tile of width x output channels.

Layouts. Data and output are NCHW with the channel blocked by the vector lanes (NCHW16c with
AVX-512); data with few channels, or with an uneven remainder, stay NCHW. The weight is packed as
[O/t][I/b][kh][kw][b][t] with t output channels per tile and b input channels unrolled, so that the
inner loops read it sequentially.

Loops. Outermost blocks of output channels and rows in the order of knob `order`; inside, a tile of
`tile_h x tile_w x oc vectors` accumulators lives in registers while the reduce loops run:
one weight vector per channel block and one scalar broadcast per pixel feed all FMAs of the tile.
With `ic_blocks > 1` the tiles of a block of rows are summed over one block of input channels after
the other, so that small maps with many channels read their weights from L1 or L2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loopwright.sched.schedule import Schedule, Stage
from loopwright.space.config import Config
from loopwright.space.constraints import BoolArray, Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, SplitKnob
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.cpu import conv2d_default
from loopwright.templates.cpu.blocking import completed, of_floats, store_as
from loopwright.templates.cpu.conv_loops import (
    MAX_UNROLLED,
    accumulators,
    inner_loops,
    lane_choices,
    least_accumulators,
    listed_channel_tiles,
    outer_loops,
    place_pad,
    row_tiles,
    suits_blocking,
    tile_widths,
)
from loopwright.templates.cpu.conv_roles import ConvRoles, find_roles
from loopwright.templates.template import Configuration, CpuOnly, Template

MANY_PIXELS, FEW_INPUTS = 400, 64
"""With more pixels or fewer input channels, the weights of a tile stay in L1 or L2 anyway."""


def roles(workload: Workload) -> ConvRoles:
    """The roles of the tensors. Raises: TemplateError when it is not a convolution."""
    return find_roles(workload, 3, "a convolution of NCHW data with an OIHW weight")


def space(workload: Workload, target: CpuTarget) -> Space:
    """The knobs of a convolution; sizes are vectors for output channels, else elements."""
    role = roles(workload)
    lanes = target.lanes(role.conv.dtype)
    _, channels, height, width = role.conv.shape
    inputs = role.conv.reduce_axis[0].extent
    kernel_width = role.conv.reduce_axis[2].extent
    vectors = -(-channels // lanes)
    room = target.registers - 2
    blockings = lane_choices(channels, lanes)
    widths, rows = tile_widths(width, room), row_tiles(height)
    groups = listed_channel_tiles(channels, blockings)
    least = least_accumulators(width * height, room, widths, rows, groups)
    knobs: list[Knob] = [
        SplitKnob("tile_w", width, policy="listed", candidates=widths),
        SplitKnob("rows", height, parts=3, policy="listed", candidates=rows),
        SplitKnob("oc", vectors, parts=3, policy="listed", candidates=groups),
        _input_steps(role, lanes),
        ChoiceKnob("lanes", blockings),
        ChoiceKnob("order", ("oc,rows", "rows,oc")),
        ChoiceKnob("unroll_kw", (False, True) if kernel_width > 1 else (False,)),
    ]
    data_blockings = lane_choices(inputs, lanes) if _is_blocked(role, lanes) else (lanes,)
    if len(blockings) > 1 or len(data_blockings) > 1:
        knobs.append(ChoiceKnob("data_lanes", data_blockings))
    if role.pad is not None:
        knobs.append(ChoiceKnob("pad", ("root", "rows", "skip")))
    sums_blocks = role.output is not role.conv and width * height <= MANY_PIXELS
    if sums_blocks and inputs >= FEW_INPUTS:
        knobs.append(ChoiceKnob("ic_blocks", (1, 2, 4, 8, 16)))
    return Space(knobs, _constraints(knobs, channels, kernel_width, room, least))


def _constraints(
    knobs: Sequence[Knob], channels: int, kernel_width: int, room: int, least: int
) -> list[Constraint]:
    """The constraints between knobs; tiles have `least` to `room` accumulators."""
    values = {knob.name: knob.values for knob in knobs}

    def fits(columns: Columns) -> npt.ArrayLike:
        tile = accumulators(columns)
        return (tile <= room) & (tile >= least)

    def not_too_long(columns: Columns) -> npt.ArrayLike:
        unrolled = accumulators(columns) * columns["ic"][1]
        taps = np.where(columns["unroll_kw"], kernel_width, 1)
        return unrolled * taps <= MAX_UNROLLED

    def one_blocking(columns: Columns) -> npt.ArrayLike:
        blockings = [value for value in values["lanes"] if isinstance(value, int)]
        return suits_blocking(columns, channels, blockings)

    found = [
        Constraint(("tile_w", "rows", "oc"), fits, f"the tile does not suit {room} registers"),
        Constraint(
            ("tile_w", "rows", "oc", "ic", "unroll_kw"),
            not_too_long,
            f"the unrolled body has more than {MAX_UNROLLED} multiply-adds",
        ),
    ]
    if len(values["lanes"]) > 1:
        found.append(Constraint(("oc", "lanes"), one_blocking, "the tile is not of these lanes"))
    if len(values.get("data_lanes", ())) > 1:
        within = "a step is in two blocks of the data"
        found.append(Constraint(("ic", "data_lanes"), _within_block, within))
    if "ic_blocks" in values:
        uneven = "blocks of input channels are uneven"
        found.append(Constraint(("ic", "ic_blocks"), _divides, uneven))
    return found


def _divides(columns: Columns) -> npt.ArrayLike:
    steps, blocks = columns["ic"][0], columns["ic_blocks"]
    even = np.equal(steps % blocks, 0) & np.greater(steps, blocks)
    verdict: BoolArray = np.equal(blocks, 1) | even
    return verdict


def _within_block(columns: Columns) -> npt.ArrayLike:
    return np.equal(columns["data_lanes"] % columns["ic"][1], 0)


def _input_steps(role: ConvRoles, lanes: int) -> SplitKnob:
    """The split of the input channels into steps; a step lies within a block of the data."""
    inputs = role.conv.reduce_axis[0].extent
    limit = min(inputs, lanes)
    if _is_blocked(role, lanes) and inputs % lanes:
        steps = tuple((n,) for n in range(1, limit + 1) if inputs % n == 0 == lanes % n)
        return SplitKnob("ic", inputs, policy="listed", candidates=steps)
    return SplitKnob("ic", inputs, policy="factors", max_factor=limit)


def _is_blocked(role: ConvRoles, lanes: int) -> bool:
    """Whether data is read in blocks of channels; the last one may be half full."""
    inputs = role.conv.reduce_axis[0].extent
    if inputs == role.data.shape[1]:
        return inputs % lanes == 0 or len(lane_choices(inputs, lanes)) > 1
    return inputs % lanes == 0 and role.data.shape[1] % lanes == 0


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs; see the head of this file for the loops."""
    role = roles(s.workload)
    lanes = config.integer("lanes")
    data_lanes = config.integer("data_lanes") if "data_lanes" in config.names() else lanes
    blocked = _is_blocked(role, data_lanes)
    ic_inner = config.sizes("ic")[1]
    oc_vectors = config.sizes("oc")[2]
    if blocked:
        store_as(s, role.data, [0, 1, 2, 3, (1, data_lanes)])
    store_as(s, role.weight, [0, 1, 2, 3, (1, ic_inner), (0, oc_vectors * lanes)])
    for tensor in (role.output, *role.added):
        store_as(s, tensor, [0, 1, 2, 3, (1, lanes)])
    for tensor in s.workload.stages:
        if tensor not in (role.pad, role.conv, role.output):
            s[tensor].compute_inline()
    loops = outer_loops(s, role, config, lanes)
    if role.output is not role.conv:
        s.set_layout(role.conv, [0, 1, 2, 3, (1, lanes)])
        if _sums_blocks(config):
            s[role.conv].compute_at(role.output, loops.channels)
            _blocked_sum(s[role.conv], role.conv, config, lanes)
        else:
            s[role.conv].compute_at(role.output, loops.tiles)
            s[role.conv].set_scope("register")
            inner_loops(s[role.conv], role.conv, config, lanes, [])
    s[role.output].parallel(loops.shared)
    if role.pad is not None:
        place_pad(s, role, config, loops.rows, data_lanes, vectorized=blocked)


def _sums_blocks(config: Configuration) -> bool:
    """Whether blocks of input channels run outside the tiles of a block of rows."""
    return "ic_blocks" in config.names() and config.integer("ic_blocks") > 1


def _blocked_sum(stage: Stage, conv: Tensor, config: Configuration, lanes: int) -> None:
    """All tiles of a block of rows, for one block of input channels after the other.

    So a block of the weights stays in L1 or L2 while all tiles read it; partial sums go through
    memory.
    """
    _, o, y, x = conv.axis
    i, r, c = conv.reduce_axis
    steps, unrolled = config.sizes("ic")
    io, ii = stage.split(i, unrolled)
    ib, ik = stage.split(io, steps // config.integer("ic_blocks"))
    ym, yi = stage.split(y, config.sizes("rows")[2])
    xo, xi = stage.split(x, config.sizes("tile_w")[1])
    ob, ol = stage.split(o, lanes)
    inner = (ii, yi, xi, ob)
    stage.reorder(ib, ym, xo, ik, r, c, *inner, ol)
    for loop in inner:
        stage.unroll(loop)
    stage.vectorize(ol)
    if config.flag("unroll_kw"):
        stage.unroll(c)


def default(workload: Workload, target: CpuTarget) -> Config:
    """The cheapest config by a simple model of registers and caches."""
    knobs = space(workload, target)
    return completed(knobs, conv2d_default.choose(roles(workload), knobs, target))


TEMPLATE = Template(
    "cpu.conv2d_direct",
    1,
    CpuOnly(space),
    schedule,
    default=CpuOnly(default),
    blocking=("lanes", "data_lanes"),
    is_for=of_floats,
)

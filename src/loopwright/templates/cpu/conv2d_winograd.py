"""Winograd convolution on CPUs: 3x3 kernels by matrix products on transformed tiles.

What is computed is in `winograd_expr`. Data and output are NCHW with the channel blocked by the
vector lanes; the weight is transformed ahead and packed as [O/t][a][b][C][t].

Loops. The output is computed by blocks of `rows x cols` tiles and blocks of output channels (knob
`loops` has their order). For each block, the a x a matrix products run over a flattened index of
its tiles, with `tile x oc vectors` accumulators in registers; then each tile is transformed back
where it is stored. The transformed input is made for a block of tiles before its first block of
channels (`loops` = block), so that it stays in the L2 cache, or all of it ahead. Knob `v` says what
is outermost in it: channels, so that the positions of a tile lie together, or positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwright.errors import TemplateError
from loopwright.sched.extent import SizeLike
from loopwright.sched.schedule import Loop, LoopLike, Schedule
from loopwright.space.config import Config
from loopwright.space.constraints import BoolArray, Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, KnobValue, SplitKnob
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.cpu import winograd_cost
from loopwright.templates.cpu import winograd_expr as expr
from loopwright.templates.cpu.conv_roles import find_roles
from loopwright.templates.template import Configuration, CpuOnly, Template
from loopwright.weights import SIZES

ERROR = 1e-4
"""The error that a kernel of this template may have, relative to the largest output."""
MAX_UNROLLED = 640
"""Multiply-adds in the unrolled body; more cost code generation time and instruction cache."""
MAX_TILES = 112
"""Tiles in a block; more do not fit in cache."""


def space(workload: Workload, target: CpuTarget) -> Space:
    """The knobs; `tile` counts tiles, `oc` vectors of output channels, the others elements.

    `rows` and `cols` give the tiles of a block in their last size, which divides the number of
    tiles.
    """
    reason = expr.reason_against(workload)
    if reason is not None:
        raise TemplateError(f"{workload.name}: {reason}, so it has no Winograd form")
    role = find_roles(workload, 3, "a convolution")
    lanes = target.lanes(role.conv.dtype)
    _, outputs, height, width = role.conv.shape
    channels = role.data.shape[1]
    vectors = -(-outputs // lanes)
    sizes = tuple(m for m in SIZES if m == SIZES[0] or m <= max(height, width))
    limit = target.registers
    knobs: list[Knob] = [
        ChoiceKnob("m", sizes),
        ChoiceKnob("lanes", (lanes,)),
        ChoiceKnob("loops", ("block", "tiles,oc", "oc,tiles")),
        ChoiceKnob("v", ("channel", "position")),
        SplitKnob("rows", height, policy="listed", candidates=_divisors(height, sizes)),
        SplitKnob("cols", width, policy="listed", candidates=_divisors(width, sizes)),
        SplitKnob("tile", limit, policy="listed", candidates=_ones(range(1, limit - 1))),
        SplitKnob("oc", vectors, parts=3, policy="factors", max_factor=(vectors, 4)),
        SplitKnob("ic", channels, policy="listed", candidates=_unrolled(channels, lanes)),
    ]
    return Space(knobs, _constraints(height, width, limit))


def _ones(sizes: range) -> tuple[tuple[int, ...], ...]:
    return tuple((size,) for size in sizes)


def _divisors(extent: int, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The divisors of the number of tiles along an axis, for any tile width."""
    counts = [expr.tiles(extent, m) for m in sizes]
    found = {d for count in counts for d in range(1, count + 1) if count % d == 0}
    return tuple((d,) for d in sorted(found) if d <= MAX_TILES)


def _unrolled(channels: int, lanes: int) -> tuple[tuple[int, ...], ...]:
    """How many input channels may be unrolled: within a vector, or whole vectors."""
    if channels % lanes == 0:
        wanted = {max(1, lanes // 2), lanes, 2 * lanes}
        return tuple((n,) for n in sorted(wanted) if channels % n == 0)
    return tuple((n,) for n in range(1, lanes + 1) if channels % n == 0)


def _constraints(height: int, width: int, registers: int) -> tuple[Constraint, ...]:
    def whole_blocks(columns: Columns) -> npt.ArrayLike:
        m = np.asarray(columns["m"])
        high, wide = -(-height // m), -(-width // m)
        rows, cols = columns["rows"][1], columns["cols"][1]
        found: BoolArray = (
            np.asarray(high % rows == 0) & (wide % cols == 0) & (rows * cols <= MAX_TILES)
        )
        return found

    def flat(columns: Columns) -> npt.ArrayLike:
        """Tiles of a block are contiguous in the transformed input."""
        wide = -(-width // np.asarray(columns["m"]))
        rows, cols = columns["rows"][1], columns["cols"][1]
        found: BoolArray = np.asarray(columns["loops"] == "block") | (rows == 1) | (cols == wide)
        return found

    def fits(columns: Columns) -> npt.ArrayLike:
        tiles, vectors = columns["tile"][1], columns["oc"][2]
        block = columns["rows"][1] * columns["cols"][1]
        needed = tiles * vectors + vectors + 1
        used = tiles * vectors
        enough = (used >= np.minimum(8, block * vectors)) & (tiles <= block)
        return (needed <= registers) & enough

    def not_too_long(columns: Columns) -> npt.ArrayLike:
        tile = columns["tile"][1] * columns["oc"][2] * columns["ic"][1]
        return tile <= MAX_UNROLLED

    return (
        Constraint(("m", "rows", "cols"), whole_blocks, "blocks do not divide the tiles"),
        Constraint(("m", "loops", "rows", "cols"), flat, "a block of tiles is not contiguous"),
        Constraint(
            ("tile", "oc", "rows", "cols"), fits, f"the tile does not suit {registers} registers"
        ),
        Constraint(
            ("tile", "oc", "ic"),
            not_too_long,
            f"the unrolled body has more than {MAX_UNROLLED} multiply-adds",
        ),
    )


def rewrite(workload: Workload, config: Configuration) -> Workload:
    """The workload with output tiles of the config's m."""
    return expr.rewritten(workload, config.integer("m"))


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs; see the head of this file for the loops."""
    stages = expr.stages_of(s.workload)
    lanes = config.integer("lanes")
    _set_layouts(s, stages, config, lanes)
    for tensor in stages.epilogue:
        s[tensor].compute_inline()
    loops = _output_loops(s, stages, config, lanes)
    _back(s, stages, loops)
    _products(s, stages, config, loops, lanes)
    _forward(s, stages, loops, lanes)


def _set_layouts(s: Schedule, stages: expr.Stages, config: Configuration, lanes: int) -> None:
    blocked: list[int | tuple[int, SizeLike]] = [0, 1, 2, 3, (1, lanes)]
    arguments = [t for t in s.workload.args if t.shape == stages.output.shape and t.ndim == 4]
    if stages.data.shape[1] % lanes == 0:
        arguments.append(stages.data)
    for tensor in arguments:
        if tensor.name not in s.state.layouts:
            s.set_layout(tensor, blocked)
    _, groups, vectors = config.sizes("oc")
    s.set_layout(stages.weight, [2, 0, 1, (2, groups), 3, (2, vectors * lanes)])
    s.set_layout(stages.padded, blocked)
    s.set_layout(stages.rows, [0, 2, 3, 4, 1, (2, lanes)])
    by_channel = config.text("v") == "channel"
    outer = (3, 1, 2) if by_channel else (1, 2, 3)
    s.set_layout(stages.v, [0, *outer, 4, 5, (3, lanes)])
    s.set_layout(stages.products, [0, 3, 1, 2, 4, 5, (3, lanes)])
    s.set_layout(stages.back, [0, 3, 4, 5, 1, 2, (3, lanes)])


@dataclass(frozen=True, slots=True)
class _Loops:
    """The loops of the output that other stages are computed in.

    Those over blocks of tiles (None where all of the transformed input is made ahead), blocks of
    output channels, tiles, and the rows of a tile.
    """

    block: Loop | None
    channels: Loop
    tile: Loop
    row: Loop


def _output_loops(s: Schedule, stages: expr.Stages, config: Configuration, lanes: int) -> _Loops:
    """The loops of the output: blocks of tiles and channels, tiles, and what is in a tile."""
    stage = s[stages.output]
    n, o, y, x = stages.output.axis
    m = stages.tile
    ty, yi = stage.split(y, m)
    tx, xi = stage.split(x, m)
    tyo, tyi = stage.split(ty, config.sizes("rows")[1])
    txo, txi = stage.split(tx, config.sizes("cols")[1])
    _, groups, vectors = config.sizes("oc")
    oo, oi = stage.split(o, groups * vectors * lanes)
    om, ol = stage.split(oi, lanes)
    order = config.text("loops")
    tiles: list[LoopLike] = [n, tyo, txo]
    outer = [oo, *tiles] if order == "oc,tiles" else [*tiles, oo]
    stage.reorder(*outer, om, tyi, txi, yi, xi, ol)
    stage.unroll(yi)
    stage.unroll(xi)
    stage.vectorize(ol)
    if order == "block":
        block = stage.fuse(n, tyo, txo)
        stage.parallel(block)
        return _Loops(block, oo, txi, yi)
    every = stage.fuse(outer[0], outer[1], *outer[2:])
    stage.parallel(every)
    return _Loops(None, every, txi, yi)


def _back(s: Schedule, stages: expr.Stages, loops: _Loops) -> None:
    """The inverse transform: columns of a tile in memory, then each of its rows in registers."""
    output = stages.output
    back = s[stages.back]
    back.compute_at(output, loops.tile)
    back.set_scope("local")
    n, p, b, o, ty, tx = stages.back.axis
    back.reorder(n, ty, tx, b, p, o)
    back.unroll(b)
    back.unroll(p)
    back.vectorize(o)
    _half(s, stages.back_half, stages.back, b.name)
    _half(s, stages.out_half, output, loops.row)


def _half(s: Schedule, half: Tensor, reader: Tensor, loop: Loop | str) -> None:
    """The part of a transform that its rows share, kept in registers."""
    stage = s[half]
    stage.compute_at(reader, loop)
    stage.set_scope("register")
    lane = half.axis[3 if half.ndim == 6 else 2]
    others = [v for v in half.axis if v is not lane]
    stage.reorder(*others, lane)
    for axis in others:
        stage.unroll(axis)
    stage.vectorize(lane)


def _products(
    s: Schedule, stages: expr.Stages, config: Configuration, loops: _Loops, lanes: int
) -> None:
    """The matrix products of a block: a position, tiles, output channels, input channels."""
    tensor = stages.products
    stage = s[tensor]
    stage.compute_at(stages.output, loops.channels)
    stage.set_scope("local")
    n, a, b, o, ty, tx = tensor.axis
    (c,) = tensor.reduce_axis
    co, ci = stage.split(c, config.sizes("ic")[1])
    og, oi = stage.split(o, config.sizes("oc")[2] * lanes)
    ov, ol = stage.split(oi, lanes)
    outer = (n, a, b, og)
    stage.reorder(*outer, ty, tx, co, ci, ov, ol)
    to, ti = stage.split(stage.fuse(ty, tx), config.sizes("tile")[1])
    tile = (ci, ti, ov)
    stage.reorder(*outer, to, co, *tile, ol)
    for loop in tile:
        stage.unroll(loop)
    stage.vectorize(ol)


def _forward(s: Schedule, stages: expr.Stages, loops: _Loops, lanes: int) -> None:
    """The input transform: a row of tiles of one vector of channels at a time."""
    stage = s[stages.v]
    n, a, b, c, ty, tx = stages.v.axis
    if loops.block is not None:
        stage.compute_at(stages.output, loops.block)
        stage.set_scope("local")
    co, ci = stage.split(c, lanes)
    stage.reorder(*(n, co, ty, tx, a, b, ci))
    stage.unroll(b)
    stage.vectorize(ci)
    place: Loop | str = co
    if loops.block is None:
        place = stage.fuse(n, co)
        stage.parallel(place)
    _half(s, stages.v_half, stages.v, a.name)
    _rows(s, stages, ty.name)
    padded = s[stages.padded]
    padded.compute_at(stages.v, ty.name)
    padded.set_scope("local")
    _, channel, y, x = stages.padded.axis
    padded.reorder(y, x, channel)
    padded.vectorize(channel)


def _rows(s: Schedule, stages: expr.Stages, at: str) -> None:
    """The transform along columns, for a row of tiles."""
    stage = s[stages.rows]
    stage.compute_at(stages.v, at)
    stage.set_scope("local")
    n, a, c, ty, x = stages.rows.axis
    stage.reorder(n, ty, x, a, c)
    stage.unroll(a)
    stage.vectorize(c)
    _half(s, stages.rows_half, stages.rows, x.name)


def default(workload: Workload, target: CpuTarget) -> Config:
    """A config that is good without tuning: the cheapest by `winograd_cost`."""
    found = space(workload, target)
    role = find_roles(workload, 3, "a convolution")
    lanes = target.lanes(role.conv.dtype)
    batch, outputs, height, width = role.conv.shape
    inputs = role.data.shape[1]
    shape = winograd_cost.Shape(batch, inputs, outputs, height, width)
    knobs = {knob.name: knob for knob in found.knobs}
    sizes = tuple(m for m in SIZES if m in knobs["m"].values)
    plan = winograd_cost.best(shape, target, lanes, MAX_TILES, sizes)
    if plan is None:
        return found.decode(found.sample(np.random.default_rng(0), 1)[0])
    unrolled = [value[1] for value in _splits(knobs["ic"]) if value[1] <= lanes]
    inner = {
        "rows": (plan.rows,),
        "cols": (plan.cols,),
        "tile": (plan.tile,),
        "oc": (plan.groups, plan.vectors),
        "ic": (max(unrolled),),
    }
    values: dict[str, KnobValue] = {"m": plan.m, "lanes": lanes, "loops": plan.loops}
    values["v"] = "channel"
    for name, sizes_inside in inner.items():
        values[name] = next(v for v in _splits(knobs[name]) if v[1:] == sizes_inside)
    return Config.of(values)


def _splits(knob: Knob) -> tuple[tuple[int, ...], ...]:
    return knob.values if isinstance(knob, SplitKnob) else ()


TEMPLATE = Template(
    "cpu.conv2d_winograd",
    1,
    CpuOnly(space),
    schedule,
    default=CpuOnly(default),
    rewrite=rewrite,
    error=ERROR,
    needs_constant_weight=True,
    is_for=expr.eligible,
)

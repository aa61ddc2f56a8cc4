"""The loops around a register tile of width x output channels, which convolutions share.

Outermost are blocks of output channels and rows in the order of knob `order`; inside, a tile of
`tile_h x tile_w x oc vectors` accumulators lives in registers while the reduce loops run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwright.sched.schedule import Loop, Schedule, Stage
from loopwright.space.constraints import BoolArray, Columns
from loopwright.te.tensor import Tensor
from loopwright.templates.cpu.blocking import divides_nearly
from loopwright.templates.cpu.conv_roles import ConvRoles
from loopwright.templates.template import Configuration

MAX_UNROLLED = 640
"""Multiply-adds in the unrolled body; more cost code generation time and instruction cache."""
_FEW_ACCUMULATORS = 4
"""Smaller tiles are left out where there are larger ones."""


def accumulators(columns: Columns) -> npt.NDArray[np.int64]:
    """Vectors that the register tile of each config sums at once."""
    tile: npt.NDArray[np.int64] = columns["tile_w"][1] * columns["rows"][2] * columns["oc"][2]
    return tile


def least_accumulators(pixels: int, room: int, *parts: Sequence[tuple[int, ...]]) -> int:
    """The least that a tile must sum at once for one of `parts` to qualify within `room`.

    `parts` end with the factors of a tile; `pixels` is the size of a map.
    """
    sizes = [sorted({part[-1] for part in values}) for values in parts]
    products = (math.prod(chosen) for chosen in itertools.product(*sizes))
    largest = max(size for size in products if size <= room)
    return min(_FEW_ACCUMULATORS, largest, pixels)


def tile_widths(extent: int, room: int) -> tuple[tuple[int, ...], ...]:
    """Tile widths that waste little of the last tile."""
    return tuple((t,) for t in range(1, min(extent, room) + 1) if divides_nearly(t, extent))


def channel_tiles(vectors: int) -> tuple[tuple[int, ...], ...]:
    """(tiles per block, vectors per tile): blocks divide the tiles; a tile of 3 may leave some."""
    found = []
    for tile in range(1, min(vectors, 8) + 1):
        tiles = -(-vectors // tile)
        if vectors % tile == 0 or (tile == 3 and divides_nearly(tile, vectors)):
            found += [(block, tile) for block in range(1, tiles + 1) if tiles % block == 0]
    return tuple(found)


def lane_choices(channels: int, lanes: int) -> tuple[int, ...]:
    """The blockings of channels worth trying: by vectors, and by halves if they waste less."""
    return (lanes, lanes // 2) if channels > lanes and channels % lanes * 2 == lanes else (lanes,)


def listed_channel_tiles(channels: int, choices: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The tiles of every blocking in `choices`; `suits_blocking` pairs them."""
    found = (tile for lanes in choices for tile in channel_tiles(-(-channels // lanes)))
    return tuple(dict.fromkeys(found))


def suits_blocking(columns: Columns, channels: int, choices: Sequence[int]) -> npt.ArrayLike:
    """Whether the tile of output channels belongs to the chosen blocking."""
    block, tile, lanes = columns["oc"][1], columns["oc"][2], columns["lanes"]
    verdict: BoolArray = np.zeros(np.shape(lanes), bool)
    for choice in choices:
        for blocks, vectors in channel_tiles(-(-channels // choice)):
            same = np.equal(block, blocks) & np.equal(tile, vectors)
            verdict = verdict | (same & np.equal(lanes, choice))
    return verdict


def row_tiles(height: int) -> tuple[tuple[int, ...], ...]:
    """(rows per block, rows per tile): blocks that divide the tiles, tiles of few rows."""
    found = []
    for tile in (1, 2, 3, 4, 7):
        if not divides_nearly(tile, height):
            continue
        tiles = -(-height // tile)
        found += [(block, tile) for block in range(1, tiles + 1) if tiles % block == 0]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Outer:
    """Loops of the output over blocks of rows, tiles of channels and tiles; the parallel loop."""

    rows: Loop
    channels: Loop
    tiles: Loop
    shared: Loop


def outer_loops(s: Schedule, role: ConvRoles, config: Configuration, lanes: int) -> Outer:
    """Tile the output stage."""
    stage = s[role.output]
    n, o, y, x = role.output.axis
    _, oc_inner, oc_vectors = config.sizes("oc")
    _, rows_block, tile_h = config.sizes("rows")
    xo, xi = stage.split(x, config.sizes("tile_w")[1])
    yt, yi = stage.split(y, tile_h)
    yo, ym = stage.split(yt, rows_block)
    ot, oi = stage.split(o, oc_vectors * lanes)
    oo, om = stage.split(ot, oc_inner)
    ob, ol = stage.split(oi, lanes)
    outer = [oo, yo] if config.text("order") == "oc,rows" else [yo, oo]
    inner = [yi, xi, ob, ol]
    stage.reorder(n, *outer, om, ym, xo, *inner)
    if role.output is role.conv:
        inner_loops(stage, role.conv, config, lanes, inner)
    else:
        for loop in inner[:-1]:
            stage.unroll(loop)
        stage.vectorize(ol)
    shared = stage.fuse(n, outer[0])
    return Outer(shared if outer[0] is yo else yo, om, xo, shared)


def inner_loops(
    stage: Stage, conv: Tensor, config: Configuration, lanes: int, tile: list[Loop]
) -> None:
    """The reduce loops around the register tile."""
    i, r, c = conv.reduce_axis
    io, ii = stage.split(i, config.sizes("ic")[1])
    if not tile:
        _, o, y, x = conv.axis
        ob, ol = stage.split(o, lanes)
        stage.reorder(*(io, r, c, ii, y, x, ob, ol))
        for axis in (y, x):
            stage.unroll(axis)
    else:
        yi, xi, ob, ol = tile
        stage.reorder(io, r, c, ii, *tile)
        stage.unroll(yi)
        stage.unroll(xi)
    stage.unroll(ob)
    stage.vectorize(ol)
    stage.unroll(ii)
    if config.flag("unroll_kw"):
        stage.unroll(c)


def place_pad(
    s: Schedule,
    role: ConvRoles,
    config: Configuration,
    rows_loop: Loop,
    lanes: int,
    *,
    vectorized: bool,
) -> None:
    """The padded copy of the data: all of it ahead, the rows a block of rows reads, or none."""
    if role.pad is None:
        return
    stage = s[role.pad]
    if config.text("pad") == "skip":
        stage.compute_inline()
        return
    _, channel, _, width = role.pad.axis
    at_root = config.text("pad") == "root"
    if not at_root:
        stage.compute_at(role.output, rows_loop)
    if vectorized:
        s.set_layout(role.pad, [0, 1, 2, 3, (1, lanes)])
        co, ci = stage.split(channel, lanes)
        loops = [loop for loop in stage.loops if loop.name not in (co.name, ci.name)]
        stage.reorder(loops[0], co, *loops[1:], ci)
        stage.vectorize(ci)
    else:
        _, wi = stage.split(width, lanes)
        stage.vectorize(wi)
    if at_root:
        stage.parallel(stage.fuse(*stage.loops[:2]))

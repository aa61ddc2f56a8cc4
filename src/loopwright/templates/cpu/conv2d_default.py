"""A good config of a direct convolution without measuring: the cheapest by a simple model.

First the register tile, by the cycles of all tiles with their tails. Then how tiles are grouped and
in which order they run, by what is read from beyond the L2 cache, what padded copies cost, and
how evenly the outer loop splits over the cores. Padding is skipped wherever that pays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loopwright.space.knobs import KnobValue
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.templates.cpu.blocking import (
    imbalance,
    sizes_of,
    spans,
    tile_cycles,
    traffic_cycles,
)
from loopwright.templates.cpu.conv_loops import channel_tiles
from loopwright.templates.cpu.conv_roles import ConvRoles

_UNROLLED = 448
"""Multiply-adds in an unrolled body: a few KiB of code."""
_FEW_STEPS = 16
"""Below so many unrolled steps of the sum, the kernel's columns are unrolled too."""
_CACHE_SHARE = 0.7
"""The share of the L2 cache that blocks may take."""
_REUSED = 8
"""Tiles that must read the weights for blocks of input channels to pay off."""
_FEW_REGISTERS = 16

Values = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """`width` is the split of the width, `cycles` what all tiles of a map take."""

    width: Values
    rows: int
    vectors: int
    cycles: float

    @property
    def accumulators(self) -> int:
        """Vectors that are summed at once."""
        return self.width[1] * self.rows * self.vectors


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes that tiles and blocks read; `rows` is the height of a tile."""

    weight_tile: int
    line: int
    stride: int
    taps: int
    cache: float

    def lines(self, rows: int) -> int:
        """Lines of data that `rows` of the output read."""
        return (rows - 1) * self.stride + self.taps


def choose(role: ConvRoles, space: Space, target: CpuTarget) -> dict[str, KnobValue]:
    """The values of the relevant knobs."""
    tile = register_tile(role, space, target)
    ic = unrolled_inputs(space, tile)
    taps = role.conv.reduce_axis[2].extent
    unroll_kw = True in space.knobs[space.column("unroll_kw")].values
    short = ic[1] * taps <= _FEW_STEPS
    pads = _pads(role, target)
    several = "skip" in pads and tile.width[0] > 1 and _widened(role)
    if several and tile.accumulators * taps <= _UNROLLED:
        # Unrolled, a tap is on padding all through a tile or never: no test turns out in turns.
        ic, short = unrolled_inputs(space, tile, taps), True
    _, plan = min(_plans(role, space, target, tile, pads), key=lambda found: found[0])
    chosen: dict[str, KnobValue] = {
        "tile_w": tile.width,
        "ic": ic,
        "unroll_kw": unroll_kw and short,
        "lanes": blocking(space),
        **plan,
    }
    if "data_lanes" in space.names:
        chosen["data_lanes"] = space.knobs[space.column("data_lanes")].values[-1]
    rows = plan["rows"]
    if "ic_blocks" in space.names and isinstance(rows, tuple):
        tiles = tile.width[0] * int(rows[1])
        chosen["ic_blocks"] = _blocks(role, target, tile, ic[0]) if tiles >= _REUSED else 1
    return chosen


def blocking(space: Space) -> int:
    """Output channels in a block: half a vector where whole ones waste a part of the last."""
    return min(v for v in space.knobs[space.column("lanes")].values if isinstance(v, int))


def _pads(role: ConvRoles, target: CpuTarget) -> tuple[str, ...]:
    """The ways to pad worth considering; none without padding.

    Skipping costs tests around a part of a tile. Few registers and no fused multiply-adds leave no
    room for that.
    """
    if role.pad is None:
        return ()
    crowded = target.registers <= _FEW_REGISTERS and "fma" not in target.features
    return ("root", "rows") if crowded else ("skip",)


def _widened(role: ConvRoles) -> bool:
    """True when there is padding at the left or the right."""
    return role.padded.shape[3] != role.data.shape[3]


def _blocks(role: ConvRoles, target: CpuTarget, tile: RegisterTile, steps: int) -> int:
    """How many blocks of input channels make the weights of a tile small beside the cache."""
    nbytes = tile.vectors * target.vector_bits // 8
    for axis in role.conv.reduce_axis:
        nbytes *= axis.extent
    if nbytes <= target.l2 // 4:
        return 1
    fitting = [n for n in (2, 4, 8, 16) if steps % n == 0 and steps > n]
    small = [n for n in fitting if nbytes // n <= target.l2 // 8]
    return min(small) if small else max(fitting, default=1)


def register_tile(role: ConvRoles, space: Space, target: CpuTarget) -> RegisterTile:
    """The register tile in the space that takes the fewest cycles."""
    _, channels, height, width = role.conv.shape
    lanes = blocking(space)
    vectors = -(-channels // lanes)
    steps = 1
    for axis in role.conv.reduce_axis:
        steps *= axis.extent
    heights = sorted({value[2] for value in sizes_of(space, "rows")})
    listed = {value[2] for value in sizes_of(space, "oc")}
    groups = sorted({tile for _, tile in channel_tiles(vectors) if tile in listed})
    found: list[RegisterTile] = []
    room = target.registers - 2
    for columns, rows, group in itertools.product(sizes_of(space, "tile_w"), heights, groups):
        if columns[1] * rows * group > room:
            continue
        cycles = sum(
            tile_cycles(target, w * h, v, steps) * nw * nh * nv
            for w, nw in spans(width, columns[1])
            for h, nh in spans(height, rows)
            for v, nv in spans(vectors, group)
        )
        cycles *= 1 + target.core.row * (rows - 1)
        found.append(RegisterTile(columns, rows, group, cycles))
    return min(found, key=lambda tile: tile.cycles)


def unrolled_inputs(space: Space, tile: RegisterTile, taps: int = 1) -> Values:
    """The split of the input channels with the longest unrolled part that is still short code.

    `taps` of the kernel are unrolled with it.
    """
    size = tile.accumulators * taps
    fitting = [v for v in sizes_of(space, "ic") if v[1] * size <= _UNROLLED]
    if "data_lanes" in space.names:
        block = space.knobs[space.column("data_lanes")].values[-1]
        fitting = [v for v in fitting if isinstance(block, int) and block % v[1] == 0] or fitting
    return max(fitting, key=lambda v: v[1])


def _plans(
    role: ConvRoles, space: Space, target: CpuTarget, tile: RegisterTile, pads: Sequence[str]
) -> Iterator[tuple[float, dict[str, KnobValue]]]:
    """Cycles and values for every way to group and order the tiles.

    Of equal ones, that with one row of tiles per block comes first: it reads all weights for each
    row, but sequentially, and the data of the rows only once.
    """
    batch, channels, height, _ = role.conv.shape
    lanes = blocking(space)
    nbytes = role.conv.dtype.nbytes
    inputs, taps, taps_w = (axis.extent for axis in role.conv.reduce_axis)
    padded = role.padded.shape
    stride = max(1, (padded[2] - taps) // max(1, height - 1)) if height > 1 else 1
    sizes = _Sizes(
        tile.vectors * lanes * inputs * taps * taps_w * nbytes,
        padded[1] * padded[3] * nbytes,
        stride,
        taps,
        target.l2 * _CACHE_SHARE,
    )
    rows_of = [v for v in sizes_of(space, "rows") if v[2] == tile.rows]
    whole = channel_tiles(-(-channels // lanes))
    oc_of = [v for v in sizes_of(space, "oc") if v[2] == tile.vectors and v[1:] in whole]
    tiles = -(-channels // (lanes * tile.vectors))
    for rows, oc, order, pad in itertools.product(
        rows_of, oc_of, ("oc,rows", "rows,oc"), pads or ("",)
    ):
        by_rows = order == "rows,oc"
        shared = batch * (rows[0] if by_rows else oc[0])
        cycles = batch * tile.cycles * imbalance(shared, target.cores)
        read = _read(sizes, rows, oc, tiles, height, by_rows=by_rows)
        cycles += batch * traffic_cycles(target, read)
        values: dict[str, KnobValue] = {"rows": rows, "oc": oc, "order": order}
        if pad:
            values["pad"] = pad
        if pad in ("root", "rows"):
            times = 1 if by_rows or pad == "root" else oc[0]
            copied = sizes.line * times
            copied *= rows[0] * sizes.lines(rows[1] * rows[2]) if pad == "rows" else padded[2]
            far = traffic_cycles(target, copied) if pad == "root" else 0
            cycles += batch * (copied / target.core.copy_bandwidth + far)
        yield cycles, values


def _read(
    sizes: _Sizes, rows: Values, oc: Values, tiles: int, height: int, *, by_rows: bool
) -> float:
    """Bytes read from beyond the L2 cache: weights and data, each time they were evicted."""
    block = sizes.line * sizes.lines(min(height, rows[1] * rows[2]))
    data, weights = sizes.line * sizes.lines(height), sizes.weight_tile * tiles
    kept = weights if by_rows else sizes.weight_tile * oc[1]
    again = 1 if rows[0] == 1 or kept + block <= sizes.cache else rows[0]
    if sizes.weight_tile + 2 * sizes.line > sizes.cache:
        again = rows[0] * rows[1]
    stays = block + 2 * sizes.weight_tile <= sizes.cache
    if by_rows:
        return weights * again + data * (1 if stays else tiles)
    whole = data + sizes.weight_tile * oc[1] <= sizes.cache
    return weights * again + data * (1 if whole else oc[0]) * (1 if stays else oc[1])

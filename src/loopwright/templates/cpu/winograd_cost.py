"""What a Winograd kernel costs, roughly: enough to choose a config that is good without tuning.

Cycles are those of the target's core. The figures serve only to compare configs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from loopwright.target.cpu import CoreModel, CpuTarget
from loopwright.weights import TAPS

_TRANSFORM = {2: 4.0, 4: 5.0, 6: 8.0}
"""Cycles for each vector of the transformed input, and of the products."""
_LOOPS = ("block", "tiles,oc", "oc,tiles")


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution: images, channels in and out, height and width of the output."""

    batch: int
    inputs: int
    outputs: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    """A choice of the knobs; `groups` x `vectors` is a block of output channels."""

    m: int
    loops: str
    rows: int
    cols: int
    tile: int
    groups: int
    vectors: int

    @property
    def places(self) -> int:
        """The elements of a transformed tile."""
        return (self.m + TAPS - 1) ** 2

    @property
    def block(self) -> int:
        """The tiles of a block."""
        return self.rows * self.cols

    def tiles(self, shape: Shape) -> int:
        """The tiles of the whole convolution."""
        return shape.batch * -(-shape.height // self.m) * -(-shape.width // self.m)


def plans(
    shape: Shape, target: CpuTarget, lanes: int, most: int, sizes: tuple[int, ...]
) -> Iterator[WinogradPlan]:
    """The plans worth comparing; blocks have at most `most` tiles."""
    channels = -(-shape.outputs // lanes)
    for m in sizes:
        high, wide = -(-shape.height // m), -(-shape.width // m)
        blocks = [(r, c) for r in _divisors(high) for c in _divisors(wide) if r * c <= most]
        for vectors in (v for v in (1, 2, 3, 4) if channels % v == 0):
            room = (target.registers - 1 - vectors) // vectors
            groups = [g for g in (1, 2, 4, 8) if channels // vectors % g == 0]
            for rows, cols in blocks:
                most_tiles = min(room, rows * cols)
                least_tiles = max(1, most_tiles // 2, min(vectors, rows * cols))
                widths = range(least_tiles, most_tiles + 1)
                orders = _LOOPS if rows == 1 or cols == wide else _LOOPS[:1]
                for tile, group, loops in itertools.product(widths, groups, orders):
                    yield WinogradPlan(
                        m=m,
                        loops=loops,
                        rows=rows,
                        cols=cols,
                        tile=tile,
                        groups=group,
                        vectors=vectors,
                    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def cost(plan: WinogradPlan, shape: Shape, target: CpuTarget, lanes: int) -> float:
    """Cycles, on all of the target's cores together."""
    tiles = plan.tiles(shape)
    blocks = tiles // plan.block
    vectors = -(-shape.outputs // lanes)
    parts = vectors // (plan.groups * plan.vectors)
    wide = plan.groups * plan.vectors * lanes
    products = _multiply(plan, shape.inputs, target.core)
    total = products * plan.places * blocks * vectors / plan.vectors
    used = tiles * plan.places
    total += _TRANSFORM[plan.m] * used * (shape.inputs + shape.outputs) / lanes
    total += 4 * _traffic(plan, shape, target, wide, parts)
    rounds = blocks if plan.loops == "block" else blocks * parts
    cores = max(1, target.cores)
    return total * (-(-rounds // cores) * cores / rounds)


def _multiply(plan: WinogradPlan, inputs: int, core: CoreModel) -> float:
    """Cycles for the products of a block, at one position, with one tile's output channels."""
    full, rest = divmod(plan.block, plan.tile)
    total = 0.0
    for count, tile in ((full, plan.tile), (min(rest, 1), rest)):
        fused, loads = tile * plan.vectors, tile + plan.vectors
        latency = float(core.fma_latency) if tile else 0.0
        step = max(fused / core.fma_ports, loads / core.load_ports, latency)
        total += count * (step * inputs + core.product_start)
    return total


def _traffic(plan: WinogradPlan, shape: Shape, target: CpuTarget, wide: int, parts: int) -> float:
    """Cycles to move one byte of each element between caches."""
    core = target.core
    places, tiles, block = plan.places, plan.tiles(shape), plan.block
    weight = places * shape.inputs * shape.outputs
    near = 4 * places * shape.inputs * wide <= target.l2 / 2
    passes = 1 if plan.loops == "oc,tiles" and near else tiles // block
    far = 4 * weight > target.l3 / 2
    near_bandwidth = core.l3_bandwidth if 4 * weight > target.l2 / 2 else core.l2_bandwidth
    total = weight * passes / (core.far_bandwidth if far else near_bandwidth)
    held = block if plan.loops != "oc,tiles" else tiles
    inside = 4 * places * held * shape.inputs <= target.l2 * 0.7
    moved = places * tiles * shape.inputs
    total += moved * parts / (core.l2_bandwidth if inside else core.l3_bandwidth)
    if plan.loops != "block" and 4 * moved > target.l2 / 2:
        total += moved / core.l3_bandwidth
    kept = 4 * places * block * wide
    beyond_l1 = core.l2_bandwidth if kept <= target.l2 / 2 else core.l3_bandwidth
    level = core.l1_bandwidth if kept <= target.l1 else beyond_l1
    return total + 2 * places * tiles * shape.outputs / level


def best(
    shape: Shape, target: CpuTarget, lanes: int, most: int, sizes: tuple[int, ...]
) -> WinogradPlan | None:
    """The cheapest plan, the first of equal ones; None when there is none."""
    found = plans(shape, target, lanes, most, sizes)
    return min(found, key=lambda plan: cost(plan, shape, target, lanes), default=None)

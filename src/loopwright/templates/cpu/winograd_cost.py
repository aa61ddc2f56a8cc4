"""What a Winograd kernel costs, roughly: enough to choose a config that is good without tuning.

Cycles are those of a core that does two vector multiply-adds and two vector loads a cycle; caches
hand over a fixed number of bytes a cycle. The figures are for comparing configs, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopwright.target.union import Target
from loopwright.weights import TAPS

_L1_BYTES, _L2_BYTES, _L3_BYTES, _FAR_BYTES = 64.0, 32.0, 10.0, 6.0
"""Bytes a cycle from each level."""
_LATENCY = 4
_TILE_START = 30.0
"""Cycles that beginning and storing a register tile takes, beside its multiply-adds."""
_TRANSFORM = {2: 4.0, 4: 5.0, 6: 8.0}
"""Cycles for each vector of the transformed input, and of the products."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution: images, channels in and out, height and width of the output."""

    batch: int
    inputs: int
    outputs: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice of the knobs; `groups` x `vectors` is a block of output channels."""

    m: int
    loops: str
    rows: int
    cols: int
    tile: int
    groups: int
    vectors: int


def plans(
    shape: Shape, target: Target, lanes: int, most: int, sizes: tuple[int, ...]
) -> Iterator[Plan]:
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
                for tile in range(max(1, most_tiles // 2), most_tiles + 1):
                    if tile < min(vectors, rows * cols):
                        continue
                    for group in groups:
                        yield Plan(m, "block", rows, cols, tile, group, vectors)
                        if rows == 1 or cols == wide:
                            yield Plan(m, "tiles,oc", rows, cols, tile, group, vectors)
                            yield Plan(m, "oc,tiles", rows, cols, tile, group, vectors)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def cost(plan: Plan, shape: Shape, target: Target, lanes: int) -> float:
    """Cycles, on all of the target's cores together."""
    places = (plan.m + TAPS - 1) ** 2
    tiles = shape.batch * -(-shape.height // plan.m) * -(-shape.width // plan.m)
    block = plan.rows * plan.cols
    blocks = tiles // block
    vectors = -(-shape.outputs // lanes)
    parts = vectors // (plan.groups * plan.vectors)
    wide = plan.groups * plan.vectors * lanes
    used = tiles * places
    total = _multiply(plan, shape.inputs, block) * places * blocks * vectors / plan.vectors
    total += _TRANSFORM[plan.m] * used * (shape.inputs + shape.outputs) / lanes
    total += 4 * _traffic(plan, shape, target, places, tiles, wide, parts)
    rounds = blocks if plan.loops == "block" else blocks * parts
    cores = max(1, target.cores)
    return total * (-(-rounds // cores) * cores / rounds)


def _multiply(plan: Plan, inputs: int, block: int) -> float:
    """Cycles for the products of a block, at one position, with one tile's output channels."""
    full, rest = divmod(block, plan.tile)
    total = 0.0
    for count, tile in ((full, plan.tile), (min(rest, 1), rest)):
        fused, loads = tile * plan.vectors, tile + plan.vectors
        step = max(fused / 2, loads / 2, float(_LATENCY) if tile else 0.0)
        total += count * (step * inputs + _TILE_START)
    return total


def _traffic(
    plan: Plan, shape: Shape, target: Target, places: int, tiles: int, wide: int, parts: int
) -> float:
    """Cycles for moving one byte of each element between caches."""
    block = plan.rows * plan.cols
    weight = places * shape.inputs * shape.outputs
    near = 4 * places * shape.inputs * wide <= target.l2 / 2
    passes = 1 if plan.loops == "oc,tiles" and near else tiles // block
    far = 4 * weight > target.l3 / 2
    speed = _FAR_BYTES if far else _L3_BYTES if 4 * weight > target.l2 / 2 else _L2_BYTES
    total = weight * passes / speed
    held = block if plan.loops != "oc,tiles" else tiles
    inside = 4 * places * held * shape.inputs <= target.l2 * 0.7
    moved = places * tiles * shape.inputs
    total += moved * parts / (_L2_BYTES if inside else _L3_BYTES)
    if plan.loops != "block" and 4 * moved > target.l2 / 2:
        total += moved / _L3_BYTES
    kept = 4 * places * block * wide
    level = _L1_BYTES if kept <= target.l1 else _L2_BYTES if kept <= target.l2 / 2 else _L3_BYTES
    return total + 2 * places * tiles * shape.outputs / level


def best(
    shape: Shape, target: Target, lanes: int, most: int, sizes: tuple[int, ...]
) -> Plan | None:
    """The plan that costs least, the first of equal ones; None when there is none."""
    found = plans(shape, target, lanes, most, sizes)
    return min(found, key=lambda plan: cost(plan, shape, target, lanes), default=None)

"""Which tile sizes are worth trying, and what a tile costs.

Costs are cycles of a core with two units for fused multiply-adds of `LATENCY` cycles and two loads
a cycle. They are for comparing tiles, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from loopwright.sched.extent import SizeLike
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.space.knobs import KnobValue
from loopwright.space.space import Space
from loopwright.te.tensor import Tensor

WASTE = 1.15
LATENCY = 4
_SLACK = 0.4
"""What chains of multiply-adds take beyond their latency, since they never run in lockstep."""
_STORE = 1.5
"""Cycles to finish one accumulator."""
_START = 12
"""Cycles to begin a tile."""
_BROADCAST, _LOAD = 0.03, 0.08
"""What loads of a scalar and of a vector cost beside units that are busy anyway."""
_SPILL = 0.12
"""The share of a step that registers which do not suffice cost, times their number squared."""
_FEW_REGISTERS = 16
_BEYOND = 16
"""Bytes a cycle from beyond a core's own caches."""


def divides_nearly(tile: int, extent: int, waste: float = WASTE) -> bool:
    """True when tiles of `tile` cover `extent` with at most `waste` times its iterations."""
    return tile == 1 or (tile <= extent and -(-extent // tile) * tile <= extent * waste)


def spans(extent: int, tile: int) -> tuple[tuple[int, int], ...]:
    """(size, how many) of the tiles that cover `extent`: the whole ones, and what is left."""
    whole, rest = divmod(extent, tile)
    found = [(tile, whole)] if whole else []
    return tuple(found + ([(rest, 1)] if rest else []))


def step_cycles(scalars: int, vectors: int, registers: int) -> float:
    """Cycles of one step of the sum in a tile of `scalars` broadcasts times `vectors`."""
    accumulators, loads = scalars * vectors, scalars + vectors
    cycles = max(accumulators / 2, LATENCY + _SLACK, loads / 2)
    cycles += _BROADCAST * scalars + _LOAD * vectors
    # With many registers LLVM folds broadcasts into the multiply-adds.
    spare = 2 if registers <= _FEW_REGISTERS else 1
    spilled = max(0, accumulators + vectors + spare - registers)
    return cycles * (1 + _SPILL * spilled**2)


def tile_cycles(scalars: int, vectors: int, registers: int, steps: int) -> float:
    """Cycles of a tile that sums `steps` products."""
    inner = steps * step_cycles(scalars, vectors, registers)
    return inner + _START + _STORE * scalars * vectors


def traffic_cycles(nbytes: float) -> float:
    """Cycles that `nbytes` from beyond a core's own caches cost."""
    return nbytes / _BEYOND


def imbalance(iterations: int, cores: int) -> float:
    """How much longer `iterations` take on `cores` than evenly shared work would."""
    return -(-iterations // cores) * cores / iterations


def store_as(s: Schedule, tensor: Tensor, order: Sequence[int | tuple[int, SizeLike]]) -> None:
    """Store `tensor` in `order`, unless somebody else decided on its layout before."""
    if tensor.name not in s.state.layouts:
        s.set_layout(tensor, order)


def completed(space: Space, chosen: dict[str, KnobValue]) -> Config:
    """The config of `space` that has the values in `chosen`, and a knob's first where none is."""
    return Config.of({k.name: chosen.get(k.name, k.values[0]) for k in space.knobs})


def sizes_of(space: Space, name: str) -> list[tuple[int, ...]]:
    """The values of split `name`."""
    values = space.knobs[space.column(name)].values
    return [
        tuple(part for part in value if isinstance(part, int))
        for value in values
        if isinstance(value, tuple)
    ]

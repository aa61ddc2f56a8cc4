"""Which tile sizes are worth trying, and what a tile costs.

Costs are cycles by the target's core model. They serve only to compare tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from loopwright.sched.extent import SizeLike
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.space.knobs import KnobValue
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload

WASTE = 1.15


def of_floats(workload: Workload) -> bool:
    """True when `workload` computes floats."""
    return workload.outputs[0].dtype.is_float


def divides_nearly(tile: int, extent: int, waste: float = WASTE) -> bool:
    """True when tiles of `tile` cover `extent` with at most `waste` times its iterations."""
    return tile == 1 or (tile <= extent and -(-extent // tile) * tile <= extent * waste)


def spans(extent: int, tile: int) -> tuple[tuple[int, int], ...]:
    """(size, count) of the tiles that cover `extent`: the whole ones, and the remainder."""
    whole, rest = divmod(extent, tile)
    found = [(tile, whole)] if whole else []
    return tuple(found + ([(rest, 1)] if rest else []))


def step_cycles(target: CpuTarget, scalars: int, vectors: int) -> float:
    """Cycles of one step of the sum in a tile of `scalars` broadcasts times `vectors`."""
    core = target.core
    accumulators, loads = scalars * vectors, scalars + vectors
    latency = core.fma_latency + core.chain_slack
    cycles = max(accumulators / core.fma_ports, latency, loads / core.load_ports)
    cycles += core.broadcast * scalars + core.load * vectors
    spilled = max(0, accumulators + vectors + core.spare_registers - target.registers)
    return cycles * (1 + core.spill * spilled**2)


def tile_cycles(target: CpuTarget, scalars: int, vectors: int, steps: int) -> float:
    """Cycles of a tile that sums `steps` products."""
    inner = steps * step_cycles(target, scalars, vectors)
    return inner + target.core.tile_start + target.core.store * scalars * vectors


def traffic_cycles(target: CpuTarget, nbytes: float) -> float:
    """Cycles that `nbytes` from beyond a core's own caches cost."""
    return nbytes / target.core.stream_bandwidth


def imbalance(iterations: int, cores: int) -> float:
    """How much longer `iterations` take on `cores` than evenly shared work would."""
    return -(-iterations // cores) * cores / iterations


def store_as(s: Schedule, tensor: Tensor, order: Sequence[int | tuple[int, SizeLike]]) -> None:
    """Store `tensor` in `order`, unless its layout was fixed before."""
    if tensor.name not in s.state.layouts:
        s.set_layout(tensor, order)


def completed(space: Space, chosen: dict[str, KnobValue]) -> Config:
    """The config of `space` with the values in `chosen`; other knobs take their first value."""
    return Config.of({k.name: chosen.get(k.name, k.values[0]) for k in space.knobs})


def sizes_of(space: Space, name: str) -> list[tuple[int, ...]]:
    """The values of split `name`."""
    values = space.knobs[space.column(name)].values
    return [
        tuple(part for part in value if isinstance(part, int))
        for value in values
        if isinstance(value, tuple)
    ]

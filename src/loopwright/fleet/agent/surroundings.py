"""What the devices of an agent share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loopwright.fleet.agent.blobs import BlobCache
from loopwright.fleet.agent.describe import Machine
from loopwright.fleet.agent.options import AgentOptions, Chance
from loopwright.kernel_call import KernelCall


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the devices of an agent share. `changed` is called when a report would differ; `note`
    is told of a device what its operator should know.
    """

    options: AgentOptions
    machine: Machine
    blobs: BlobCache
    incarnation: str
    clock: Callable[[], float]
    rng: Chance
    changed: Callable[[], None]
    allow: Callable[[KernelCall], None]
    addresses: Callable[[], tuple[str, ...]]
    note: Callable[[str, str], None]

"""What the devices of an agent share, and what the parts of one device share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from loopwright.fleet.agent.blobs import BlobCache
from loopwright.fleet.agent.driver import Driver, DriverFacts
from loopwright.fleet.agent.modules import Modules
from loopwright.fleet.agent.options import AgentOptions, DeviceOptions
from loopwright.fleet.words import EndReason
from loopwright.kernel_call import KernelCall


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What the devices of an agent share. `changed` is called when a report would differ; `note` is
    given a device's name and what its operator should know.
    """

    options: AgentOptions
    blobs: BlobCache
    incarnation: str
    clock: Callable[[], float]
    changed: Callable[[], None]
    allow: Callable[[KernelCall], None]
    addresses: Callable[[], tuple[str, ...]]
    note: Callable[[str, str], None]


@dataclass(slots=True)
class Door:
    """Who is on a device. `lock` is held while a session begins or ends, and while probing."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    session: asyncio.Task[EndReason] | None = None
    cleaning: bool = False

    @property
    def taken(self) -> bool:
        """Whether a session is open, or not cleaned up yet."""
        return self.session is not None or self.cleaning


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """What the parts of one device share."""

    spec: DeviceOptions
    facts: DriverFacts
    driver: Driver
    modules: Modules
    agent: AgentContext
    door: Door = field(default_factory=Door)

"""A fleet of one device within this process: tracker, agent and client on one event loop.

It is the same code as the fleet over the network, joined by socket pairs in place of connections:
no port is opened, nothing needs to be set up, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.errors import EnvironmentFailure
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.memory_blobs import MemoryBlobs
from loopwright.fleet.agent.options import AgentOptions, DeviceOptions, SessionLimits
from loopwright.fleet.client.aio import AsyncFleet
from loopwright.fleet.client.control import Control
from loopwright.fleet.client.lease import HeldLease
from loopwright.fleet.client.session import DeviceSession
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.security.handshake import Anonymous
from loopwright.fleet.store.memory import MemoryStore
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.server import Tracker
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.words import Health
from loopwright.kernel_call import CPU

HERE = "here"
_SCHEME = "embedded:"
_POLL_S = 0.002
_START_S = 120.0
_PROBE_S = 30.0  # a probe takes a fraction of a second
_EVERYTHING = 1 << 50
_BLOB_BYTES = 128 << 20  # object code is needed until it ran
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """The device, on `cores` of this machine. What can be made again is kept in `cache_dir`.

    `drift` is how far off its canary may be; 0 leaves that alone. What drives it is chosen by the
    `kind` of its target; `place` is as in `DeviceOptions`.
    """

    cores: tuple[int, ...]
    cache_dir: Path
    drift: float = 0.0
    ttl_s: float = 30.0
    kind: str = CPU
    place: str = ""


class Embedded:
    """Made and used in one event loop: `start`, then `fleet`, `close` at the end."""

    def __init__(
        self,
        options: EmbeddedOptions,
        rng: np.random.Generator,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._tracker = Tracker(MemoryStore(), TrackerConfig(name=HERE), rng=rng)
        self.agent = Agent(
            AgentOptions(
                HERE,
                options.cache_dir,
                addresses=(f"{_SCHEME}{HERE}",),
                limits=SessionLimits(_DAY_S, _EVERYTHING, _BLOB_BYTES, blobs=_BLOB_BYTES),
                drift=options.drift,
            ),
            [
                DeviceOptions(
                    f"{HERE}/{options.kind}0",
                    options.cores,
                    kind=options.kind,
                    place=options.place,
                )
            ],
            clock,
            rng,
            blobs=MemoryBlobs(_BLOB_BYTES),
        )
        control = Control(self._to_tracker, Anonymous(), clock, rng.random)
        self.fleet = AsyncFleet(control, self._to_device, clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Start; `ready` waits until the device can be leased.

        Raises: EnvironmentFailure.
        """
        try:
            await self._tracker.start()
            await self.agent.start()
            running = self._spawn(self.agent.run(self._to_tracker))
            await self.fleet.start()
            async with asyncio.timeout(_START_S):
                while not self.agent.synced and not running.done():
                    await asyncio.sleep(_POLL_S)
            if running.done():
                running.result()
            await self._probed()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._ready.set()

    async def _probed(self) -> None:
        """Wait until the device works.

        Raises: EnvironmentFailure when it does not: nobody else would mend it.
        """
        (device,) = self.agent.devices.values()
        try:
            async with asyncio.timeout(_PROBE_S):
                while device.health not in (Health.GOOD, Health.DRIFT, Health.BAD):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise EnvironmentFailure(f"no answer in {_PROBE_S:g} s: {device.detail}") from error
        if device.health is Health.BAD:
            raise EnvironmentFailure(device.detail)

    async def close(self) -> None:
        """End the device's processes, and everything else."""
        await self.fleet.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.agent.close()
        if hasattr(self._tracker, "book"):
            await self._tracker.stop()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of the device that are there now: its warden, and the measuring one."""
        (device,) = self.agent.devices.values()
        return device.driver.pids

    # --- `devices.Lessor` ---

    async def lease_one(self, wait_s: float) -> HeldLease:
        """The device.

        Raises: EnvironmentFailure when it did not come up; FleetError.
        """
        await self._ready.wait()
        if self._failure is not None:
            raise EnvironmentFailure(
                f"this machine cannot be measured: {self._failure}"
            ) from self._failure
        (lease,) = await self.fleet.acquire(
            LeaseRequest(ttl_s=self._options.ttl_s, max_wait_s=wait_s)
        )
        return lease

    async def open_session(self, lease: HeldLease) -> DeviceSession:
        """A session on it."""
        return await self.fleet.open(lease)

    # --- links ---

    async def _to_tracker(self) -> Link:
        ours, theirs = await pair()
        self._spawn(self._tracker.serve(theirs))
        return ours

    async def _to_device(self, _: str) -> Link:
        ours, theirs = await pair()
        self._spawn(self.agent.serve_session(theirs))
        return ours

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the other side was told

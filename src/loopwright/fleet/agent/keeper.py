"""Keeps a device's warden running: starts one, and another once the last is gone completely."""

from __future__ import annotations

import asyncio
import contextlib

from loopwright.errors import EnvironmentFailure
from loopwright.fleet.agent.driver import DriverEvents
from loopwright.fleet.agent.options import RandomSource
from loopwright.fleet.agent.wardens import WardenHandle, WardenOptions, Worker, WorkerLost
from loopwright.fleet.words import Health, Tier

_POLL_S = 0.01


class Keeper:
    """Keeps the warden of one device: `keep` until it is cancelled, then `close`."""

    def __init__(self, options: WardenOptions, restart_s: float, rng: RandomSource) -> None:
        self.warden: WardenHandle | None = None
        self._options = options
        self._restart_s = restart_s
        self._rng = rng

    @property
    def alive(self) -> bool:
        """Whether sessions can be started."""
        return self.warden is not None and self.warden.alive

    async def worker(self, deadline: float, patience_s: float) -> Worker:
        """A new measuring process, from a warden that is waited for.

        Raises: WorkerLost.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not self.alive:
                    await asyncio.sleep(_POLL_S)
        if self.warden is None or not self.alive:
            raise WorkerLost("the warden is not there")
        return await self.warden.begin(deadline)

    async def keep(self, events: DriverEvents) -> None:
        """Start a warden, and report it."""
        while True:
            gone = asyncio.Event()
            warden = self.warden = self._new_warden(events, gone)
            started = True
            try:
                ready = await warden.start()
                events.up(Tier(ready.tier), ready.missing)
                await gone.wait()
            except (EnvironmentFailure, OSError) as error:
                started = False
                events.down(str(error), Health.BAD)
            while not await warden.close():
                events.stuck("what a lost warden has left cannot be killed")
                await self._rest()
            if not started:
                await self._rest()

    def _new_warden(self, events: DriverEvents, gone: asyncio.Event) -> WardenHandle:
        def lost(why: str) -> None:
            gone.set()
            health = Health.BAD if warden.hung else Health.UNKNOWN  # another takes its place soon
            events.down(f"the warden was lost: {why}", health)

        def unclean() -> None:
            events.stuck("what a session has left cannot be killed")

        warden = WardenHandle(self._options, lost, unclean)
        return warden

    async def _rest(self) -> None:
        await asyncio.sleep(self._restart_s * (0.5 + self._rng.random()))

    async def close(self) -> None:
        """End the warden, with everything below it."""
        if self.warden is not None:
            await self.warden.close()

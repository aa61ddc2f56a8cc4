"""Keeps a device's warden running: starts one, and another once the last is gone altogether."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from loopwright.errors import EnvironmentFailure
from loopwright.fleet.agent.options import Chance
from loopwright.fleet.agent.wardens import Warden, WardenOptions, Worker, WorkerLost
from loopwright.fleet.words import Health
from loopwright.sandbox.orders import Ready

_POLL_S = 0.01


class Kept(Protocol):
    """What is told of the warden."""

    def warden_up(self, ready: Ready) -> None:
        """One is there."""
        ...

    def warden_down(self, why: str, health: Health) -> None:
        """None is there, for this reason; what that makes of the device."""
        ...

    def unkillable(self, what: str) -> None:
        """Something cannot be killed; no other warden is started while that is there."""
        ...


class Keeper:
    """Keeps the warden of one device: `keep` until it is cancelled, then `close`."""

    def __init__(self, told: WardenOptions, restart_s: float, rng: Chance, device: Kept) -> None:
        self.warden: Warden | None = None
        self._told = told
        self._restart_s = restart_s
        self._rng = rng
        self._device = device

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

    async def keep(self) -> None:
        """Have a warden."""
        while True:
            gone = asyncio.Event()
            warden = self.warden = self._new_warden(gone)
            started = True
            try:
                self._device.warden_up(await warden.start())
                await gone.wait()
            except (EnvironmentFailure, OSError) as error:
                started = False
                self._device.warden_down(str(error), Health.BAD)
            while not await warden.close():
                self._device.unkillable("what a lost warden has left")
                await self._rest()
            if not started:
                await self._rest()

    def _new_warden(self, gone: asyncio.Event) -> Warden:
        def lost(why: str) -> None:
            gone.set()
            health = Health.BAD if warden.hung else Health.UNKNOWN  # which another mends soon
            self._device.warden_down(f"the warden was lost: {why}", health)

        def unclean() -> None:
            self._device.unkillable("what a session has left")

        warden = Warden(self._told, lost, unclean)
        return warden

    async def _rest(self) -> None:
        await asyncio.sleep(self._restart_s * (0.5 + self._rng.random()))

    async def close(self) -> None:
        """End the warden, with everything below it."""
        if self.warden is not None:
            await self.warden.close()

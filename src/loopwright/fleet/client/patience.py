"""To try again what a busy server did not take up, with waits that grow and differ."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from loopwright.fleet.wire.link import BusyError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Waits between tries, in seconds: each up to twice the one before, up to `most_s`.

    Who is busy is tried again for `busy_s`.
    """

    first_s: float
    most_s: float
    busy_s: float

    def waits(self, chance: Callable[[], float]) -> Iterator[float]:
        """The waits, between a half and one and a half of the nominal, without end.

        Args:
            chance: a number in [0, 1).
        """
        wait_s = self.first_s
        while True:
            yield wait_s * (0.5 + chance())
            wait_s = min(2 * wait_s, self.most_s)


async def patiently(
    attempt: Callable[[], Awaitable[_T]],
    patience: Patience,
    clock: Callable[[], float],
    chance: Callable[[], float],
) -> _T:
    """What `attempt` returns, tried again while the other side is busy.

    Raises: BusyError when it is still so after `busy_s`; whatever else `attempt` raises, at once.
    """
    began, tries, waits = clock(), 0, patience.waits(chance)
    while True:
        tries += 1
        try:
            return await attempt()
        except BusyError as error:
            wait_s, spent_s = next(waits), clock() - began
            if spent_s + wait_s > patience.busy_s:
                raise BusyError(error.address, f"{tries} tries in {spent_s:.0f} s") from error
        await asyncio.sleep(wait_s)

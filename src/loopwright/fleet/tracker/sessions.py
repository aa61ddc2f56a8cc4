"""What the sessions of agents and clients have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loopwright.errors import FleetError
from loopwright.fleet.book.events import Event
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.wire.link import Link


class Host(Protocol):
    """What any session needs of its tracker."""

    config: TrackerConfig
    clock: Callable[[], float]

    def happened(self, event: Event) -> None:
        """Tell the book."""
        ...

    def refuse(self, link: Link, error: FleetError, who: str) -> None:
        """Close a link because of what came over it."""
        ...

    def slow_down(self, link: Link, wait_s: float) -> None:
        """Read nothing more of a link for a while."""
        ...


class Allowance:
    """How much one connection may ask of the tracker.

    Fills by `rate` a second up to `burst`; each thing done takes one.
    """

    __slots__ = ("_at", "_burst", "_clock", "_left", "_rate")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def take(self) -> float:
        """Take one: 0 when there was one, else how many seconds until there is."""
        left = self._left - 1.0
        if left < 0.0:
            now = self._clock()
            left = min(self._burst, left + 1.0 + (now - self._at) * self._rate) - 1.0
            self._at = now
        self._left = left
        return 0.0 if left >= 0.0 else -left / self._rate

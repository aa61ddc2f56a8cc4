"""The tracker's log as HTTP's streams read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from loopwright.fleet.history import place_of
from loopwright.fleet.store.rows import StoreError
from loopwright.fleet.tracker.asks import event_view
from loopwright.serving.streams import LogEntry

if TYPE_CHECKING:
    from loopwright.fleet.store.rows import AuditEvent, Logged
    from loopwright.fleet.tracker.server import Tracker

_encode = msgspec.json.Encoder().encode


class AuditLog:
    """The log of `tracker`: a `streams.Log`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    async def latest(self) -> int | None:
        """The number of the last event; None when the store does not say."""
        try:
            return await place_of(0.0, self._any_after)
        except StoreError:
            return None

    async def _any_after(self, number: int) -> float | None:
        found = await self.read(number, 1)
        return -1.0 if found else None  # any at all: the end is looked for, not a time

    async def after(self, number: int, count: int) -> list[LogEntry] | None:
        """Events with numbers above `number`; None when the store does not say."""
        try:
            found = await self.read(number, count)
        except StoreError:
            return None
        return [LogEntry(one.id, one.event.what, _encode(event_view(one))) for one in found]

    async def recent(self, count: int) -> tuple[AuditEvent, ...]:
        """The latest events, at most `count`, oldest first; none when the store does not say."""
        last = await self.latest()
        try:
            found = () if last is None else await self.read(max(0, last - count), count)
        except StoreError:
            return ()
        return tuple(logged.event for logged in found)

    async def read(self, number: int, count: int) -> tuple[Logged, ...]:
        """Events as the store has them. Raises: StoreError."""
        return await asyncio.to_thread(self._tracker.store.events, number, count)

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have `tell` called with each event from now on; returns what ends that."""
        return self._tracker.watch(lambda _: tell())

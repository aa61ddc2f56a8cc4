"""The tracker's log as a stream of server-sent events, from any place in it on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import msgspec

from loopwright.fleet.history import place_of
from loopwright.fleet.store.rows import StoreError

if TYPE_CHECKING:
    from loopwright.fleet.store.rows import AuditEvent, Logged
    from loopwright.fleet.tracker.server import Tracker

_AT_ONCE = 500
_GATHER_S = 0.1
_IDLE_S = 1.0  # the log is the truth, and being told of it a hint
_BEAT = b": beat\n\n"
_encode = msgspec.json.Encoder().encode


async def stream(
    tracker: Tracker, after: int | None, welcome: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Events with numbers above `after` (None: those from now on), until `welcome` says no."""
    told = asyncio.Event()

    def tell(_: AuditEvent) -> None:
        told.set()

    leave = tracker.watch(tell)
    try:
        last = await _latest(tracker) if after is None else after
        yield _BEAT
        while welcome():
            told.clear()
            found = await asyncio.to_thread(tracker.store.events, last, _AT_ONCE)
            if found:
                last = found[-1].id
                yield b"".join(map(_message, found))
            else:
                yield _BEAT
            if len(found) < _AT_ONCE:
                await _until(told)
    except StoreError:
        return  # whoever reads comes again, with the number of the last one
    finally:
        leave()


async def recent(tracker: Tracker, count: int) -> tuple[AuditEvent, ...]:
    """The latest events, at most `count`, oldest first; none when the store does not say."""
    try:
        last = await _latest(tracker)
        found = await asyncio.to_thread(tracker.store.events, max(0, last - count), count)
    except StoreError:
        return ()
    return tuple(logged.event for logged in found)


async def _until(told: asyncio.Event) -> None:
    """Wait for word of something new, and then for what comes with it."""
    try:
        async with asyncio.timeout(_IDLE_S):
            await told.wait()
    except TimeoutError:
        return
    await asyncio.sleep(_GATHER_S)


async def _latest(tracker: Tracker) -> int:
    """The number of the last event there is."""

    async def first_after(number: int) -> float | None:
        found = await asyncio.to_thread(tracker.store.events, number, 1)
        return -1.0 if found else None  # any at all: the end is looked for, not a time

    return await place_of(0.0, first_after)


def _message(logged: Logged) -> bytes:
    event = logged.event
    body = {
        "id": logged.id,
        "at": event.at,
        "what": event.what,
        "subject": event.subject,
        "by": event.by,
        "detail": event.detail,
    }
    return f"id: {logged.id}\nevent: {_word(event.what)}\ndata: ".encode() + _encode(body) + b"\n\n"


def _word(what: str) -> str:
    """The event's word; nothing in it may end the line."""
    return "".join(char for char in what if char.isalnum() or char in ".-_")

"""Streams of server-sent events: a log from any place in it on, and news for all who watch.

Nothing is imported here that needs the extra `[server]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

_AT_ONCE = 500
_GATHER_S = 0.1
_IDLE_S = 1.0  # the log is the truth, and being told of it a hint
_BEAT = b": beat\n\n"
_BEHIND = 64  # messages that a watcher may be behind
_MOST = 64  # watchers


def message(event: str, body: bytes, number: int | None = None) -> bytes:
    """One event of a stream; `body` is JSON, which has no line breaks in it."""
    word = "".join(char for char in event if char.isalnum() or char in ".-_")  # ends no line
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {word}\ndata: ".encode() + body + b"\n\n"


# --- a log ---


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What happened: its number in the log, its word, and the whole of it as JSON."""

    number: int
    event: str
    body: bytes


class Log(Protocol):
    """A log whose numbers grow. It says None while it cannot be read."""

    async def latest(self) -> int | None:
        """The number of the last entry; 0 without one."""

    async def after(self, number: int, count: int) -> Sequence[LogEntry] | None:
        """At most `count` entries with numbers above `number`, in order."""

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have `tell` called when there is something new; returns what ends that."""


async def stream(log: Log, after: int | None, allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Entries with numbers above `after` (None: those from now on), until `allowed` says no.

    It ends too when the log cannot be read: the reader connects again, with the last number.
    """
    told = asyncio.Event()
    leave = log.watch(told.set)
    try:
        last = await log.latest() if after is None else after
        if last is None:
            return
        yield _BEAT
        while allowed():
            told.clear()
            found = await log.after(last, _AT_ONCE)
            if found is None:
                return
            if found:
                last = found[-1].number
                yield b"".join(message(e.event, e.body, e.number) for e in found)
            else:
                yield _BEAT
            if len(found) < _AT_ONCE:
                await _until(told)
    finally:
        leave()


async def _until(told: asyncio.Event) -> None:
    """Wait for word of something new, and then for what comes with it."""
    try:
        async with asyncio.timeout(_IDLE_S):
            await told.wait()
    except TimeoutError:
        return
    await asyncio.sleep(_GATHER_S)


# --- news ---


@dataclass(slots=True, eq=False)
class StreamWatcher:
    """A watcher, and what it was not sent yet."""

    _queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_BEHIND))

    def put(self, news: bytes | None) -> bool:
        """Whether it was not too far behind."""
        try:
            self._queue.put_nowait(news)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        """Have the stream end."""
        while not self.put(None):
            self._queue.get_nowait()

    def skip(self) -> bool:
        """Leave out what was put so far; whether the stream goes on."""
        while not self._queue.empty():
            if self._queue.get_nowait() is None:
                return False
        return True

    async def news(self) -> bytes | None:
        """What is to be sent next; None at the end."""
        return await self._queue.get()


class Watchers:
    """All who watch. One that does not keep up is let go."""

    def __init__(self) -> None:
        self._all: set[StreamWatcher] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return self._closed or len(self._all) >= _MOST

    def join(self) -> StreamWatcher:
        """One more."""
        watcher = StreamWatcher()
        self._all.add(watcher)
        return watcher

    def leave(self, watcher: StreamWatcher) -> None:
        """One less."""
        self._all.discard(watcher)

    def tell(self, news: bytes) -> None:
        """Send `news` to all."""
        for watcher in tuple(self._all):
            if not watcher.put(news):
                watcher.end()
                self._all.discard(watcher)

    def end(self) -> None:
        """End all streams; watchers may connect again."""
        for watcher in self._all:
            watcher.end()

    def close(self) -> None:
        """End all streams for good."""
        self._closed = True
        self.end()

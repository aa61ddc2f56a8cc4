"""What the dashboard is told: all there is at first, then what changed, once in a while.

Devices and leases are compared with how they were a moment ago, some at a time between other work
of the loop, and only while somebody watches. A watcher that does not keep up is let go.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from loopwright.fleet.tracker.http_events import AuditLog
from loopwright.serving.streams import Watchers, message

if TYPE_CHECKING:
    from loopwright.fleet.store.rows import AuditEvent
    from loopwright.fleet.tracker.server import Tracker
    from loopwright.fleet.views import DeviceView

_EVERY_S = 1.0
_AT_ONCE = 200  # devices looked at without giving the loop to others
_EVENTS_BEHIND = 256
_RECENT = 100
_HIDDEN_LABELS = frozenset({"name"})
_encode = msgspec.json.Encoder().encode

Row: TypeAlias = bytes


class Feed:
    """Streams of what changes in `tracker`, for any number of dashboards."""

    def __init__(self, tracker: Tracker, every_s: float = _EVERY_S) -> None:
        self._tracker = tracker
        self._every_s = every_s
        self._devices: dict[str, Row] = {}
        self._leases: dict[str, Row] = {}
        self._events: list[AuditEvent] = []  # not told yet
        self._recent: deque[AuditEvent] = deque(maxlen=_RECENT)
        self._watchers = Watchers()
        self._task: asyncio.Task[None] | None = None
        self._fresh = asyncio.Event()  # the first look is done
        self._wall_offset = tracker.wall() - tracker.clock()  # once: rows must not flicker

    @property
    def full(self) -> bool:
        """Whether there is no room for another watcher."""
        return self._watchers.full

    async def watch(self, allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Messages for an event stream, from a first one that has everything, until the end.

        It ends when the watcher is no longer `allowed`.
        """
        if self._task is None:
            self._fresh.clear()
            self._task = asyncio.get_running_loop().create_task(self._look_often())
        watcher = self._watchers.join()
        try:
            await self._fresh.wait()
            if not watcher.skip():  # what is older than what follows
                return
            yield self._everything()
            while (news := await watcher.news()) is not None and allowed():
                yield news
        finally:
            self._watchers.leave(watcher)

    def close(self) -> None:
        """End all streams."""
        self._fresh.set()
        self._watchers.close()
        if self._task is not None:
            self._task.cancel()

    # --- looking ---

    async def _look_often(self) -> None:
        """Look while somebody watches."""
        self._recent.clear()
        self._recent += await AuditLog(self._tracker).recent(_RECENT)
        leave = self._tracker.watch(self._happened)
        try:
            while self._watchers:
                devices = await self._look_at_devices()
                leases = self._look_at_leases()
                await asyncio.sleep(0)
                changed = _difference(self._devices, devices), _difference(self._leases, leases)
                self._devices, self._leases = devices, leases
                if self._fresh.is_set():
                    news = _body(*changed, self._status(), self._news())
                    self._watchers.tell(message("change", news))
                else:
                    self._events.clear()
                    self._fresh.set()
                await asyncio.sleep(self._every_s)
        finally:
            leave()
            self._task = None
            self._devices, self._leases = {}, {}
            self._fresh.set()
            self._watchers.end()  # there are none, unless something went wrong: they come again

    def _happened(self, event: AuditEvent) -> None:
        self._recent.append(event)
        self._events.append(event)
        if len(self._events) > 2 * _EVENTS_BEHIND:
            del self._events[:_EVENTS_BEHIND]

    async def _look_at_devices(self) -> dict[str, Row]:
        book = self._tracker.book
        found: dict[str, Row] = {}
        names = book.names()
        for start in range(0, len(names), _AT_ONCE):
            for name in names[start : start + _AT_ONCE]:
                view = book.device(name)
                if view is not None:
                    found[name] = _encode(_device(view))
            await asyncio.sleep(0)
        return found

    def _look_at_leases(self) -> dict[str, Row]:
        book, now = self._tracker.book, self._tracker.clock()
        wall = now + self._wall_offset
        found: dict[str, Row] = {}
        for lease in book.leases(now):
            state = "ending" if lease.reason is not None else lease.state
            row = (lease.id, state, lease.device, lease.tenant, _text(lease.tags.items()))
            found[lease.id] = _encode((*row, round(wall - lease.age_s)))
        for request in book.requests(now):
            what = request.selector or "any"
            wanted = f"{request.count} of {what}" if request.count > 1 else what
            row = (request.id, "queued", wanted, request.tenant, _text(request.tags.items()))
            found[request.id] = _encode((*row, round(wall - request.waited_s)))
        return found

    def _status(self) -> bytes:
        return _encode(self._tracker.status())

    def _news(self) -> bytes:
        events, self._events = self._events[-_EVENTS_BEHIND:], []
        return _lines(events)

    # --- telling ---

    def _everything(self) -> bytes:
        all_of = (self._devices.values(), ()), (self._leases.values(), ())
        return message("all", _body(*all_of, self._status(), _lines(self._recent)))


def _device(view: DeviceView) -> tuple[str, str, str, str, str, float]:
    """A device as the dashboard shows it: name, state, why, lease, labels, drift."""
    if view.grantable:
        state, why = "free", ""
    elif view.lease:
        state, why = view.occupancy, view.why
    else:
        state, _, why = view.kept.partition(": ")
        state = state or "not free"
    labels = _text((k, v) for k, v in sorted(view.labels.items()) if k not in _HIDDEN_LABELS)
    return view.name, state, why, view.lease, labels, round(view.drift, 4)


def _lines(events: Iterable[AuditEvent]) -> bytes:
    return _encode([(e.at, e.what, e.subject, e.by, e.detail) for e in events])


def _text(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{key}={value}" for key, value in pairs)


def _difference(before: dict[str, Row], after: dict[str, Row]) -> tuple[list[Row], list[str]]:
    """Rows that are new or changed, and names that are gone."""
    changed = [row for name, row in after.items() if before.get(name) != row]
    return changed, [name for name in before if name not in after]


def _body(
    devices: tuple[Iterable[Row], Iterable[str]],
    leases: tuple[Iterable[Row], Iterable[str]],
    status: bytes,
    events: bytes,
) -> bytes:
    parts = [
        b'{"devices":[',
        b",".join(devices[0]),
        b'],"gone":',
        _encode(list(devices[1])),
        b',"leases":[',
        b",".join(leases[0]),
        b'],"over":',
        _encode(list(leases[1])),
        b',"status":',
        status,
        b',"events":',
        events,
        b"}",
    ]
    return b"".join(parts)

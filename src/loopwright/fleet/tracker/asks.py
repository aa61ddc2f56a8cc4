"""Questions of clients, answered in pages of JSON that each fit into one message."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from loopwright.errors import LoopwrightError
from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.security.tokens import Principal
from loopwright.fleet.store.rows import Logged, StoreError, TrackerStore
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.infos import Infos
from loopwright.fleet.views import DeviceView, EventView, LeaseView
from loopwright.fleet.wire.messages import Answer, Ask, Message
from loopwright.fleet.words import ErrorCode

_EVENTS_A_PAGE = 200
_PAGING_S = 5.0
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Page:
    """One page: JSON text, and what to ask for next, empty at the end."""

    body: bytes
    more: str = ""


Pages: TypeAlias = Callable[[Ask], Page]


class Asker(Protocol):
    """The session that asked, to which the answer goes."""

    who: Principal

    def send(self, message: Message) -> None:
        """Answer, if it is still there."""
        ...

    def failed(self, question: int, code: ErrorCode, detail: str) -> None:
        """Answer that a question or command failed."""
        ...


class AsksHost(Protocol):
    """What questions are answered from."""

    book: LeaseBook
    store: TrackerStore
    infos: Infos
    config: TrackerConfig
    clock: Callable[[], float]

    def status(self) -> Mapping[str, object]:
        """The tracker's status."""
        ...


class Asks:
    """Answers questions from what the book and the store have now."""

    def __init__(self, tracker: AsksHost) -> None:
        self._tracker = tracker
        self._tasks: set[asyncio.Task[None]] = set()
        self._pages: dict[str, tuple[float, Sequence[str]]] = {}
        self._answers: dict[str, Pages] = {
            "devices": self._devices,
            "leases": self._leases,
            "explain": self._explain,
            "status": self._status,
        }

    def ask(self, client: Asker, message: Ask) -> None:
        """Answer `client`."""
        if message.what == "events":
            task = asyncio.get_running_loop().create_task(self._events(client, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            page = self.page(message)
        except LoopwrightError as error:
            client.failed(message.id, ErrorCode.BAD_REQUEST, str(error))
            return
        if page is None:
            known = ", ".join([*self._answers, "events"])
            detail = f"no question {message.what[:40]!r}; there are {known}"
            client.failed(message.id, ErrorCode.BAD_REQUEST, detail)
            return
        client.send(Answer(message.id, page.body, page.more))

    def page(self, message: Ask) -> Page | None:
        """The page that `message` asks for; None for an unknown question.

        Raises: ConfigError for an invalid selector.
        """
        answer = self._answers.get(message.what)
        return None if answer is None else answer(message)

    def _devices(self, message: Ask) -> Page:
        names = self._names(message)
        start = bisect.bisect_right(names, message.after)
        device = self._tracker.book.device
        found = (view for name in names[start:] if (view := device(name)) is not None)
        return self._cut((view.name, self._device(view)) for view in found)

    def _names(self, message: Ask) -> Sequence[str]:
        """What the selector means: for later pages, what it meant for the first."""
        book = self._tracker.book
        if message.name:
            return [message.name] if message.name in book.names(message.selector) else []
        now = self._tracker.clock()
        kept = self._pages.get(message.selector)
        if message.after and kept is not None and now - kept[0] < _PAGING_S:
            return kept[1]
        names = book.names(message.selector)
        self._pages = {s: k for s, k in self._pages.items() if now - k[0] < _PAGING_S}
        self._pages[message.selector] = now, names
        return names

    def _device(self, view: DeviceView) -> DeviceView:
        info = self._tracker.infos.of(view.name, view.incarnation)
        if info is None:
            return view
        return msgspec.structs.replace(
            view,
            target=info.target,
            device=info.device,
            cores=info.cores,
            addresses=info.addresses,
            tier=info.tier,
        )

    def _leases(self, message: Ask) -> Page:
        now, book = self._tracker.clock(), self._tracker.book
        views = sorted((*book.leases(now), *book.requests(now)), key=lambda view: view.id)
        return self._cut(
            (view.id, _rounded(view))
            for view in views
            if view.id > message.after and (not message.name or message.name == view.id)
        )

    def _explain(self, message: Ask) -> Page:
        found = self._tracker.book.explain(message.name, self._tracker.clock())
        return Page(_encode(found))

    def _status(self, _: Ask) -> Page:
        return Page(_encode(self._tracker.status()))

    async def _events(self, client: Asker, message: Ask) -> None:
        after = int(message.after) if message.after.isdigit() else 0
        try:
            found = await asyncio.to_thread(self._tracker.store.events, after, _EVENTS_A_PAGE)
        except StoreError as error:
            client.failed(message.id, ErrorCode.STORE, str(error))
            return
        page = self._cut((str(logged.id), event_view(logged)) for logged in found)
        more = page.more or (str(found[-1].id) if len(found) == _EVENTS_A_PAGE else "")
        client.send(Answer(message.id, page.body, more))

    def _cut(self, rows: Iterable[tuple[str, object]]) -> Page:
        """As many rows, each with its name, as fit into a page, at least one."""
        limit = self._tracker.config.page_bytes
        parts: list[bytes] = []
        size, last = 2, ""
        for name, row in rows:
            part = _encode(row)
            size += len(part) + 1
            if parts and size > limit:
                return Page(b"[" + b",".join(parts) + b"]", last)
            parts.append(part)
            last = name
        return Page(b"[" + b",".join(parts) + b"]")


def _rounded(view: LeaseView) -> LeaseView:
    """A view with its times in milliseconds."""
    return msgspec.structs.replace(
        view,
        age_s=round(view.age_s, 3),
        expires_s=round(view.expires_s, 3),
        waited_s=round(view.waited_s, 3),
        gives_up_s=round(view.gives_up_s, 3),
    )


def event_view(logged: Logged) -> EventView:
    """A line of the log as it is told."""
    event = logged.event
    return EventView(
        id=logged.id,
        at=event.at,
        what=event.what,
        subject=event.subject,
        by=event.by,
        detail=event.detail,
    )

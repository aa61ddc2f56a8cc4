"""A real tracker for tests, with agents and clients that do what the test says."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from loopwright.fleet.security.handshake import Anonymous, Credential, greet
from loopwright.fleet.store.memory import MemoryRows, MemoryStore
from loopwright.fleet.store.rows import (
    ChangeBatch,
    Logged,
    Pace,
    StoreBusyError,
    StoreContents,
    StoreError,
    TrackerStore,
)
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.log import JsonLog
from loopwright.fleet.tracker.server import Clocks, Tracker
from loopwright.fleet.wire.codec import Incoming
from loopwright.fleet.wire.link import Link, dial, pair
from loopwright.fleet.wire.listener import Listener, ListenLimits
from loopwright.fleet.wire.messages import (
    Acquire,
    Answer,
    Ask,
    Command,
    Desired,
    DeviceInfo,
    DeviceOrder,
    DeviceReport,
    Done,
    Grant,
    Granted,
    Message,
    Queued,
    Register,
    Release,
    Released,
    Sync,
    Welcome,
)

T = TypeVar("T")
M = TypeVar("M", bound=Message)
LIMIT_S = 20.0
QUICK = TrackerConfig(
    sync_active_s=0.05, sync_idle_s=0.1, gather_s=0.001, orders_s=0.001, retry_s=0.02, commit_s=1.0
)
WALL = 1_800_000_000.0
ADDRESS = "tcp://127.0.0.1:9"


def run(work: Coroutine[Any, Any, T], limit_s: float = LIMIT_S) -> T:
    """What `work` returns; a test that hangs fails."""

    async def limited() -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await work
        finally:
            await hang_up()

    return asyncio.run(limited())


async def hang_up() -> None:
    """End the connections that a test has left, so that no later one is blamed for them."""
    for transport in list(getattr(asyncio.get_running_loop(), "_transports", {}).values()):
        transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turn until `condition` holds; `run` bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


@dataclass
class Wall:
    """A wall clock that the test sets."""

    now: float = WALL

    def __call__(self) -> float:
        return self.now


@dataclass
class FlakyStore:
    """A store that fails when it is told to; `hang` makes a commit wait, `busy` refuses those that
    would not. `threads` are the names of those that committed.
    """

    inner: TrackerStore = field(default_factory=MemoryStore)
    broken: str = ""
    commits: list[ChangeBatch] = field(default_factory=list)
    kind: Pace = Pace.SLOW
    busy: bool = False
    threads: list[str] = field(default_factory=list)
    reopened: int = 0
    hang: Callable[[], None] | None = None

    def begin(self) -> int:
        return self.inner.begin()

    def load(self) -> StoreContents:
        return self.inner.load()

    def pace(self, batch: ChangeBatch) -> Pace:  # noqa: ARG002  # of the protocol
        return self.kind

    def commit(self, batch: ChangeBatch, *, wait: bool = True) -> None:
        if self.busy and not wait:
            raise StoreBusyError("another process writes")
        if self.hang is not None:
            self.hang()
        if self.broken:
            raise StoreError(self.broken, retryable=True)
        self.inner.commit(batch, wait=wait)
        self.commits.append(batch)
        self.threads.append(threading.current_thread().name)

    def reopen(self) -> None:
        self.reopened += 1
        if self.broken:
            raise StoreError(self.broken, retryable=True)

    def events(self, after: int, limit: int) -> tuple[Logged, ...]:
        return self.inner.events(after, limit)

    def close(self) -> None:
        self.inner.close()


@dataclass
class Site:
    """A tracker that runs, how to reach it, and what it logged."""

    tracker: Tracker
    listener: Listener
    log: io.StringIO
    wall: Wall
    rows: MemoryRows

    @property
    def address(self) -> str:
        return self.listener.addresses[0]

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """What was logged, of one kind or all."""
        self.tracker.log.flush()
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in found if not event or line["event"] == event]

    async def client(self, credential: Credential | None = None, *, trace: str = "") -> Client:
        """A client over loopback, or with no credential over a pair of sockets."""
        link, welcome = await self._come("client", credential, trace)
        return Client(link, welcome)

    async def agent(
        self,
        name: str = "pi",
        devices: Sequence[str] = ("pi/cpu0",),
        credential: Credential | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        incarnation: str = "boot-1",
        address: str = ADDRESS,
        sync: bool = True,
    ) -> FakeAgent:
        """An agent that has registered its devices and said that they are well."""
        link, welcome = await self._come("agent", credential or Anonymous(name), "")
        agent = FakeAgent(link, welcome, incarnation, {})
        infos = tuple(info(device, labels, address) for device in devices)
        agent.reports = {
            device.name: DeviceReport(name=device.name, occupancy="idle", health="good")
            for device in infos
        }
        link.send(Register(incarnation, infos))
        agent.listen()
        if sync:
            agent.sync()
        return agent

    async def _come(
        self, role: str, credential: Credential | None, trace: str
    ) -> tuple[Link, Welcome]:
        if credential is None or isinstance(credential, Anonymous):
            mine, theirs = await pair()
            task = asyncio.ensure_future(self.tracker.serve(theirs))
            welcome = await greet(mine, role, credential or Anonymous(), trace=trace)
            await task
            return mine, welcome
        link = await dial(self.address)
        return link, await greet(link, role, credential, trace=trace)

    async def free(self, devices: int) -> None:
        """Wait until so many devices can be granted."""
        await until(lambda: self.tracker.book.counts.free == devices)


def info(name: str, labels: Mapping[str, str] | None = None, address: str = ADDRESS) -> DeviceInfo:
    given = {"board": "rpi4", "kind": "cpu"} if labels is None else dict(labels)
    return DeviceInfo(
        name=name,
        labels=given,
        target="cpu",
        device="a cpu",
        cores=(0,),
        addresses=(address,),
        tier=1,
    )


@dataclass
class Client:
    """A client by hand."""

    link: Link
    welcome: Welcome
    _ids: int = 0

    async def hear(self, kind: type[M], timeout_s: float = 5.0) -> M:
        """The next message, which must be a `kind`; word of waiting is passed over."""
        while True:
            message = await self.link.receive(timeout_s)
            if isinstance(message, kind):
                return message
            assert isinstance(message, Queued), message

    async def acquire(
        self, selector: str = "board=rpi4", request: str = "", **more: object
    ) -> Grant:
        """One device, when it is granted."""
        (grant,) = (await self.acquire_all(selector, request, **more)).grants
        return grant

    async def acquire_all(self, selector: str = "", request: str = "", **more: object) -> Granted:
        """Devices, when they are granted."""
        fields: dict[str, Any] = {"request": request or self.request(), "selector": selector}
        self.link.send(Acquire(**(fields | more)))
        return await self.hear(Granted)

    def request(self) -> str:
        self._ids += 1
        return f"request-{id(self)}-{self._ids}"

    async def release(self, grant: Grant) -> Released:
        self.link.send(Release(grant.lease, grant.epoch))
        return await self.hear(Released)

    async def ask(self, what: str, **more: str) -> Any:  # noqa: ANN401  # JSON
        """All pages of an answer."""
        rows: list[Any] = []
        after = ""
        while True:
            self.link.send(Ask(7, what, after=after, **more))
            answer = await self.hear(Answer)
            assert answer.id == 7
            page = json.loads(answer.body)
            if not isinstance(page, list):
                return page
            rows += page
            if not answer.more:
                return rows
            after = answer.more

    async def command(self, what: str, **arguments: str) -> Any:  # noqa: ANN401  # JSON
        """What a command made."""
        self.link.send(Command(9, what, arguments))
        done = await self.hear(Done)
        assert done.id == 9
        return json.loads(done.body)


@dataclass
class FakeAgent:
    """An agent by hand: what it was told, and what it reports."""

    link: Link
    welcome: Welcome
    incarnation: str
    orders: dict[str, DeviceOrder]
    reports: dict[str, DeviceReport] = field(default_factory=dict)
    heard: list[Incoming] = field(default_factory=list)
    answers: int = 0
    next_ms: int = 0
    seq: int = 0
    closed: str = ""

    def listen(self) -> None:
        self.link.on_message(self._hear, self._gone)

    def sync(self) -> None:
        self.seq += 1
        self.link.send(Sync(self.seq, tuple(self.reports.values())))

    def report(self, device: str, occupancy: str, health: str = "good", **more: object) -> None:
        """Say how one device is."""
        fields: dict[str, Any] = {"name": device, "occupancy": occupancy, "health": health}
        self.reports[device] = DeviceReport(**(fields | more))
        self.sync()

    def serve_lease(self, grant: Grant) -> None:
        """Report an open session of a grant."""
        self.report(
            grant.device.name,
            "active",
            lease=grant.lease,
            epoch=grant.epoch,
            last_epoch=grant.epoch,
        )

    def idle(self, device: str, last_epoch: int = 0) -> None:
        self.report(device, "idle", last_epoch=last_epoch)

    async def told(self, device: str, condition: Callable[[DeviceOrder], bool]) -> DeviceOrder:
        """Wait for an order."""
        await until(lambda: device in self.orders and condition(self.orders[device]))
        return self.orders[device]

    def _hear(self, message: Incoming, _: int) -> None:
        self.heard.append(message)
        if isinstance(message, Desired):
            self.answers += 1
            self.next_ms = message.next_sync_ms
            self.orders.update((order.name, order) for order in message.orders)

    def _gone(self, why: str) -> None:
        self.closed = why


@asynccontextmanager
async def site(
    config: TrackerConfig = QUICK,
    *,
    store: TrackerStore | None = None,
    rows: MemoryRows | None = None,
    clock: Callable[[], float] | None = None,
    limits: ListenLimits = ListenLimits(),  # noqa: B008  # frozen
    seed: int = 5,
    address: str = "tcp://127.0.0.1:0",
) -> AsyncIterator[Site]:
    """A tracker on `store`, or in memory, that listens on loopback or at `address`."""
    kept = MemoryRows() if rows is None else rows
    wall, log = Wall(), io.StringIO()
    clocks = Clocks(wall=wall) if clock is None else Clocks(clock, wall)
    tracker = Tracker(
        MemoryStore(kept) if store is None else store,
        config,
        rng=np.random.default_rng(seed),
        clocks=clocks,
        log=JsonLog(log, wall),
    )
    await tracker.start()
    listener = Listener(address, tracker.serve, limits=limits, tally=tracker.link_tally)
    async with listener:
        try:
            yield Site(tracker, listener, log, wall, kept)
        finally:
            await tracker.stop()

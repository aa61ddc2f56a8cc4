"""What an agent tells a tracker, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from agents import DEVICE, KEY, WAIT_S, connect, idle, options, running, ticket, until

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.wire.link import Link, LinkClosed, pair
from loopwright.fleet.wire.messages import (
    PROTOCOL,
    Closed,
    Desired,
    DeviceOrder,
    DeviceReport,
    Error,
    Hello,
    Register,
    Superseded,
    Sync,
    Welcome,
)
from loopwright.fleet.words import Health
from loopwright.records.device import fingerprint
from loopwright.target.host import host
from loopwright.target.parse import parse


@dataclass
class FakeTracker:
    """Welcomes an agent and keeps what it says."""

    links: list[Link] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    registered: list[Register] = field(default_factory=list)
    syncs: list[Sync] = field(default_factory=list)
    refuse: Error | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def connect(self) -> Link:
        """What an agent dials with."""
        ours, theirs = await pair()
        self.tasks.append(asyncio.create_task(self.serve(theirs)))
        return ours

    async def serve(self, link: Link) -> None:
        hello = await link.receive(WAIT_S)
        assert isinstance(hello, Hello)
        self.hellos.append(hello)
        if hello.auth != "none":
            link.close()
        elif self.refuse is not None:
            link.send(self.refuse)
            link.close()
        else:
            link.send(
                Welcome(
                    proto=PROTOCOL,
                    tracker="fake",
                    tracker_epoch=1,
                    sync_ms=60_000,
                    principal="here",
                    role=0,
                    device_key=KEY,
                )
            )
            self.links.append(link)
            await self.listen(link)

    async def listen(self, link: Link) -> None:
        try:
            while True:
                message = await link.receive()
                if isinstance(message, Register):
                    self.registered.append(message)
                elif isinstance(message, Sync):
                    self.syncs.append(message)
        except LinkClosed:
            return

    def order(self, **changes: object) -> None:
        """Send one order for the device."""
        words: dict[str, object] = {"lease": "", "epoch": 0, "ttl_ms": 0, "admin": "enabled"}
        order = DeviceOrder(name=DEVICE, **{**words, **changes})  # type: ignore[arg-type]
        self.links[-1].send(Desired(1, (order,), 60_000))

    @property
    def report(self) -> DeviceReport:
        return self.syncs[-1].reports[0]


def talking(machine_dir: Path, scenario: Callable[[Agent, FakeTracker], Awaitable[None]]) -> None:
    """Run `scenario` with an agent that is connected with a fake tracker."""

    async def main() -> None:
        plain = options(machine_dir, key=b"")
        quick = replace(plain, timers=replace(plain.timers, reconnect_s=0.01))
        async with running(quick) as agent:
            tracker = FakeTracker()
            task = asyncio.create_task(agent.run(tracker.connect))
            await until(lambda: tracker.syncs and tracker.report.health == "good")
            await scenario(agent, tracker)
            task.cancel()
            await asyncio.gather(task, *tracker.tasks, return_exceptions=True)

    asyncio.run(main())


def test_a_device_is_described_as_records_describe_it(machine_dir: Path) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        assert tracker.hellos[0].role == "agent"
        (device,) = tracker.registered[-1].devices
        assert tracker.registered[-1].incarnation == agent.incarnation
        assert parse(device.target).key == host().key
        assert device.device == fingerprint(host())
        assert device.labels["kind"] == "cpu"
        assert device.labels["name"] == device.name == DEVICE
        assert device.tier == agent.devices[DEVICE].prober.tier

    talking(machine_dir, scenario)


def test_a_session_is_reported_at_once_and_so_is_its_end(machine_dir: Path) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        assert tracker.report.occupancy == "idle"
        client = await connect(agent, ticket(agent, 7))
        await until(lambda: tracker.report.occupancy == "active")
        assert (tracker.report.lease, tracker.report.epoch) == ("l7", 7)
        await client.close()
        await until(lambda: tracker.report.occupancy == "idle")
        assert (tracker.report.epoch, tracker.report.last_epoch) == (0, 7)
        numbers = [sync.seq for sync in tracker.syncs]
        assert numbers == sorted(set(numbers))

    talking(machine_dir, scenario)


def test_orders_keep_a_lease_alive_beyond_its_tickets_ttl(machine_dir: Path) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        client = await connect(agent, ticket(agent, 7, ttl_ms=300))
        tracker.order(lease="l7", epoch=7, ttl_ms=900)
        device = agent.devices[DEVICE]
        first = device.standing.deadline
        await until(lambda: device.standing.deadline > first)
        assert device.standing.deadline > first + 0.3
        told = await client.link.receive(WAIT_S)
        assert isinstance(told, Closed)
        assert told.reason == "expired"

    talking(machine_dir, scenario)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"fence": 7, "kill": True, "why": "revoked"}, "revoked"),
        ({"fence": 7, "kill": True, "why": "preempted"}, "preempted"),
        ({"lease": "l8", "epoch": 8, "ttl_ms": 5000, "fence": 7}, "revoked"),
    ],
)
def test_an_order_ends_an_older_session(
    machine_dir: Path, order: dict[str, object], reason: str
) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        client = await connect(agent, ticket(agent, 7))
        tracker.order(**order)
        told = await client.link.receive(WAIT_S)
        assert isinstance(told, Closed)
        assert told.reason == reason
        await until(lambda: tracker.report.occupancy in ("idle", "reserved"))
        with pytest.raises(AuthError):
            await connect(agent, ticket(agent, 7))

    talking(machine_dir, scenario)


def test_a_grant_that_was_heard_of_is_reserved_until_it_is_opened(machine_dir: Path) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        tracker.order(lease="l9", epoch=9, ttl_ms=5000, fence=8)
        await until(lambda: tracker.report.occupancy == "reserved")
        assert (tracker.report.lease, tracker.report.epoch) == ("l9", 0)
        client = await connect(agent, ticket(agent, 9))
        await until(lambda: tracker.report.occupancy == "active")
        await client.close()

    talking(machine_dir, scenario)


def test_a_probe_is_made_when_it_is_ordered(machine_dir: Path) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        before = agent.devices[DEVICE].prober.canary.runs
        tracker.order(probe=True)
        await until(lambda: agent.devices[DEVICE].prober.canary.runs > before)
        await until(lambda: tracker.report.health == Health.GOOD.value)
        assert "probing" in [sync.reports[0].health for sync in tracker.syncs]

    talking(machine_dir, scenario)


def test_a_word_of_a_newer_tracker_ends_the_link_and_neither_the_agent_nor_its_session(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        client = await connect(agent, ticket(agent, 7))
        tracker.order(admin="asleep", fence=7)
        await until(lambda: len(tracker.hellos) >= 2)
        await client.doubles(code)
        await client.close()

    talking(machine_dir, scenario)


def test_a_lost_tracker_is_dialled_again_while_a_session_goes_on(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario(agent: Agent, tracker: FakeTracker) -> None:
        client = await connect(agent, ticket(agent, 7))
        tracker.links[-1].abort()
        await until(lambda: len(tracker.hellos) >= 3)
        assert tracker.hellos[-1].auth == "key"  # the one it was given, which the fake cannot check
        await client.doubles(code)
        await client.close()
        await idle(agent)

    talking(machine_dir, scenario)


def test_an_agent_says_when_a_tracker_has_let_it_in_and_when_there_is_none(tmp_path: Path) -> None:
    said: list[str] = []

    async def main() -> None:
        plain = options(tmp_path, key=b"")
        quick = replace(plain, timers=replace(plain.timers, reconnect_s=0.01))
        agent = Agent(
            quick, (), time.monotonic, np.random.default_rng(5),
            on_away=lambda _: said.append("away"), on_here=lambda: said.append("here"),
        )  # fmt: skip
        async with agent:
            tracker = FakeTracker()
            task = asyncio.create_task(agent.run(tracker.connect))
            await until(lambda: said)
            tracker.links[-1].close("it ends")
            await until(lambda: len(said) > 1)
            task.cancel()
            await asyncio.gather(task, *tracker.tasks, return_exceptions=True)

    asyncio.run(main())
    assert said[:2] == ["here", "away"]


def test_a_superseded_agent_ends_its_session_and_stops(machine_dir: Path) -> None:
    async def main() -> None:
        async with running(options(machine_dir, key=b"")) as agent:
            tracker = FakeTracker()
            task = asyncio.create_task(agent.run(tracker.connect))
            await until(lambda: tracker.syncs)
            client = await connect(agent, ticket(agent, 7))
            tracker.links[-1].send(Superseded(DEVICE, "of-another"))
            tracker.links[-1].send(Superseded(DEVICE, agent.incarnation))
            told = await client.link.receive(WAIT_S)
            assert isinstance(told, Closed)
            assert told.reason == "device-lost"
            with pytest.raises(FleetError, match=f"another agent has {DEVICE}"):
                await asyncio.wait_for(task, WAIT_S)
            with pytest.raises(FleetError):
                await connect(agent, ticket(agent, 8))
            await asyncio.gather(*tracker.tasks, return_exceptions=True)

    asyncio.run(main())


def test_an_agent_that_is_refused_stops_with_the_trackers_words(machine_dir: Path) -> None:
    async def main() -> None:
        async with running(options(machine_dir, key=b"")) as agent:
            tracker = FakeTracker(refuse=Error(code="auth", detail="a join code is needed here"))
            with pytest.raises(AuthError, match="a join code is needed here"):
                await asyncio.wait_for(agent.run(tracker.connect), WAIT_S)
            await asyncio.gather(*tracker.tasks)

    asyncio.run(main())

"""Trackers on a PostgreSQL server: one that goes away and comes back, and two on one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from fleet_tracker import Client, Site, run, site, until
from postgres_server import Server

from loopwright.fleet.store.rows import StoreFencedError
from loopwright.fleet.store.sql import SqlTrackerStore
from loopwright.fleet.wire.messages import (
    Acquire,
    Command,
    DeviceReport,
    Error,
    Grant,
    Granted,
    Queued,
    Refused,
    Release,
    Released,
    Renew,
    Renewed,
)

DEVICES = [f"pi/cpu{n}" for n in range(4)]
CLIENTS = 8
SOME = 40
LIMIT_S = 60.0  # starting a server again may take seconds


@dataclass
class Ledger:
    """Every grant that clients heard of, and the leases that they have now."""

    grants: list[Grant] = field(default_factory=list)
    held: dict[str, Grant] = field(default_factory=dict)  # device -> what is granted on it
    refused: list[Refused] = field(default_factory=list)

    def granted(self, grant: Grant) -> None:
        """Note a grant, which must be of a device that nobody has, in an epoch of its own."""
        name = grant.device.name
        assert name not in self.held, (grant, self.held[name])
        assert grant.epoch > self.newest(name)
        self.held[name] = grant
        self.grants.append(grant)

    def newest(self, device: str) -> int:
        """The newest epoch of a device."""
        return max((g.epoch for g in self.grants if g.device.name == device), default=0)

    async def cycle(self, client: Client) -> None:
        """Lease and give back without an end; what is refused is asked for again."""
        while True:
            client.link.send(Acquire(request=client.request(), selector="kind=cpu"))
            heard = await client.link.receive(LIMIT_S)
            while isinstance(heard, Queued):
                heard = await client.link.receive(LIMIT_S)
            if isinstance(heard, Refused):
                self.refused.append(heard)
                await asyncio.sleep(0)
                continue
            assert isinstance(heard, Granted)
            (grant,) = heard.grants
            self.granted(grant)
            await asyncio.sleep(0)  # others have their turn while it is held
            del self.held[grant.device.name]
            client.link.send(Release(grant.lease, grant.epoch))
            await client.hear(Released, LIMIT_S)

    async def more(self, count: int) -> None:
        """Wait for so many further grants."""
        wanted = len(self.grants) + count
        await until(lambda: len(self.grants) >= wanted)


@asynccontextmanager
async def busy(here: Site, ledger: Ledger) -> AsyncIterator[None]:
    """Clients that lease the devices of one agent in turn; one that failed fails the test."""
    await here.agent("pi", DEVICES)
    await here.free(len(DEVICES))
    clients = [await here.client() for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(ledger.cycle(client)) for client in clients]
    try:
        await ledger.more(SOME)
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []


async def hold(here: Site, ledger: Ledger) -> tuple[Client, Grant]:
    """A lease that is kept, and who has it."""
    holder = await here.client()
    held = await holder.acquire("kind=cpu")
    ledger.granted(held)
    return holder, held


def test_a_server_that_stops_ends_grants_until_it_is_back_and_none_is_made_twice(
    postgres: Server,
) -> None:
    ledger = Ledger()

    async def work() -> None:
        async with site(store=SqlTrackerStore(postgres.fresh())) as here, busy(here, ledger):
            holder, held = await hold(here, ledger)
            await asyncio.to_thread(postgres.stop)
            await until(lambda: len(ledger.refused) > SOME)
            assert {refused.code for refused in ledger.refused} == {"read-only"}
            assert "PostgreSQL failed" in ledger.refused[-1].detail
            assert "check the server" in ledger.refused[-1].detail
            before = len(ledger.grants)
            holder.link.send(Renew(held.lease, held.epoch))
            assert (await holder.hear(Renewed)).verdict == "ok"
            holder.link.send(Command(3, "token.issue", {"name": "bob"}))
            error = await holder.hear(Error)
            assert (error.code, error.fatal) == ("store", False)
            assert len(ledger.grants) == before
            await asyncio.to_thread(postgres.start)
            await ledger.more(SOME)
            assert not here.tracker.book.read_only
            await holder.release(held)

    run(work(), LIMIT_S)


def test_a_second_tracker_on_the_server_fences_the_first_which_grants_no_more(
    postgres: Server,
) -> None:
    url, ledger = postgres.fresh(), Ledger()

    async def work() -> None:
        async with site(store=SqlTrackerStore(url)) as here, busy(here, ledger):
            _, held = await hold(here, ledger)
            store = SqlTrackerStore(url)
            async with site(store=store) as second:
                rows = store.load().leases
                kept = {row.device: row.epoch for row in rows}
                with pytest.raises(StoreFencedError, match="tracker 2 has begun"):
                    await here.tracker.stopped()
                before = len(ledger.grants)
                known = {name: grant.epoch for name, grant in ledger.held.items()}
                assert known.items() <= kept.items()
                await again(second, held, {name: kept.get(name, 0) for name in DEVICES})
                client = await second.client()
                for row in rows:
                    if row.lease != held.lease:  # their holders are back, and say so again
                        client.link.send(Release(row.lease, row.epoch))
                        assert (await client.hear(Released)).reason == "released"
                await second.free(len(DEVICES) - 1)
                for _ in range(SOME):
                    grant = await client.acquire("kind=cpu")
                    assert grant.device.name != held.device.name
                    assert grant.epoch > ledger.newest(grant.device.name)
                    await client.release(grant)
                assert len(ledger.grants) == before

    run(work(), LIMIT_S)


async def again(here: Site, held: Grant, epochs: Mapping[str, int]) -> None:
    """The agent comes back: one lease is served, the sessions of all others are over."""
    agent = await here.agent("pi", DEVICES, sync=False)
    for name, epoch in epochs.items():
        agent.reports[name] = DeviceReport(
            name=name, occupancy="idle", health="good", last_epoch=epoch
        )
    agent.serve_lease(held)
    told = await agent.told(held.device.name, lambda order: order.lease != "")
    assert (told.lease, told.epoch) == (held.lease, held.epoch)

"""A tracker with an agent and clients: what is granted, told, renewed and given back."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from fleet_tracker import ADDRESS, QUICK, Client, FakeAgent, FlakyStore, Site, run, site, until

from loopwright.fleet.book.config import BookConfig, TenantConfig
from loopwright.fleet.security.handshake import ByToken
from loopwright.fleet.security.tickets import session_key, unseal
from loopwright.fleet.store.memory import MemoryRows, MemoryStore
from loopwright.fleet.store.rows import Pace, TrackerStore
from loopwright.fleet.store.sql import SqlTrackerStore
from loopwright.fleet.wire.messages import (
    Acquire,
    Cancel,
    Granted,
    Queued,
    Refused,
    Release,
    Released,
    Renew,
    Renewed,
    Superseded,
)
from loopwright.fleet.words import LinkState


async def ready(here: Site, *devices: str) -> tuple[FakeAgent, Client]:
    names = devices or ("pi/cpu0",)
    agent = await here.agent("pi", names)
    client = await here.client()
    await here.free(len(names))
    return agent, client


def test_a_free_device_is_granted_with_a_ticket_for_its_agent() -> None:
    async def work() -> None:
        async with site() as here:
            agent, client = await ready(here)
            grant = await client.acquire()
            key = agent.welcome.device_key
            ticket = unseal(grant.ticket, key)
            assert (ticket.lease, ticket.device) == (grant.lease, "pi/cpu0")
            assert (ticket.incarnation, ticket.epoch) == ("boot-1", grant.epoch)
            assert grant.key == session_key(key, grant.ticket)
            assert grant.device.addresses == ("tcp://127.0.0.1:9",)
            order = await agent.told("pi/cpu0", lambda o: o.lease == grant.lease)
            assert order.epoch == grant.epoch
            assert 0 < order.ttl_ms <= 30_000

    run(work())


def test_epochs_of_a_device_grow() -> None:
    async def work() -> list[int]:
        async with site() as here:
            _, client = await ready(here)
            epochs = []
            for _ in range(20):
                grant = await client.acquire()
                epochs.append(grant.epoch)
                await client.release(grant)
            return epochs

    epochs = run(work())
    assert epochs == sorted(set(epochs))


def test_a_request_waits_and_is_served_when_the_device_is_back() -> None:
    async def work() -> None:
        async with site() as here:
            _, first = await ready(here)
            grant = await first.acquire()
            second = await here.client()
            second.link.send(Acquire(request="r2", selector="board=rpi4"))
            queued = await second.link.receive(5)
            assert isinstance(queued, Queued)
            assert "1 leased" in queued.why
            await first.release(grant)
            granted = await second.hear(Granted)
            assert granted.grants[0].epoch > grant.epoch

    run(work())


def test_those_who_ask_are_served_before_releases_of_the_same_turn() -> None:
    async def work() -> list[str]:
        async with site() as here:
            _, first = await ready(here, "pi/cpu0", "pi/cpu1")
            second = await here.client()
            grant = await first.acquire()
            first.link.send(Release(grant.lease, grant.epoch))
            second.link.send(Acquire(request="r2", selector="kind=cpu"))
            await second.hear(Granted)
            await first.hear(Released)
            told = [line["event"] for line in here.lines() if line["event"].startswith("lease.")]
            return told[1:]

    assert run(work()) == ["lease.grant", "lease.end"]


def test_a_release_is_heard_while_commits_follow_each_other() -> None:
    async def work() -> None:
        async with site(store=FlakyStore(kind=Pace.PROMPT)) as here:
            _, client = await ready(here)
            grant = await client.acquire()
            client.link.send(Release(grant.lease, grant.epoch))
            for _ in range(1000):
                here.tracker.committer.save(())  # as grants to others in each turn of the loop
                await asyncio.sleep(0)
            assert here.tracker.book.counts.leases == 0

    run(work())


def test_what_one_client_says_is_heard_in_its_order() -> None:
    async def work() -> None:
        async with site() as here:
            _, client = await ready(here)
            grant = await client.acquire()
            client.link.send(Release(grant.lease, grant.epoch))
            client.link.send(Renew(grant.lease, grant.epoch))
            await client.hear(Released)
            renewed = await client.hear(Renewed)
            assert (renewed.verdict, renewed.reason) == ("gone", "released")

    run(work())


def test_a_release_counts_although_its_client_hangs_up_at_once() -> None:
    async def work() -> None:
        async with site() as here:
            _, client = await ready(here)
            grant = await client.acquire()
            client.link.send(Release(grant.lease, grant.epoch))
            client.link.close()
            await here.free(1)
            assert [line["reason"] for line in here.lines("lease.end")] == ["released"]

    run(work())


def test_the_same_request_again_is_the_same_grant() -> None:
    async def work() -> None:
        async with site() as here:
            _, client = await ready(here, "pi/cpu0", "pi/cpu1")
            first = await client.acquire(request="same")
            client.link.close()
            again = await (await here.client()).acquire(request="same")
            assert (again.lease, again.epoch) == (first.lease, first.epoch)
            assert here.tracker.book.counts.leases == 1

    run(work())


def test_a_client_that_is_back_before_the_agent_gets_its_lease_when_that_is() -> None:
    async def work() -> None:
        rows = MemoryRows()
        async with site(rows=rows) as here:
            _, client = await ready(here)
            first = await client.acquire(request="same")
        async with site(rows=rows) as here:
            client = await here.client()
            client.link.send(Acquire(request="same", selector="board=rpi4"))
            waits = await client.link.receive(5)
            assert isinstance(waits, Queued)
            assert "pi/cpu0 is not back yet" in waits.why
            await here.agent(sync=False)
            (again,) = (await client.hear(Granted)).grants
            assert (again.lease, again.epoch) == (first.lease, first.epoch)

    run(work())


def test_a_grant_that_no_ticket_can_be_made_for_is_refused() -> None:
    async def work() -> Refused:
        async with site() as here:
            _, client = await ready(here)
            del here.tracker.directory.agents["pi"]
            client.link.send(Acquire(request="r", selector="board=rpi4"))
            return await client.hear(Refused)

    refused = run(work())
    assert (refused.code, refused.detail) == (
        "cancelled",
        "request r: a device that it was granted is gone; ask again",
    )


def test_a_gang_is_granted_together() -> None:
    async def work() -> None:
        async with site() as here:
            _, client = await ready(here, "pi/cpu0", "pi/cpu1", "pi/cpu2")
            granted = await client.acquire_all("kind=cpu", count=3)
            assert {g.device.name for g in granted.grants} == {f"pi/cpu{n}" for n in range(3)}

    run(work())


@pytest.mark.parametrize(
    ("acquire", "code", "detail"),
    [
        (Acquire(request="r", selector="board=zynq"), "unsatisfiable", "board"),
        (Acquire(request="r", selector="board=rpi4", count=2), "unsatisfiable", "2"),
        (Acquire(request="r", selector="=rpi4"), "bad-request", "selector"),
        (Acquire(request="r", selector="board=rpi4", ttl_ms=1), "bad-request", "ttl"),
        (Acquire(request="r", selector="board=rpi4", count=65), "bad-request", "count"),
    ],
)
def test_what_can_never_be_served_is_refused_at_once(
    acquire: Acquire, code: str, detail: str
) -> None:
    async def work() -> Refused:
        async with site() as here:
            _, client = await ready(here)
            client.link.send(acquire)
            return await client.hear(Refused)

    refused = run(work())
    assert refused.code == code
    assert detail in refused.detail


def test_a_request_gives_up_after_its_time() -> None:
    async def work() -> str:
        async with site() as here:
            _, client = await ready(here)
            await client.acquire()
            client.link.send(Acquire(request="late", selector="board=rpi4", max_wait_ms=30))
            return (await client.hear(Refused)).code

    assert run(work()) == "max-wait"


def test_a_tenant_holds_no_more_than_its_quota() -> None:
    book = BookConfig(tenant=TenantConfig(max_live=1, max_queued=1))

    async def work() -> list[str]:
        async with site(dataclasses.replace(QUICK, book=book)) as here:
            _, client = await ready(here, "pi/cpu0", "pi/cpu1")
            await client.acquire()
            client.link.send(Acquire(request="waits", selector="board=rpi4"))
            client.link.send(Acquire(request="too-many", selector="board=rpi4"))
            client.link.send(Acquire(request="never", selector="board=rpi4", count=2))
            return [(await client.hear(Refused)).code for _ in range(2)]

    assert run(work()) == ["quota", "quota"]


def test_a_cancelled_request_is_over() -> None:
    async def work() -> tuple[str, int]:
        async with site() as here:
            _, client = await ready(here)
            await client.acquire()
            client.link.send(Acquire(request="r2", selector="board=rpi4"))
            assert isinstance(await client.link.receive(5), Queued)
            client.link.send(Cancel("r2"))
            refused = await client.hear(Refused)
            return refused.code, here.tracker.book.counts.waiting

    assert run(work()) == ("cancelled", 0)


def test_a_renewal_keeps_the_lease_and_tells_how_long() -> None:
    async def work() -> Renewed:
        async with site() as here:
            _, client = await ready(here)
            grant = await client.acquire(ttl_ms=5000)
            client.link.send(Renew(grant.lease, grant.epoch))
            return await client.hear(Renewed)

    renewed = run(work())
    assert (renewed.verdict, renewed.ttl_ms) == ("ok", 5000)


def test_a_lease_that_is_not_renewed_ends_and_its_renewal_says_so() -> None:
    async def work() -> tuple[str, Renewed]:
        async with site() as here:
            _, client = await ready(here)
            grant = await client.acquire(ttl_ms=60)
            released = await client.hear(Released)
            client.link.send(Renew(grant.lease, grant.epoch))
            return released.reason, await client.hear(Renewed)

    reason, renewed = run(work())
    assert reason == "expired"
    assert renewed.verdict == "gone"
    assert "expired" in renewed.why


def test_a_lease_of_another_tenant_cannot_be_renewed_or_released() -> None:
    async def work() -> tuple[str, str]:
        async with site() as here:
            _, client = await ready(here)
            grant = await client.acquire()
            admin = await here.client()
            made = await admin.command("token.issue", name="eve")
            eve = await here.client(ByToken(made["token"]))
            eve.link.send(Renew(grant.lease, grant.epoch))
            renewed = await eve.hear(Renewed)
            eve.link.send(Release(grant.lease, grant.epoch))
            refused = await eve.hear(Refused)
            assert here.tracker.book.counts.leases == 1
            return renewed.verdict, refused.code

    assert run(work()) == ("gone", "bad-request")


def test_releasing_twice_is_harmless() -> None:
    async def work() -> list[str]:
        async with site() as here:
            _, client = await ready(here)
            grant = await client.acquire()
            return [(await client.release(grant)).reason for _ in range(2)]

    assert run(work()) == ["released", "released"]


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        ("", "released"),
        ("device-lost", "device-lost"),
        ("expired", "expired"),
        ("revoked", "released"),  # not for a holder to say
        ("nonsense", "released"),
    ],
)
def test_a_holder_says_why_it_gives_a_lease_back(said: str, noted: str) -> None:
    async def work() -> str:
        async with site() as here:
            _, client = await ready(here)
            grant = await client.acquire()
            client.link.send(Release(grant.lease, grant.epoch, said))
            return (await client.hear(Released)).reason

    assert run(work()) == noted


def test_what_a_client_waits_for_ends_with_its_connection_and_its_lease_does_not() -> None:
    async def work() -> None:
        async with site() as here:
            _, client = await ready(here)
            await client.acquire()
            client.link.send(Acquire(request="r2", selector="board=rpi4"))
            assert isinstance(await client.link.receive(5), Queued)
            client.link.close()
            await until(lambda: here.tracker.book.counts.waiting == 0)
            assert here.tracker.book.counts.leases == 1

    run(work())


def test_a_lost_agent_ends_the_lease_and_tells_its_holder() -> None:
    book = BookConfig(reconnect_s=0.05)

    async def work() -> str:
        async with site(dataclasses.replace(QUICK, book=book)) as here:
            agent, client = await ready(here)
            grant = await client.acquire()
            agent.serve_lease(grant)
            await until(lambda: agent.answers >= 2)
            agent.link.abort()
            return (await client.hear(Released)).reason

    assert run(work()) == "device-lost"


def test_an_agent_that_connects_again_keeps_its_lease() -> None:
    async def work() -> None:
        async with site() as here:
            agent, client = await ready(here)
            grant = await client.acquire()
            agent.serve_lease(grant)
            await agent.told("pi/cpu0", lambda o: o.lease == grant.lease)
            agent.link.abort()
            await until(lambda: "pi" not in here.tracker.agents)
            again = await here.agent(sync=False)
            again.seq = agent.seq
            again.serve_lease(grant)
            await again.told("pi/cpu0", lambda o: o.lease == grant.lease)
            client.link.send(Renew(grant.lease, grant.epoch))
            assert (await client.hear(Renewed)).verdict == "ok"

    run(work())


def test_a_newer_agent_with_the_same_device_supersedes_the_older() -> None:
    async def work() -> None:
        async with site() as here:
            older, client = await ready(here)
            await here.agent(incarnation="boot-2", address="tcp://127.0.0.1:2")
            await until(lambda: any(isinstance(m, Superseded) for m in older.heard))
            await here.free(1)
            grant = await client.acquire()
            assert grant.incarnation == "boot-2"
            await client.release(grant)
            back = await here.agent(sync=False)  # the older one connects again
            await until(lambda: any(isinstance(m, Superseded) for m in back.heard))
            grant = await client.acquire()
            assert grant.incarnation == "boot-2"
            assert grant.device.addresses == ("tcp://127.0.0.1:2",)
            (shown,) = await client.ask("devices")
            assert tuple(shown["addresses"]) == grant.device.addresses

    run(work())


def test_an_older_agent_that_gets_its_device_back_is_reached_at_its_own_address() -> None:
    book = BookConfig(reconnect_s=0.05)

    async def work() -> None:
        async with site(dataclasses.replace(QUICK, book=book)) as here:
            older, client = await ready(here)
            newer = await here.agent(incarnation="boot-2", address="tcp://127.0.0.1:2")
            await until(lambda: any(isinstance(m, Superseded) for m in older.heard))
            newer.link.abort()
            await until(lambda: here.tracker.book.counts.by_link[LinkState.LOST] == 1)
            older.sync()
            await here.free(1)
            grant = await client.acquire()
            assert (grant.incarnation, grant.device.addresses) == ("boot-1", (ADDRESS,))

    run(work())


def test_reports_are_answered_with_when_to_report_next() -> None:
    async def work() -> None:
        config = dataclasses.replace(QUICK, sync_idle_s=10.0, sync_active_s=2.0)
        async with site(config) as here:
            agent, client = await ready(here)
            await until(lambda: agent.answers > 0)
            assert 8000 <= agent.next_ms <= 10_000
            await client.acquire()
            await agent.told("pi/cpu0", lambda o: o.lease != "")
            assert agent.next_ms <= 2000

    run(work())


def test_many_agents_are_told_to_report_less_often() -> None:
    async def work() -> float:
        async with site(dataclasses.replace(QUICK, syncs_per_s=4.0)) as here:
            agents = [await here.agent(f"h{n}", (f"h{n}/cpu0",)) for n in range(8)]
            await here.free(8)
            agents[0].answers = 0
            agents[0].sync()
            await until(lambda: agents[0].answers > 0)
            return agents[0].next_ms

    assert run(work()) >= 0.8 * 2000


def test_a_report_with_many_devices_is_answered_in_parts() -> None:
    names = [f"pi/cpu{n}" for n in range(600)]

    async def work() -> None:
        async with site() as here:
            agent = await here.agent("pi", names)
            await here.free(600)
            await until(lambda: len(agent.orders) == 600)

    run(work())


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> TrackerStore:
    if request.param == "memory":
        return MemoryStore(MemoryRows())
    if request.param == "sqlite":
        return SqlTrackerStore(f"sqlite:///{tmp_path}/tracker.db")
    return SqlTrackerStore(request.getfixturevalue("postgres").fresh())


def test_leases_go_round_with_any_store(any_store: TrackerStore) -> None:

    async def work() -> int:
        async with site(store=any_store) as here:
            await here.agent("pi", [f"pi/cpu{n}" for n in range(4)])
            clients = [await here.client() for _ in range(8)]

            async def cycle(client: Client) -> None:
                for _ in range(10):
                    await client.release(await client.acquire())

            await asyncio.gather(*map(cycle, clients))
            return here.tracker.book.counts.granted

    assert run(work()) == 80

"""What happens when the store cannot be written: nothing is granted that a crash could undo."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path

import pytest
from fleet_tracker import QUICK, Client, FakeAgent, FlakyStore, Site, run, site, until

from loopwright.errors import FleetError
from loopwright.fleet.store.memory import MemoryRows, MemoryStore
from loopwright.fleet.store.rows import Pace, StoreFencedError
from loopwright.fleet.store.sql import SqlTrackerStore
from loopwright.fleet.wire.messages import (
    Acquire,
    Command,
    Error,
    Granted,
    Refused,
    Renew,
    Renewed,
)

FULL = "the disk is full; free some space, the tracker tries again"


async def ready(here: Site, devices: int = 2) -> tuple[FakeAgent, Client]:
    agent = await here.agent("pi", [f"pi/cpu{n}" for n in range(devices)])
    client = await here.client()
    await here.free(devices)
    await here.tracker.committer.idle()
    return agent, client


def test_a_grant_is_told_only_when_it_is_durable() -> None:
    store = FlakyStore()
    gate = threading.Event()

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here)
            store.hang = lambda: gate.wait(10) and None
            client.link.send(Acquire(request="r", selector="kind=cpu"))
            with pytest.raises(TimeoutError):
                await client.link.receive(0.1)
            assert here.tracker.book.counts.leases == 1
            gate.set()
            granted = await client.hear(Granted)
            saved = [row for batch in store.commits for row in batch.leases.values() if row]
            assert [row.lease for row in saved] == [granted.grants[0].lease]

    run(work())


def test_requests_of_one_turn_share_a_commit_in_the_loop() -> None:
    store = FlakyStore(kind=Pace.PROMPT)

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here, 4)
            store.commits.clear()
            store.threads.clear()
            for number in range(4):
                client.link.send(Acquire(request=f"r{number}", selector="kind=cpu"))
            for _ in range(4):
                await client.hear(Granted)
            assert [len(batch.leases) for batch in store.commits] == [4]
            assert store.threads == [threading.current_thread().name]

    run(work())


def test_a_store_that_is_locked_is_waited_for_beside_the_loop() -> None:
    store = FlakyStore(kind=Pace.PROMPT)
    gate = threading.Event()

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here)
            store.busy = True
            store.hang = lambda: gate.wait(10) and None
            client.link.send(Acquire(request="r", selector="kind=cpu"))
            await until(lambda: here.tracker.book.counts.leases == 1)
            assert (await client.ask("status"))["read_only"] == ""  # the loop goes on
            gate.set()
            await client.hear(Granted)
            assert store.threads[-1] == "tracker-commit"

    run(work())


def test_after_a_commit_that_took_long_the_next_are_made_beside_the_loop() -> None:
    store = FlakyStore(kind=Pace.PROMPT)
    never = threading.Event()

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here)
            store.hang = lambda: never.wait(0.1) and None
            held = await client.acquire()
            assert store.threads[-1] == threading.current_thread().name
            store.hang = None
            await client.release(held)
            await client.acquire()
            assert store.threads[-1] == "tracker-commit"

    run(work())


def test_what_is_told_later_does_not_overtake_a_grant() -> None:
    store = FlakyStore()
    gate = threading.Event()

    async def work() -> list[str]:
        async with site(store=store) as here:
            _, client = await ready(here, 1)
            store.hang = lambda: gate.wait(10) and None
            client.link.send(Acquire(request="first", selector="kind=cpu"))
            client.link.send(Acquire(request="second", selector="kind=cpu"))
            client.link.send(Acquire(request="third", selector="no=such"))
            await until(lambda: here.tracker.book.counts.waiting == 1)
            gate.set()
            return [type(await client.link.receive(5)).__name__ for _ in range(3)]

    assert run(work()) == ["Granted", "Queued", "Refused"]


def test_other_clients_do_not_wait_for_a_grant_to_be_saved() -> None:
    store = FlakyStore()
    gate = threading.Event()

    async def work() -> str:
        async with site(store=store) as here:
            _, client = await ready(here, 1)
            other = await here.client()
            store.hang = lambda: gate.wait(10) and None
            client.link.send(Acquire(request="first", selector="kind=cpu"))
            await until(lambda: here.tracker.book.counts.leases == 1)
            other.link.send(Acquire(request="second", selector="no=such"))
            refused = await other.hear(Refused)
            gate.set()
            await client.hear(Granted)
            return refused.code

    assert run(work()) == "unsatisfiable"


def test_a_full_disk_refuses_new_leases_and_keeps_the_others() -> None:
    store = FlakyStore()

    async def work() -> None:
        async with site(store=store) as here:
            agent, client = await ready(here)
            held = await client.acquire()
            agent.serve_lease(held)
            store.broken = FULL
            client.link.send(Acquire(request="lost", selector="kind=cpu"))
            refused = await client.hear(Refused)
            assert refused.code == "read-only"
            assert FULL in refused.detail
            assert refused.retry_after_ms > 0
            client.link.send(Acquire(request="later", selector="kind=cpu"))
            assert (await client.hear(Refused)).code == "read-only"
            client.link.send(Renew(held.lease, held.epoch))
            assert (await client.hear(Renewed)).verdict == "ok"
            assert (await client.ask("status"))["read_only"] == FULL
            assert {order.lease for order in agent.orders.values()} <= {held.lease, ""}
            assert (await client.release(held)).reason == "released"

    run(work())


def test_a_grant_that_is_told_again_does_not_fail_with_one_that_is_not_saved() -> None:
    store = FlakyStore()
    gate = threading.Event()

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here)
            held = await client.acquire(request="held")
            store.hang = lambda: gate.wait(10) and None
            client.link.send(Acquire(request="lost", selector="kind=cpu"))
            client.link.send(Acquire(request="held", selector="kind=cpu"))
            await until(lambda: here.tracker.committer.waiting >= 2)
            store.broken = FULL
            gate.set()
            granted = await client.hear(Granted)
            assert [grant.lease for grant in granted.grants] == [held.lease]
            assert (await client.hear(Refused)).code == "read-only"

    run(work())


def test_a_store_that_is_back_grants_again_and_has_what_was_missed() -> None:
    store = FlakyStore()

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here)
            held = await client.acquire()
            store.broken = FULL
            client.link.send(Acquire(request="lost", selector="kind=cpu"))
            await client.hear(Refused)
            await client.release(held)
            assert [row.lease for row in store.load().leases] == [held.lease]
            store.broken = ""
            await until(lambda: not here.tracker.book.read_only)
            assert store.reopened > 0
            assert store.load().leases == ()
            again = await client.acquire(request="lost")
            assert [row.lease for row in store.load().leases] == [again.lease]
            assert again.epoch > held.epoch or again.device != held.device

    run(work())


def test_a_waiting_request_is_served_when_the_store_is_back() -> None:
    store = FlakyStore()

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here, 1)
            held = await client.acquire()
            other = await here.client()
            other.link.send(Acquire(request="waits", selector="kind=cpu"))
            await until(lambda: here.tracker.book.counts.waiting == 1)
            store.broken = FULL
            here.tracker.audit("something", "to be saved")
            await until(lambda: bool(here.tracker.book.read_only))
            await client.release(held)
            assert here.tracker.book.counts.waiting == 1
            store.broken = ""
            await other.hear(Granted)

    run(work())


def test_a_store_that_does_not_answer_has_failed() -> None:
    store = FlakyStore()
    gate = threading.Event()

    async def work() -> None:
        async with site(dataclasses.replace(QUICK, commit_s=0.05), store=store) as here:
            _, client = await ready(here)
            store.hang = lambda: gate.wait(10) and None
            client.link.send(Acquire(request="r", selector="kind=cpu"))
            refused = await client.hear(Refused)
            assert refused.code == "read-only"
            assert "did not answer" in refused.detail
            store.hang = None
            gate.set()
            await until(lambda: not here.tracker.book.read_only)
            assert store.load().leases == ()
            await client.acquire()

    run(work())


def test_a_command_that_cannot_be_saved_fails_and_changes_nothing() -> None:
    store = FlakyStore()

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here)
            store.broken = FULL
            client.link.send(Command(3, "token.issue", {"name": "bob"}))
            error = await client.hear(Error)
            assert (error.code, error.fatal) == ("store", False)
            assert FULL in error.detail
            store.broken = ""
            await until(lambda: not here.tracker.book.read_only)
            await here.tracker.committer.idle()
            assert here.tracker.directory.tokens == {}
            assert store.load().tokens == ()

    run(work())


def test_an_agent_cannot_join_while_the_store_is_down() -> None:
    store = FlakyStore()

    async def work() -> None:
        async with site(store=store) as here:
            await ready(here)
            store.broken = FULL
            with pytest.raises(FleetError, match="disk is full"):
                await here.agent("new", ("new/cpu0",))

    run(work())


@pytest.mark.parametrize("kind", Pace)
def test_a_second_tracker_on_the_store_ends_the_first(kind: Pace) -> None:
    rows = MemoryRows()
    store = FlakyStore(MemoryStore(rows), kind=kind)

    async def work() -> None:
        async with site(store=store) as here:
            _, client = await ready(here)
            async with site(rows=rows) as second:
                assert second.tracker.epoch == here.tracker.epoch + 1
                client.link.send(Acquire(request="r", selector="kind=cpu"))
                with pytest.raises(StoreFencedError, match="tracker 2 has begun"):
                    await here.tracker.stopped()
                with pytest.raises(TimeoutError):
                    await client.link.receive(0.05)

    run(work())


def test_stopping_saves_what_is_unsaved() -> None:
    rows = MemoryRows()
    store = FlakyStore(MemoryStore(rows))

    async def work() -> None:
        async with site(dataclasses.replace(QUICK, gather_s=60.0), store=store) as here:
            _, client = await ready(here)
            await client.release(await client.acquire())
            assert len(rows.leases) == 1
        assert rows.leases == {}
        assert [logged.event.what for logged in rows.events][-1] == "tracker.stop"

    run(work())


def test_events_are_read_while_commits_go_on(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqlTrackerStore(f"sqlite:///{tmp_path}/t.db")
        async with site(store=store) as here:
            _, client = await ready(here)
            reader = await here.client()

            async def cycle() -> None:
                for _ in range(30):
                    await client.release(await client.acquire())

            async def read() -> None:
                for _ in range(5):
                    await reader.ask("events")

            await asyncio.gather(cycle(), read())
            await here.tracker.committer.idle()
            rows = await reader.ask("events")
            assert sum(row["what"] == "lease.end" for row in rows) == 30

    run(work())

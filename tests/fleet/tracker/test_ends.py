"""The ends of leases in the log: one each, read again by the tracker that starts next."""

from __future__ import annotations

import pytest
from fleet_tracker import Site, run, site, until

from loopwright.fleet.book.effects import EndLease
from loopwright.fleet.store.memory import MemoryRows
from loopwright.fleet.store.rows import ENDED, AuditEvent
from loopwright.fleet.tracker import ends
from loopwright.fleet.wire.messages import Renew, Renewed
from loopwright.fleet.words import EndReason


@pytest.mark.parametrize("reason", EndReason)
@pytest.mark.parametrize("detail", ["", "for urgent request r epoch 3: x"])
def test_what_is_written_is_read_again(reason: EndReason, detail: str) -> None:
    effect = EndLease(
        lease="l1", device="pi/cpu0", tenant="t", epoch=7, reason=reason, detail=detail
    )
    event = AuditEvent(1.0, ENDED, effect.lease, detail=ends.written(effect))
    assert ends.read([event]) == (("l1", reason),)


def test_what_is_no_end_of_a_lease_is_left_out() -> None:
    others = [AuditEvent(1.0, ENDED, "l1", detail=said) for said in ("", "x epoch 3: tired")]
    assert ends.read(others) == ()


def written(rows: MemoryRows, lease: str) -> list[str]:
    """The details of the ends of a lease that the log has."""
    events = [logged.event for logged in rows.events]
    return [event.detail for event in events if (event.what, event.subject) == (ENDED, lease)]


def test_a_lease_that_only_its_device_knows_ends_once_in_the_log() -> None:
    rows = MemoryRows()

    async def tell(here: Site) -> None:
        agent = await here.agent(sync=False)
        for answers in range(1, 4):
            agent.report("pi/cpu0", "active", lease="l0.9", epoch=12, last_epoch=12)
            await until(lambda answers=answers: agent.answers >= answers)
        client = await here.client()
        client.link.send(Renew("l0.9", 12))
        renewed = await client.hear(Renewed)
        assert (renewed.verdict, renewed.reason) == ("gone", "revoked")

    async def work() -> None:
        for _ in range(2):
            async with site(rows=rows) as here:
                await tell(here)

    run(work())
    (detail,) = written(rows, "l0.9")
    assert detail.startswith("pi/cpu0 epoch 12: revoked the store does not know it")


def test_a_lease_that_ended_before_the_tracker_did_does_not_end_again() -> None:
    rows = MemoryRows()

    async def work() -> str:
        async with site(rows=rows) as here:
            agent = await here.agent()
            client = await here.client()
            grant = await client.acquire()
            agent.serve_lease(grant)
            await agent.told("pi/cpu0", lambda order: order.lease == grant.lease)
            await client.release(grant)
        async with site(rows=rows) as here:
            agent = await here.agent(sync=False)
            lease, epoch = grant.lease, grant.epoch
            agent.report("pi/cpu0", "cleaning", lease=lease, epoch=epoch, last_epoch=epoch)
            await until(lambda: agent.answers > 0)
        return grant.lease

    assert written(rows, run(work())) == ["pi/cpu0 epoch 1: released"]


def test_trackers_on_copies_of_one_store_give_ids_of_their_own() -> None:
    async def first_id(seed: int) -> str:
        async with site(seed=seed) as here:
            await here.agent()
            return (await (await here.client()).acquire()).lease

    async def work() -> None:
        assert await first_id(1) != await first_id(2)

    run(work())

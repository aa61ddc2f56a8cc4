"""After a restart of the tracker: the store says what was, the devices say what is."""

from __future__ import annotations

import pytest
from fleet_book import Bench
from msgspec.structs import replace

from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.effects import (
    EndLease,
    GrantedLease,
    Note,
    ReserveEpochs,
    SaveDevice,
    SaveLease,
    TellGranted,
    TellRenewed,
)
from loopwright.fleet.book.events import (
    AgentDown,
    AgentUp,
    DeviceRow,
    LeaseRow,
    Renewal,
    Restored,
)
from loopwright.fleet.words import (
    Admin,
    EndReason,
    LeaseState,
    LinkState,
    Occupancy,
    Refusal,
    Verdict,
)


def row(
    lease: str = "old1",
    device: str = "a/0",
    epoch: int = 7,
    incarnation: str = "1",
    request: str = "r-old",
) -> LeaseRow:
    return LeaseRow(
        lease=lease,
        request=request,
        device=device,
        agent="a",
        incarnation=incarnation,
        epoch=epoch,
        client="c",
        tenant="t",
        selector="board=x",
        ttl_s=30.0,
        priority=1,
        tags={"k": "v"},
    )


def restarted(
    *leases: LeaseRow,
    devices: tuple[DeviceRow, ...] | None = None,
    agents: tuple[str, ...] = (),
) -> Bench:
    bench = Bench(BookConfig(prefix="new-"))
    if devices is None:
        devices = (DeviceRow("a/0", 1000, Admin.ENABLED),)
    bench.tell(Restored(leases, devices, agents))
    return bench


class TestDeviceIsTheTruth:
    def test_a_session_with_the_same_epoch_is_adopted(self) -> None:
        bench = restarted(row())
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.ACTIVE, epoch=7)
        order = bench.order("a/0")
        assert (order.lease, order.epoch, order.fence) == ("old1", 7, 6)
        (lease,) = bench.book.leases()
        assert lease.state is LeaseState.ACTIVE
        assert dict(lease.tags) == {"k": "v"}
        given = GrantedLease(
            lease="old1", device="a/0", agent="a", incarnation="1", epoch=7, ttl_s=30.0
        )
        assert bench.renew(given) is Verdict.OK
        bench.give_back(given)
        assert bench.ended == [("old1", EndReason.RELEASED)]

    def test_a_lease_whose_session_is_over_is_its_holders_to_give_back(self) -> None:
        # The session closed while the tracker was away; its agent is back before its client.
        bench = restarted(row())
        bench.up("a", "a/0")
        waits = bench.want("board=x")
        bench.report("a/0", last=7)
        assert bench.ended == []
        given = GrantedLease(
            lease="old1", device="a/0", agent="a", incarnation="1", epoch=7, ttl_s=30.0
        )
        assert bench.renew(given) is Verdict.OK  # it may open another
        bench.give_back(given)
        assert bench.ended == [("old1", EndReason.RELEASED)]
        bench.report("a/0", last=7)
        assert bench.granted == [waits]
        assert bench.given[0].epoch == 1001

    def test_a_lease_whose_session_is_over_ends_in_time_without_its_holder(self) -> None:
        bench = restarted(row())
        bench.up("a", "a/0")
        waits = bench.want("board=x")
        bench.report("a/0", last=7)
        bench.wait(14.0)
        assert bench.ended == []  # its client may come back
        bench.wait(2.0)
        assert bench.ended == [("old1", EndReason.CLIENT_LOST)]
        bench.report("a/0", last=7)
        assert bench.granted == [waits]

    def test_a_lease_that_was_not_opened_yet_has_time_to_be(self) -> None:
        bench = restarted(row())
        bench.up("a", "a/0")
        bench.report("a/0", last=6)
        assert bench.ended == []
        bench.wait(14.0)
        assert bench.ended == []
        bench.wait(1.1)
        assert bench.ended == [("old1", EndReason.OPEN_TIMEOUT)]

    def test_a_higher_epoch_raises_what_is_known(self) -> None:
        bench = restarted(devices=(DeviceRow("a/0", 1000, Admin.ENABLED),))
        bench.up("a", "a/0")
        bench.report("a/0", last=4321)
        assert [e.upto for e in bench.said(ReserveEpochs)] == [5321]
        bench.want()
        assert bench.given[0].epoch == 4322

    def test_another_incarnation_ends_the_lease(self) -> None:
        bench = restarted(row())
        bench.up("a", "a/0", incarnation="2")
        assert bench.ended == [("old1", EndReason.DEVICE_LOST)]

    def test_a_session_that_the_store_does_not_know_is_ended(self) -> None:
        # The newest rows were lost with the power.
        bench = restarted()
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.ACTIVE, epoch=9)
        order = bench.order("a/0")
        assert (order.lease, order.fence, order.kill) == ("", 1000, True)
        bench.want()
        assert bench.granted == []

    def test_a_device_that_does_not_come_back_is_lost(self) -> None:
        bench = restarted(row())
        bench.wait(29.0, agents=False)
        assert bench.ended == []
        bench.wait(2.0, agents=False)
        ((lease, reason),) = bench.ended
        assert lease == "old1"
        assert reason in (EndReason.EXPIRED, EndReason.DEVICE_LOST)


class TestLeasesThatOnlyADeviceKnows:
    """They were granted after the copy was made that the store is, or were lost with the power."""

    @pytest.mark.parametrize("occupancy", [Occupancy.ACTIVE, Occupancy.CLEANING])
    def test_are_ended_once_with_a_reason(self, occupancy: Occupancy) -> None:
        bench = restarted()
        bench.up("a", "a/0")
        bench.report("a/0", occupancy, lease="later", epoch=9)
        (end,) = bench.said(EndLease)
        assert (end.lease, end.device, end.epoch) == ("later", "a/0", 9)
        assert (end.reason, end.tenant) == (EndReason.REVOKED, "")
        assert "does not know it" in end.detail
        assert ("lease-unknown", "later") in [(n.what, n.subject) for n in bench.said(Note)]
        bench.report("a/0", occupancy, lease="later", epoch=9)
        assert bench.ended == []
        bench.up("a", "a/0")
        bench.report("a/0", occupancy, lease="later", epoch=9)
        assert bench.ended == []

    def test_its_holder_is_told_why(self) -> None:
        bench = restarted()
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.ACTIVE, lease="later", epoch=9)
        bench.tell(Renewal("later", 9, "c", "t"))
        (gone,) = bench.said(TellRenewed)
        assert (gone.verdict, gone.reason) == (Verdict.GONE, EndReason.REVOKED)

    def test_one_that_was_not_opened_yet_ends_too(self) -> None:
        bench = restarted()
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.RESERVED, lease="later", last=8)
        assert bench.ended == [("later", EndReason.REVOKED)]
        waits = bench.want("board=x")
        assert bench.granted == [waits]

    def test_on_a_device_that_had_another_when_the_copy_was_made(self) -> None:
        bench = restarted(row())
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.ACTIVE, lease="later", epoch=9)
        assert bench.ended == [("later", EndReason.REVOKED), ("old1", EndReason.DEVICE_LOST)]

    def test_one_that_ended_before_the_restart_does_not_end_again(self) -> None:
        bench = Bench(BookConfig(prefix="new-"))
        ended = (("before", EndReason.RELEASED),)
        bench.tell(Restored((), (DeviceRow("a/0", 1000, Admin.ENABLED),), (), ended))
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.CLEANING, lease="before", epoch=7)
        assert bench.ended == []
        bench.tell(Renewal("before", 7, "c", "t"))
        assert bench.said(TellRenewed)[0].reason is EndReason.RELEASED

    def test_one_that_ended_long_ago_does_not_end_again_while_it_is_cleaned(self) -> None:
        bench = Bench(BookConfig(remembered=2))
        bench.ready("a/0", "b/0")
        given = bench.use("name=a/0")
        bench.give_back(given)
        for _ in range(3):
            bench.give_back(bench.get("name=b/0"))
        bench.report("a/0", Occupancy.CLEANING, lease=given.lease, epoch=given.epoch)
        assert bench.ended == []

    def test_their_ids_are_not_given_again(self) -> None:
        bench = restarted()
        bench.up("a", "a/0")
        taken = [f"new-{n}" for n in range(60)]
        for name in taken:
            bench.report("a/0", Occupancy.RESERVED, lease=name)
        bench.report("a/0")
        assert bench.get().lease not in taken


class TestForgottenDevices:
    def kept(self) -> Bench:
        """A book that was started again after it had forgotten `a/0`, which was quarantined."""
        bench = Bench(BookConfig(forget_s=1000.0))
        bench.ready("a/0", "b/0")
        bench.give_back(bench.get("name=a/0"))
        bench.admin("a/0", Admin.MAINTENANCE, "fan")
        bench.tell(AgentDown("a", "1"))
        del bench.incarnation["a"]
        (row,) = [
            effect.row
            for effect in bench.wait(bench.config.forget_s + 60.0)
            if isinstance(effect, SaveDevice)
        ]
        assert row == DeviceRow("a/0", 1000, Admin.MAINTENANCE, "fan", forgotten=True)
        return restarted(devices=(row, DeviceRow("b/0", 1000, Admin.ENABLED)))

    def test_are_not_there_after_a_restart_nor_waited_for(self) -> None:
        bench = self.kept()
        assert [view.name for view in bench.book.devices()] == ["b/0"]
        bench.up("b", "b/0")
        bench.want("name=a/0")
        assert [r.code for r in bench.refused] == [Refusal.UNSATISFIABLE]

    def test_go_on_where_they_were_when_they_come_back(self) -> None:
        bench = self.kept()
        bench.up("a", "a/0")
        (saved,) = bench.said(SaveDevice)
        assert saved.row == DeviceRow("a/0", 1000, Admin.MAINTENANCE, "fan")
        bench.report("a/0")
        assert bench.book.devices("name=a/0")[0].kept == "quarantined: fan"
        bench.admin("a/0", Admin.ENABLED)
        assert bench.get("name=a/0").epoch > 1000


class TestEpochsAfterARestart:
    def test_all_that_were_reserved_count_as_used(self) -> None:
        bench = restarted(devices=(DeviceRow("a/0", 3000, Admin.ENABLED),))
        bench.ready("a/0")
        assert bench.get().epoch == 3001

    def test_none_is_given_before_more_are_reserved(self) -> None:
        bench = Bench(store=False)
        bench.tell(Restored((), (DeviceRow("a/0", 3000, Admin.ENABLED),)))
        bench.up("a", "a/0")
        assert [e.upto for e in bench.said(ReserveEpochs)] == [4000]
        bench.report("a/0")
        bench.want()
        assert bench.granted == []

    def test_they_grow_over_many_restarts_that_used_none(self) -> None:
        epochs, upto = [], 0
        for life in range(20):
            bench = Bench(BookConfig(prefix=f"{life}-", epoch_block=5))
            bench.tell(Restored((), (DeviceRow("a/0", upto, Admin.ENABLED),)))
            bench.ready("a/0")
            for _ in range(life % 4):
                given = bench.get()
                epochs.append(given.epoch)
                bench.give_back(given)
            upto = bench.reserved["a/0"]
        assert epochs == sorted(set(epochs))


class TestGrantsAfterARestart:
    def test_begin_for_each_device_when_it_has_reported(self) -> None:
        bench = restarted(
            devices=(DeviceRow("a/0", 10, Admin.ENABLED), DeviceRow("b/0", 10, Admin.ENABLED))
        )
        bench.up("a", "a/0")
        bench.up("b", "b/0")
        waits = [bench.want("board=x"), bench.want("board=x")]
        assert bench.granted == []
        bench.report("b/0")
        assert bench.granted == waits[:1]
        assert bench.given[0].device == "b/0"
        bench.report("a/0")
        assert bench.granted == waits[1:]

    def test_what_people_want_is_kept(self) -> None:
        bench = restarted(devices=(DeviceRow("a/0", 10, Admin.MAINTENANCE, "fan"),))
        bench.ready("a/0")
        bench.want()
        assert bench.granted == []
        assert "1 quarantined: fan" in bench.queued[0].why

    def test_a_request_of_before_is_told_its_lease_again(self) -> None:
        bench = restarted(row())
        bench.up("a", "a/0")
        bench.want("board=x", request="r-old", client="c-new")
        (told,) = bench.said(TellGranted)
        assert (told.client, told.given[0].lease, told.given[0].epoch) == ("c-new", "old1", 7)
        assert bench.said(SaveLease) == []

    def test_but_not_before_its_agent_has_said_where_the_device_is(self) -> None:
        bench = restarted(row())
        bench.want("board=x", request="r-old", client="c-new")
        assert bench.granted == []
        (waits,) = bench.queued
        assert waits.why == "granted before the tracker started; a/0 is not back yet"
        bench.up("a", "a/0")
        assert bench.granted == ["r-old"]
        bench.up("a", "a/0")
        assert bench.granted == []

    def test_nor_before_all_agents_of_a_gang_have(self) -> None:
        gang = (row("l1", "a/0"), row("l2", "b/0"))
        bench = restarted(gang[0], replace(gang[1], agent="b"))
        bench.want("board=x", request="r-old", client="c-new")
        bench.up("b", "b/0")
        assert bench.granted == []
        bench.up("a", "a/0")
        (told,) = bench.said(TellGranted)
        assert {given.lease for given in told.given} == {"l1", "l2"}

    @pytest.mark.parametrize("how", ["another process", "lost"])
    def test_a_client_is_told_that_a_lease_it_did_not_get_is_over(self, how: str) -> None:
        bench = restarted(row())
        bench.want("board=x", request="r-old", client="c-new")
        if how == "lost":
            bench.wait(31.0, agents=False)
        else:
            bench.up("a", "a/0", incarnation="2")
        assert len(bench.ended) == 1
        (told,) = bench.refused
        assert (told.client, told.request, told.code) == ("c-new", "r-old", Refusal.CANCELLED)
        assert bench.ended[0][1].value in told.detail

    def test_nothing_is_unsatisfiable_while_devices_of_before_may_come_back(self) -> None:
        bench = restarted()
        waits = bench.want("board=x")
        assert bench.refused == []
        bench.wait(14.0)
        assert bench.refused == []
        bench.wait(1.1)
        assert [(r.request, r.code) for r in bench.refused] == [(waits, Refusal.UNSATISFIABLE)]

    def test_but_at_once_when_all_of_them_are_there(self) -> None:
        bench = restarted()
        bench.want("board=z")
        assert bench.refused == []
        bench.up("a", "a/0")
        assert [r.code for r in bench.refused] == [Refusal.UNSATISFIABLE]
        bench.want("board=zz")
        assert [r.code for r in bench.refused] == [Refusal.UNSATISFIABLE]

    def test_devices_that_the_store_has_not_heard_of_may_come_with_their_agent(self) -> None:
        bench = restarted(devices=(), agents=("a", "b"))
        waits = [bench.want("board=x"), bench.want("board=z")]
        assert bench.refused == []
        assert bench.queued[0].why == (
            "0 match; the tracker has just started, devices may be back within 15 s"
        )
        bench.ready("a/0")
        assert bench.granted == waits[:1]
        bench.up("b", "b/0")
        assert [(r.request, r.code) for r in bench.refused] == [(waits[1], Refusal.UNSATISFIABLE)]

    def test_agents_that_stay_away_are_not_waited_for_for_long(self) -> None:
        bench = restarted(agents=("a", "b"))
        bench.up("a", "a/0")
        waits = bench.want("board=z")
        assert bench.refused == []
        bench.wait(15.0)
        assert [(r.request, r.code) for r in bench.refused] == [(waits, Refusal.UNSATISFIABLE)]

    def test_nobody_is_waited_for_when_nothing_was_kept(self) -> None:
        bench = restarted(devices=())
        bench.want("board=x")
        assert [r.code for r in bench.refused] == [Refusal.UNSATISFIABLE]

    def test_new_ids_differ_from_those_of_before(self) -> None:
        before = tuple(row(f"new-{n}", f"b/{n}") for n in range(60))
        bench = restarted(*before)
        bench.ready("a/0")
        for _ in range(10):
            given = bench.get("name=a/0")
            assert given.lease not in {one.lease for one in before}
            bench.give_back(given)


class TestBrokenRows:
    def test_of_two_leases_on_a_device_the_newer_one_counts(self) -> None:
        bench = restarted(row("l1", epoch=5), row("l2", epoch=6))
        assert [(e.lease, e.reason) for e in bench.said(EndLease)] == [("l1", EndReason.EXPIRED)]
        assert [lease.id for lease in bench.book.leases()] == ["l2"]

    def test_a_lease_above_the_reserved_epochs_raises_them(self) -> None:
        bench = restarted(
            row(epoch=50, incarnation="0"), devices=(DeviceRow("a/0", 10, Admin.ENABLED),)
        )
        bench.ready("a/0")
        assert bench.get().epoch == 51

    def test_gangs_are_put_together_again(self) -> None:
        bench = restarted(row("l1", "a/0"), row("l2", "a/1"))
        bench.tell(AgentUp("a", "1", ()))  # it has none of them any more
        assert {reason for _, reason in bench.ended} == {EndReason.DEVICE_LOST}
        assert len(bench.ended) == 2
        assert bench.book.leases() == ()


def test_the_link_of_a_device_of_before_is_suspect_until_it_is_heard_of() -> None:
    bench = restarted(row())
    (view,) = bench.book.devices()
    assert view.link is LinkState.SUSPECT
    bench.up("a", "a/0")
    view = bench.book.devices()[0]
    assert view.link is LinkState.UP
    assert not view.grantable


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_session_survives_restarts(restarts: int) -> None:
    lease = row()
    for _ in range(restarts):
        bench = restarted(lease)
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.ACTIVE, epoch=7)
        bench.wait(20.0)
        assert bench.ended == []

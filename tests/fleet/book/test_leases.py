"""A lease from its grant to its one end."""

from __future__ import annotations

import pytest
from fleet_book import Bench

from loopwright.fleet.book.config import BookConfig, TenantConfig
from loopwright.fleet.book.effects import (
    Note,
    ReserveEpochs,
    SaveLease,
    TellGranted,
    TellReleased,
    TellRenewed,
)
from loopwright.fleet.book.events import EpochsReserved, GiveBack, Renewal, Requested, Revoked
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.words import EndReason, LeaseState, Occupancy, Refusal, Verdict


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.ready("a/0")
    return bench


class TestGrant:
    def test_a_free_device_is_granted_at_once_after_its_lease_is_saved(self, bench: Bench) -> None:
        request = bench.want("board=x")
        kinds = [type(effect) for effect in bench.effects]
        assert kinds.index(SaveLease) < kinds.index(TellGranted)
        (row,) = [effect.row for effect in bench.said(SaveLease)]
        (given,) = bench.given
        assert (row.lease, row.request, row.device, row.epoch) == (given.lease, request, "a/0", 1)
        assert (given.agent, given.incarnation, given.ttl_s) == ("a", "1", 30.0)
        assert (row.client, row.tenant, row.selector) == ("c", "t", "board=x")

    def test_its_agent_is_told_whom_to_serve_and_which_epochs_are_over(self, bench: Bench) -> None:
        given = bench.get()
        order = bench.order("a/0")
        assert (order.lease, order.epoch, order.ttl_s) == (given.lease, 1, 30.0)
        assert order.fence == 0
        bench.give_back(given)
        assert (bench.order("a/0").epoch, bench.order("a/0").fence) == (0, 1)
        again = bench.get()
        assert (bench.order("a/0").epoch, bench.order("a/0").fence) == (again.epoch, 1)

    def test_ids_of_leases_begin_with_the_prefix_and_differ(self) -> None:
        bench = Bench(BookConfig(prefix="T7-"))
        bench.ready("a/0")
        ids = set()
        for _ in range(20):
            given = bench.get()
            ids.add(given.lease)
            bench.give_back(given)
        assert len(ids) == 20
        assert all(name.startswith("T7-") for name in ids)


class TestEpochs:
    def test_they_grow_and_none_is_used_before_it_is_durable(self) -> None:
        bench = Bench(BookConfig(epoch_block=10), store=False)
        bench.ready("a/0")
        bench.want()
        assert bench.given == ()
        bench.tell(EpochsReserved("a/0", 3))
        epochs = [bench.given[0].epoch]
        for _ in range(2):
            bench.tell(GiveBack(bench.book.leases()[0].id, epochs[-1], "c", "t"))
            epochs.append(bench.get().epoch)
        assert epochs == [1, 2, 3]
        bench.tell(GiveBack(bench.book.leases()[0].id, 3, "c", "t"))
        bench.want()
        assert bench.given == ()
        assert "short of epochs" in bench.queued[0].why

    def test_more_are_reserved_well_before_they_are_used_up(self) -> None:
        bench = Bench(BookConfig(epoch_block=10))
        bench.ready("a/0")
        reserved = []
        for number in range(1, 21):
            given = bench.get()
            reserved += [(number, effect.upto) for effect in bench.said(ReserveEpochs)]
            bench.give_back(given)
        assert reserved == [(5, 15), (10, 20), (15, 25), (20, 30)]

    def test_a_device_that_reports_a_higher_one_raises_them(self, bench: Bench) -> None:
        bench.report("a/0", last=5000)
        assert [effect.upto for effect in bench.said(ReserveEpochs)] == [6000]
        assert bench.get().epoch == 5001

    def test_a_lease_below_what_its_device_serves_is_lost(self, bench: Bench) -> None:
        given = bench.get()
        bench.report("a/0", Occupancy.ACTIVE, epoch=7)
        assert bench.ended == [(given.lease, EndReason.DEVICE_LOST)]
        assert bench.order("a/0").fence == 7  # whoever that is: nobody that is known


class TestOpening:
    def test_a_lease_is_active_when_its_device_serves_its_epoch(self, bench: Bench) -> None:
        given = bench.get()
        bench.report("a/0", Occupancy.RESERVED)
        assert bench.book.leases()[0].state is LeaseState.GRANTED
        bench.report("a/0", Occupancy.ACTIVE, epoch=given.epoch)
        assert bench.book.leases()[0].state is LeaseState.ACTIVE
        view = bench.book.device("a/0")
        assert view is not None
        assert view.occupancy is Occupancy.ACTIVE

    def test_one_that_is_not_opened_in_time_ends_and_its_device_is_free(self, bench: Bench) -> None:
        given = bench.get()
        second = bench.want()
        bench.wait(9.9)
        assert bench.ended == []
        bench.wait(0.2)
        assert bench.ended == [(given.lease, EndReason.OPEN_TIMEOUT)]
        assert bench.granted == [second]

    def test_renewals_do_not_put_opening_off(self, bench: Bench) -> None:
        given = bench.get()
        bench.wait(9.0)
        assert bench.renew(given) is Verdict.OK
        bench.wait(1.1)
        assert bench.ended == [(given.lease, EndReason.OPEN_TIMEOUT)]

    def test_it_is_not_timed_out_while_its_device_is_silent(self, bench: Bench) -> None:
        # The session may be open: the agent could not say so.
        given = bench.get()
        bench.wait(12.0, agents=False)
        assert bench.ended == []
        bench.report("a/0", Occupancy.ACTIVE, epoch=given.epoch)
        assert bench.book.leases()[0].state is LeaseState.ACTIVE

    def test_a_session_that_dies_may_be_opened_again(self, bench: Bench) -> None:
        given = bench.use()
        bench.report("a/0", Occupancy.CLEANING, last=given.epoch)
        bench.report("a/0", Occupancy.IDLE, last=given.epoch)
        assert bench.ended == []
        assert bench.renew(given) is Verdict.OK


class TestRenewal:
    def test_it_lives_as_long_as_it_is_renewed(self, bench: Bench) -> None:
        given = bench.use()
        for _ in range(10):
            bench.wait(20.0)
            assert bench.ended == []
            assert bench.renew(given) is Verdict.OK
        bench.wait(30.0)
        assert bench.ended == [(given.lease, EndReason.EXPIRED)]
        assert bench.renew(given) is Verdict.GONE
        assert "expired" in bench.said(TellRenewed)[0].why

    def test_answers_to_reports_carry_the_time_that_is_left(self, bench: Bench) -> None:
        given = bench.use()
        bench.wait(12.0, agents=False)
        bench.report("a/0", Occupancy.ACTIVE, epoch=given.epoch)
        assert bench.order("a/0").ttl_s == pytest.approx(18.0)
        bench.renew(given)
        bench.report("a/0", Occupancy.ACTIVE, epoch=given.epoch)
        assert bench.order("a/0").ttl_s == 30.0

    def test_the_device_hears_of_it_at_once_when_the_ttl_is_short(self, bench: Bench) -> None:
        given = bench.use(ttl=2.0)
        bench.now += 1.0
        bench.renew(given)
        assert bench.order("a/0").ttl_s == 2.0

    @pytest.mark.parametrize(
        ("tenant", "epoch"), [("other", 1), ("t", 2), ("t", 0)], ids=["tenant", "later", "none"]
    )
    def test_only_the_holder_may(self, bench: Bench, tenant: str, epoch: int) -> None:
        given = bench.use()
        bench.tell(Renewal(given.lease, epoch, "c", tenant))
        assert bench.said(TellRenewed)[0].verdict is Verdict.GONE
        assert [note.what for note in bench.said(Note)] == ["denied"]
        assert bench.book.counts.denied == 1
        bench.wait(29.0)
        assert bench.ended == []

    def test_an_unknown_lease_is_gone(self, bench: Bench) -> None:
        bench.tell(Renewal("nothing", 1, "c", "t"))
        assert bench.said(TellRenewed)[0].verdict is Verdict.GONE
        assert bench.said(TellRenewed)[0].reason is None

    def test_one_that_ended_is_gone_for_the_reason_that_it_had(self, bench: Bench) -> None:
        given = bench.use()
        bench.tell(Revoked(given.lease, "op", "test"))
        assert bench.renew(given) is Verdict.GONE
        assert [effect.reason for effect in bench.said(TellRenewed)] == [EndReason.REVOKED]

    def test_a_client_that_connected_again_hears_of_its_lease(self, bench: Bench) -> None:
        given = bench.use(client="c1")
        bench.renew(given, client="c2")
        bench.tell(Revoked(given.lease, "op", "test"))
        assert [effect.client for effect in bench.said(TellReleased)] == ["c2"]


class TestGivingBack:
    def test_what_was_never_opened_is_free_at_once(self, bench: Bench) -> None:
        given = bench.get()
        second = bench.want()
        bench.give_back(given)
        assert bench.ended == [(given.lease, EndReason.RELEASED)]
        assert bench.granted == [second]

    def test_what_was_opened_is_free_when_the_device_says_so(self, bench: Bench) -> None:
        given = bench.use()
        second = bench.want()
        bench.give_back(given)
        assert bench.ended == [(given.lease, EndReason.RELEASED)]
        assert bench.book.lease(given.lease).state is LeaseState.RELEASING  # type: ignore[union-attr]
        bench.report("a/0", Occupancy.CLEANING, last=1)
        assert bench.granted == []
        bench.report("a/0", Occupancy.IDLE, last=1)
        assert bench.granted == [second]
        assert bench.book.lease(given.lease) is None

    def test_again_is_harmless(self, bench: Bench) -> None:
        given = bench.use()
        bench.give_back(given)
        for _ in range(2):
            bench.give_back(given)
            assert bench.ended == []
            assert [e.reason for e in bench.said(TellReleased)] == [EndReason.RELEASED]

    def test_who_lost_the_device_says_so(self, bench: Bench) -> None:
        given = bench.use()
        lost = EndReason.DEVICE_LOST
        bench.tell(GiveBack(given.lease, given.epoch, "c", "t", lost))
        assert bench.ended == [(given.lease, lost)]
        bench.give_back(given)
        assert [e.reason for e in bench.said(TellReleased)] == [lost]

    def test_the_answer_says_why_it_had_ended_before(self, bench: Bench) -> None:
        given = bench.use()
        bench.tell(Revoked(given.lease, "op", "test"))
        bench.give_back(given)
        assert [e.reason for e in bench.said(TellReleased)] == [EndReason.REVOKED]

    def test_only_the_holder_may(self, bench: Bench) -> None:
        given = bench.use()
        bench.give_back(given, tenant="other")
        assert bench.ended == []
        assert [refused.code for refused in bench.refused] == [Refusal.BAD_REQUEST]
        bench.tell(GiveBack(given.lease, given.epoch + 1, "c", "t"))
        assert bench.ended == []


class TestSilentEnd:
    def test_a_device_is_offered_again_when_it_acknowledges(self, bench: Bench) -> None:
        given = bench.use()
        second = bench.want()
        bench.wait(30.0)
        assert bench.ended == [(given.lease, EndReason.EXPIRED)]
        bench.report("a/0", Occupancy.IDLE, last=1)
        assert bench.granted == [second]

    def test_or_five_seconds_later_without_a_word(self, bench: Bench) -> None:
        given = bench.use(ttl=4.0)
        second = bench.want()
        bench.wait(3.9, agents=False)
        bench.renew(given)  # now it ends at 7.9 s
        bench.tell(bench.synced("a"))  # the link is heard of, the device is not
        bench.wait(4.0)
        assert bench.ended == [(given.lease, EndReason.EXPIRED)]
        bench.wait(4.9)
        assert bench.granted == []
        bench.wait(0.2)
        assert bench.granted == [second]
        assert bench.given[0].epoch > given.epoch  # safe: this epoch ends what may still run

    def test_not_while_the_device_says_that_it_is_at_work(self, bench: Bench) -> None:
        bench.use()
        second = bench.want()
        bench.wait(30.0)
        bench.report("a/0", Occupancy.ACTIVE, epoch=1)
        bench.wait(6.0)
        assert bench.granted == []
        bench.report("a/0", Occupancy.IDLE, last=1)
        assert bench.granted == [second]


class TestRevoking:
    def test_the_holder_and_the_device_hear_of_it(self, bench: Bench) -> None:
        given = bench.use()
        bench.tell(Revoked(given.lease, "op", "needed elsewhere"))
        assert bench.ended == [(given.lease, EndReason.REVOKED)]
        assert [effect.reason for effect in bench.said(TellReleased)] == [EndReason.REVOKED]
        order = bench.order("a/0")
        assert (order.lease, order.epoch, order.fence, order.kill) == ("", 0, 1, True)
        assert order.why == "revoked"

    def test_once_more_changes_nothing(self, bench: Bench) -> None:
        given = bench.use()
        bench.tell(Revoked(given.lease, "op", "x"))
        bench.tell(Revoked(given.lease, "op", "x"))
        assert bench.ended == []

    def test_a_request_that_waits_may_be_taken_away_too(self, bench: Bench) -> None:
        bench.use()
        request = bench.want()
        bench.tell(Revoked(request, "op", "x"))
        assert [refused.code for refused in bench.refused] == [Refusal.CANCELLED]
        assert bench.book.requests() == ()


class TestYielding:
    def test_a_lower_class_is_asked_at_its_next_renewal(self, bench: Bench) -> None:
        given = bench.use(priority=0)
        urgent = bench.want(priority=3, tenant="u")
        assert bench.ended == []  # nothing happens in the midst of a batch
        assert bench.renew(given) is Verdict.YIELD_PLEASE
        told = bench.said(TellRenewed)[0]
        assert told.ttl_s == 10.0
        assert urgent in told.why
        bench.give_back(given)
        bench.report("a/0", last=1)
        assert bench.granted == [urgent]

    def test_who_does_not_yield_is_preempted(self, bench: Bench) -> None:
        given = bench.use(priority=0)
        urgent = bench.want(priority=3)
        bench.renew(given)
        bench.wait(5.0)
        assert bench.renew(given) is Verdict.YIELD_PLEASE
        assert bench.said(TellRenewed)[0].ttl_s == pytest.approx(5.0)
        bench.wait(5.0)
        assert bench.ended == [(given.lease, EndReason.PREEMPTED)]
        assert bench.order("a/0").kill
        bench.report("a/0", last=1)
        assert bench.granted == [urgent]

    @pytest.mark.parametrize("says", [EndReason.EXPIRED, EndReason.PREEMPTED])
    def test_who_stops_when_its_time_to_yield_is_up_was_preempted(
        self, bench: Bench, says: EndReason
    ) -> None:
        given = bench.use(priority=0)
        urgent = bench.want(priority=3)
        bench.renew(given)
        bench.tell(GiveBack(given.lease, given.epoch, "c", "t", says))
        assert bench.ended == [(given.lease, EndReason.PREEMPTED)]
        assert bench.explain(given.lease).startswith(
            f"ended: preempted, to urgent request {urgent}"
        )

    def test_who_yields_has_released(self, bench: Bench) -> None:
        given = bench.use(priority=0)
        urgent = bench.want(priority=3)
        bench.renew(given)
        bench.give_back(given)
        assert bench.explain(given.lease).startswith(
            f"ended: released, yielded to urgent request {urgent}"
        )

    def test_nobody_was_preempted_who_was_not_asked(self, bench: Bench) -> None:
        given = bench.use(priority=0)
        bench.tell(GiveBack(given.lease, given.epoch, "c", "t", EndReason.PREEMPTED))
        assert bench.ended == [(given.lease, EndReason.RELEASED)]

    def test_its_device_knows_why_its_time_will_be_up(self, bench: Bench) -> None:
        given = bench.use(priority=0)
        bench.want(priority=3)
        opened = (given.device, Occupancy.ACTIVE)
        bench.report(*opened, epoch=given.epoch)
        assert bench.order("a/0").why == ""
        bench.renew(given)
        bench.report(*opened, epoch=given.epoch)
        order = bench.order("a/0")
        assert (order.ttl_s, order.why) == (10.0, "preempted")

    def test_a_lease_that_runs_out_before_its_time_to_yield_expired(self, bench: Bench) -> None:
        given = bench.use(priority=0, ttl=4.0)
        bench.want(priority=3)
        bench.renew(given)
        bench.wait(5.0)
        assert bench.ended == [(given.lease, EndReason.EXPIRED)]

    def test_an_equal_or_higher_class_is_not_asked(self, bench: Bench) -> None:
        given = bench.use(priority=2)
        bench.want(priority=2)
        bench.want(priority=1)
        assert bench.renew(given) is Verdict.OK

    def test_it_is_taken_back_when_the_other_is_served_elsewhere(self, bench: Bench) -> None:
        given = bench.use(priority=0)
        bench.want(priority=3)
        bench.renew(given)
        bench.ready("b/0")
        assert len(bench.given) == 1
        assert bench.renew(given) is Verdict.OK
        bench.wait(15.0)
        assert bench.book.lease(given.lease) is not None

    def test_one_request_asks_no_more_leases_than_it_wants(self) -> None:
        bench = Bench()
        bench.ready("a/0", "a/1", "a/2")
        held = [bench.use(priority=0) for _ in range(3)]
        bench.want(priority=1, count=2)
        verdicts = [bench.renew(given) for given in held]
        assert verdicts.count(Verdict.YIELD_PLEASE) == 2
        bench.give_back(held[0])
        assert bench.renew(held[1]) is Verdict.YIELD_PLEASE
        # The device of the first is not free yet: another may be asked in its place.
        assert bench.renew(held[2]) is Verdict.YIELD_PLEASE

    def test_nobody_yields_to_a_tenant_at_its_quota(self) -> None:
        bench = Bench(BookConfig(tenants={"q": TenantConfig(max_live=1)}))
        bench.ready("a/0", "b/0")
        bench.use("name=b/0", tenant="q")
        given = bench.use("name=a/0", priority=0)
        bench.want("name=a/0", priority=3, tenant="q")
        assert bench.renew(given) is Verdict.OK


class TestRepeatedRequests:
    def test_a_granted_one_is_told_again_and_not_granted_again(self, bench: Bench) -> None:
        bench.ready("b/0")
        request = bench.want(request="r")
        first = bench.given
        bench.want(request=request, client="c2")
        assert bench.given == first
        assert bench.said(TellGranted)[0].client == "c2"
        assert bench.said(SaveLease) == []

    def test_one_that_is_over_stays_so(self, bench: Bench) -> None:
        given = bench.use(request="r")
        bench.give_back(given)
        bench.report("a/0", last=1)
        bench.tell(Requested(request="r", client="c", tenant="t", asked=LeaseRequest(selector="")))
        assert bench.granted == []
        assert [refused.code for refused in bench.refused] == [Refusal.CANCELLED]
        assert "released" in bench.refused[0].detail

    def test_a_waiting_one_keeps_its_place(self, bench: Bench) -> None:
        given = bench.use()
        first, second = bench.want(), bench.want()
        bench.want(request=first, client="c2")
        bench.give_back(given)
        bench.report("a/0", last=1)
        assert bench.granted == [first]
        assert bench.said(TellGranted)[0].client == "c2"
        assert bench.book.request(second) is not None

    def test_another_tenant_may_not_use_its_id(self, bench: Bench) -> None:
        bench.want(request="r")
        bench.want(request="r", tenant="thief")
        assert bench.given == ()
        assert [refused.code for refused in bench.refused] == [Refusal.BAD_REQUEST]

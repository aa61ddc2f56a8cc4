"""Requests: who is served next, who is refused, what is never forgotten."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from fleet_book import Bench

from loopwright.fleet.book.config import BookConfig, TenantConfig
from loopwright.fleet.book.effects import GrantedLease, Note, TellGranted, TellQueued
from loopwright.fleet.book.events import Cancelled, ClientDown, DeviceSpec, StoreDown, StoreUp
from loopwright.fleet.book.views import LeaseView
from loopwright.fleet.words import Admin, EndReason, Refusal, Verdict


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.ready("a/0")
    return bench


def again(view: LeaseView) -> GrantedLease:
    """A lease as its holder knows it."""
    return GrantedLease(
        lease=view.id,
        device=view.device,
        agent=view.agent,
        incarnation="",
        epoch=view.epoch,
        ttl_s=view.ttl_s,
    )


def serve(bench: Bench, rounds: int) -> list[TellGranted]:
    """Who is served, one after the other, by a device that is free again at once."""
    served = []
    for _ in range(rounds):
        (lease,) = bench.book.leases()
        bench.give_back(again(lease), tenant=lease.tenant)
        served += bench.said(TellGranted)
    return served


def tenants(bench: Bench, rounds: int) -> Counter[str]:
    """How many of the next requests are of which tenant."""
    return Counter(told.tenant for told in serve(bench, rounds))


class TestBadRequests:
    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({"ttl": math.nan}, "ttl nan"),
            ({"ttl": math.inf}, "ttl inf"),
            ({"ttl": 0.0}, "ttl 0.0"),
            ({"ttl": 1e9}, "not within 0.05 to 3600 s"),
            ({"max_wait": math.nan}, "a wait of nan"),
            ({"max_wait": -1.0}, "a wait of -1.0"),
            ({"priority": 4}, "priority 4 is not within 0 to 3"),
            ({"priority": -1}, "priority -1"),
            ({"priority": 10**30}, "priority 1000"),
            ({"priority": math.nan}, "priority nan"),
            ({"count": 0}, "count 0 is not within 1 to 64"),
            ({"count": 65}, "count 65"),
            ({"request": "r" * 129}, "a request id of 129 characters"),
            ({"client": ""}, "a client id of 0 characters"),
            ({"selector": "board="}, "expected a value"),
            ({"modules": {str(i): "" for i in range(65)}}, "65 modules; at most 64"),
        ],
    )
    def test_are_refused_with_what_is_wrong(
        self, bench: Bench, how: dict[str, object], said: str
    ) -> None:
        bench.want(**how)  # type: ignore[arg-type]  # bad on purpose
        (refused,) = bench.refused
        assert refused.code is Refusal.BAD_REQUEST
        assert said in refused.detail
        assert bench.book.counts.waiting == 0


class TestUnsatisfiable:
    @pytest.mark.parametrize(
        ("selector", "count", "said"),
        [
            ("bord=x", 1, "no device has a label 'bord'; there are board, name"),
            ("board=z", 1, "no device matches 'board=z'; board is x"),
            ("name=a/7", 1, "name is a/0"),
            ("!board", 1, "no device matches '!board'"),
            ("board=x", 2, "2 devices are wanted and 1 match 'board=x'"),
        ],
    )
    def test_is_answered_at_once_with_why(
        self, bench: Bench, selector: str, count: int, said: str
    ) -> None:
        bench.use()  # busy devices would count: it is not that
        bench.want(selector, count=count)
        (refused,) = bench.refused
        assert refused.code is Refusal.UNSATISFIABLE
        assert said in refused.detail

    def test_terms_that_no_device_fulfils_together(self) -> None:
        bench = Bench()
        bench.up("a", DeviceSpec("a/0", {"b": "1", "c": "1"}), DeviceSpec("a/1", {"b": "2"}))
        bench.want("b=2,c=1")
        assert "no device matches all of 'b=2, c=1'" in bench.refused[0].detail

    def test_an_empty_fleet(self) -> None:
        bench = Bench()
        bench.want()
        assert bench.refused[0].detail == "no device has registered"

    def test_a_device_that_is_lost_may_come_back(self, bench: Bench) -> None:
        bench.wait(40.0, agents=False)
        bench.want("board=x")
        assert bench.refused == []
        assert "1 lost" in bench.queued[0].why


class TestWaiting:
    def test_a_request_is_told_its_position_and_why(self, bench: Bench) -> None:
        bench.use()
        for position in (1, 2, 3):
            bench.want()
            (told,) = bench.said(TellQueued)
            assert told.position == position
            assert told.why == "1 matches, 1 leased and free in <= 35 s"

    def test_it_ends_when_it_waited_long_enough(self, bench: Bench) -> None:
        bench.use(ttl=600.0)
        waits = bench.want(max_wait=20.0)
        bench.wait(19.9)
        assert bench.refused == []
        bench.wait(0.2)
        assert [(r.request, r.code) for r in bench.refused] == [(waits, Refusal.MAX_WAIT)]
        assert "1 leased" in bench.refused[0].detail

    def test_who_does_not_want_to_wait_is_told_at_once(self, bench: Bench) -> None:
        bench.use()
        bench.want(max_wait=0.0)
        assert [r.code for r in bench.refused] == [Refusal.MAX_WAIT]

    def test_it_may_be_cancelled_by_who_asked(self, bench: Bench) -> None:
        given = bench.get()
        waits = bench.want(client="c1")
        bench.tell(Cancelled(waits, "c2"))
        assert [note.what for note in bench.said(Note)] == ["denied"]
        bench.tell(Cancelled(waits, "c1"))
        assert [r.code for r in bench.refused] == [Refusal.CANCELLED]
        bench.give_back(given)
        assert bench.granted == []

    def test_a_cancel_that_comes_before_its_request_counts(self, bench: Bench) -> None:
        bench.tell(Cancelled("r", "c"))
        bench.want(request="r")
        assert bench.granted == []
        assert [r.code for r in bench.refused] == [Refusal.CANCELLED]

    def test_a_cancel_of_what_was_granted_leaves_it_to_the_client(self, bench: Bench) -> None:
        given = bench.use(request="r")
        bench.tell(Cancelled("r", "c"))
        assert bench.effects == []
        assert bench.renew(given) is Verdict.OK

    def test_what_a_client_waits_for_ends_with_it_and_its_leases_live_on(
        self, bench: Bench
    ) -> None:
        given = bench.use(client="c1")
        waits = bench.want(client="c1")
        other = bench.want(client="c2")
        bench.tell(ClientDown("c1"))
        assert [(n.what, n.subject, n.detail) for n in bench.said(Note)] == [
            ("request-ended", waits, EndReason.CLIENT_LOST.value)
        ]
        assert [request.id for request in bench.book.requests()] == [other]
        assert bench.renew(given, client="c3") is Verdict.OK

    def test_a_client_that_connected_again_may_ask_again(self, bench: Bench) -> None:
        bench.use()
        waits = bench.want(client="c1")
        bench.tell(ClientDown("c1"))
        bench.want(request=waits, client="c2")
        assert len(bench.queued) == 1

    def test_the_end_of_an_older_connection_takes_nothing(self, bench: Bench) -> None:
        bench.use()
        waits = bench.want(client="c1")
        bench.want(request=waits, client="c2")
        bench.tell(ClientDown("c1"))
        assert [request.client for request in bench.book.requests()] == ["c2"]


class TestQuotas:
    def test_a_tenant_holds_no_more_than_it_may_and_waits_for_its_own(self) -> None:
        bench = Bench(BookConfig(tenants={"t": TenantConfig(max_live=2)}))
        bench.ready("a/0", "a/1", "a/2", "a/3")
        first = bench.get()
        bench.get()
        third = bench.want()
        assert "t holds 2 of the 2 it may" in bench.queued[0].why
        bench.want(tenant="other")
        assert len(bench.granted) == 1
        bench.give_back(first)
        assert bench.granted == [third]

    def test_more_at_once_than_a_tenant_may_ever_hold_is_refused(self) -> None:
        bench = Bench(BookConfig(tenant=TenantConfig(max_live=1)))
        bench.ready("a/0", "a/1")
        bench.want(count=2)
        assert [r.code for r in bench.refused] == [Refusal.QUOTA]

    def test_a_tenant_with_too_many_requests_is_told_when_to_come_again(self) -> None:
        bench = Bench(BookConfig(tenants={"t": TenantConfig(max_queued=3)}))
        bench.ready("a/0")
        bench.use()
        for _ in range(4):
            bench.want()
        (refused,) = bench.refused
        assert (refused.code, refused.retry_after_s) == (Refusal.QUOTA, 5.0)
        bench.want(tenant="other")
        assert len(bench.queued) == 1

    def test_a_full_queue_says_when_to_come_again(self) -> None:
        bench = Bench(BookConfig(max_queued=2))
        bench.ready("a/0")
        bench.use()
        last = ""
        for number in range(3):
            last = bench.want(tenant=f"t{number}")
        (refused,) = bench.refused
        assert (refused.code, refused.retry_after_s) == (Refusal.QUEUE_FULL, 5.0)
        bench.tell(Cancelled(bench.book.requests()[0].id, "c"))
        bench.want(request=last)  # the same request may be tried again
        assert len(bench.queued) == 1


class TestOrder:
    def test_higher_classes_go_first_then_age(self, bench: Bench) -> None:
        bench.get()
        names = [bench.want(priority=p) for p in (0, 1, 3, 1, 2, 3)]
        expected = [names[i] for i in (2, 5, 4, 1, 3, 0)]
        assert [told.request for told in serve(bench, 6)] == expected

    def test_tenants_of_a_class_take_turns_however_much_they_ask(self, bench: Bench) -> None:
        bench.get(tenant="t")
        for _ in range(30):
            bench.want(tenant="greedy")
        for _ in range(5):
            bench.want(tenant="modest")
        assert tenants(bench, 10) == {"greedy": 5, "modest": 5}

    def test_weights_are_kept(self) -> None:
        weights = {"heavy": TenantConfig(weight=3.0), "light": TenantConfig(weight=1.0)}
        bench = Bench(BookConfig(tenants=weights))
        bench.ready("a/0")
        bench.get()
        for _ in range(40):
            bench.want(tenant="heavy")
            bench.want(tenant="light")
        served = tenants(bench, 40)
        assert served["heavy"] == pytest.approx(30, abs=1)

    def test_long_use_counts_not_the_number_of_leases(self, bench: Bench) -> None:
        bench.get()
        for _ in range(40):
            bench.want(tenant="long", ttl=100.0)
            bench.want(tenant="short")
        held: Counter[str] = Counter()
        for _ in range(44):
            (lease,) = bench.book.leases()
            length = {"long": 9.0, "short": 3.0}.get(lease.tenant, 0.0)
            held[lease.tenant] += int(length)
            bench.now += length
            bench.tell(bench.synced("a"))
            bench.seq["a"] += 1
            bench.give_back(again(lease), tenant=lease.tenant)
        assert held["long"] == pytest.approx(held["short"], rel=0.15)

    def test_who_was_idle_has_saved_nothing_up(self, bench: Bench) -> None:
        bench.get(tenant="idle")
        bench.give_back(again(bench.book.leases()[0]), tenant="idle")
        for _ in range(50):  # the other works on alone
            given = bench.get(tenant="busy")
            bench.give_back(given, tenant="busy")
        bench.get(tenant="busy")
        for _ in range(10):
            bench.want(tenant="busy")
            bench.want(tenant="idle")
        assert tenants(bench, 10)["busy"] >= 4

    def test_equal_tenants_get_equal_shares(self) -> None:
        # Jain's index, (sum x)^2 / (n sum x^2), of ten tenants that ask differently much.
        bench = Bench()
        bench.ready("a/0")
        bench.get()
        for number in range(10):
            for _ in range(20 + 5 * number):
                bench.want(tenant=f"t{number}")
        served = tenants(bench, 150)
        shares = list(served.values())
        assert len(shares) == 10
        assert sum(shares) ** 2 / (10 * sum(x * x for x in shares)) >= 0.95

    def test_the_lowest_class_waits_no_longer_than_the_ageing_bound(self) -> None:
        bench = Bench(BookConfig(age_s=10.0, overdue_s=40.0))
        bench.ready("a/0")
        bench.get(ttl=600.0)
        lowest = bench.want(priority=0, tenant="poor")
        served_at = None
        for _ in range(100):  # a stream of urgent ones, more than can be served
            bench.want(priority=3, tenant="rich", ttl=600.0)
            bench.want(priority=3, tenant="rich", ttl=600.0)
            bench.wait(1.0)
            (lease,) = bench.book.leases()
            bench.give_back(again(lease), tenant=lease.tenant)
            if lowest in bench.granted:
                served_at = bench.now
                break
        assert served_at is not None
        assert served_at <= 42.0


class TestGangs:
    def test_all_or_none_in_one_effect(self) -> None:
        bench = Bench()
        bench.ready("a/0", "a/1", "b/0")
        busy = bench.use("name=a/0")
        gang = bench.want(count=3)
        assert bench.given == ()
        assert "3 are wanted at once" in bench.queued[0].why
        bench.give_back(busy)
        bench.report("a/0", last=1)
        (told,) = bench.said(TellGranted)
        assert told.request == gang
        assert sorted(given.device for given in told.given) == ["a/0", "a/1", "b/0"]
        assert len({given.lease for given in told.given}) == 3

    def test_others_pass_it_while_it_is_young(self) -> None:
        bench = Bench()
        bench.ready("a/0", "a/1")
        bench.use("name=a/0")
        bench.want(count=2)
        bench.want()
        assert len(bench.granted) == 1

    def test_devices_are_held_for_one_that_is_overdue(self) -> None:
        bench = Bench(BookConfig(overdue_s=60.0, open_s=500.0))
        bench.ready("a/0", "a/1")
        one, two = bench.get(ttl=600.0), bench.get(ttl=600.0)
        gang = bench.want(count=2)
        bench.wait(61.0)
        single = bench.want()
        bench.give_back(one)
        assert bench.granted == []
        assert f"held for request {gang}" in bench.explain(single)
        assert "1 held for request" in bench.explain(single)
        bench.give_back(two)
        assert bench.granted == [gang]

    def test_they_are_let_go_when_it_gives_up(self) -> None:
        bench = Bench(BookConfig(overdue_s=10.0, open_s=500.0))
        bench.ready("a/0", "a/1")
        one = bench.get(ttl=600.0)
        bench.get(ttl=600.0)
        gang = bench.want(count=2, max_wait=30.0)
        bench.wait(11.0)
        single = bench.want()
        bench.give_back(one)
        assert bench.granted == []
        said = bench.wait(20.0)
        assert [r.code for r in bench.refused] == [Refusal.MAX_WAIT]
        assert [e.request for e in said if isinstance(e, TellGranted)] == [single]
        assert gang != single

    def test_the_oldest_of_two_is_served_first_and_they_do_not_block_each_other(self) -> None:
        bench = Bench(BookConfig(overdue_s=10.0, open_s=500.0))
        bench.ready("a/0", "a/1")
        one, two = bench.get(ttl=600.0), bench.get(ttl=600.0)
        first, second = bench.want(count=2, ttl=600.0), bench.want(count=2, ttl=600.0)
        bench.wait(11.0)
        bench.give_back(one)
        assert bench.granted == []
        bench.give_back(two)
        assert bench.granted == [first]
        for given in bench.given:
            bench.give_back(given)
        assert bench.granted == [second]

    def test_leases_of_a_gang_end_one_by_one(self) -> None:
        bench = Bench()
        bench.ready("a/0", "a/1")
        request = bench.want(count=2)
        one, two = bench.given
        bench.give_back(one)
        bench.want(request=request)
        assert bench.given == (two,)


class TestAffinity:
    def test_a_device_that_has_the_modules_is_preferred(self) -> None:
        bench = Bench()
        specs = [
            DeviceSpec(f"a/{n}", {"board": "x"}, {"bitstream": "abc"} if n == 2 else {})
            for n in range(4)
        ]
        bench.up("a", *specs)
        for spec in specs:
            bench.report(spec.name)
        assert bench.get(modules={"bitstream": "abc"}).device == "a/2"
        assert bench.get(modules={"bitstream": "abc"}).device == "a/0"

    def test_a_device_is_taken_to_have_what_its_last_session_needed(self) -> None:
        bench = Bench()
        bench.ready("a/0", "a/1")
        given = bench.use(modules={"runtime": "r1"})
        bench.use("name=a/1")
        bench.give_back(given)
        bench.report(given.device, last=given.epoch)
        for lease in bench.book.leases():
            bench.give_back(again(lease))
            bench.report(lease.device, last=lease.epoch)
        assert bench.get(modules={"runtime": "r1"}).device == given.device

    def test_others_get_what_is_free_for_longest(self) -> None:
        bench = Bench()
        bench.ready("a/0", "a/1", "a/2")
        first = bench.get()
        bench.give_back(first)
        assert [bench.get().device for _ in range(3)] == ["a/1", "a/2", first.device]


class TestReadOnly:
    def test_nothing_is_granted_while_the_store_cannot_be_written(self, bench: Bench) -> None:
        given = bench.use()
        waits = bench.want()
        bench.tell(StoreDown("disk full"))
        assert bench.book.read_only == "disk full"
        assert "read-only" in [note.what for note in bench.said(Note)]
        bench.want()
        (refused,) = bench.refused
        assert (refused.code, refused.retry_after_s) == (Refusal.READ_ONLY, 5.0)
        assert "disk full" in refused.detail
        assert bench.renew(given) is Verdict.OK
        bench.give_back(given)
        assert bench.ended == [(given.lease, EndReason.RELEASED)]
        bench.report("a/0", last=1)
        assert bench.granted == []
        assert "disk full" in bench.explain(waits)
        bench.tell(StoreUp())
        assert bench.granted == [waits]

    def test_grants_that_were_not_saved_are_undone_and_may_be_tried_again(
        self, bench: Bench
    ) -> None:
        given = bench.get(request="r")
        bench.tell(StoreDown("disk full", (given.lease, "unknown")))
        assert bench.ended == [(given.lease, EndReason.CANCELLED)]
        assert [(r.request, r.code) for r in bench.refused] == [("r", Refusal.READ_ONLY)]
        bench.tell(StoreUp())
        bench.want(request="r")
        assert bench.given[0].epoch > given.epoch

    def test_it_is_said_once_and_mended_once(self, bench: Bench) -> None:
        bench.tell(StoreDown("x"))
        bench.tell(StoreDown("x"))
        assert bench.said(Note) == []
        bench.tell(StoreUp())
        bench.tell(StoreUp())
        assert bench.said(Note) == []


class TestNoLostWakeUp:
    def test_a_device_that_comes_later_serves_who_waits(self, bench: Bench) -> None:
        bench.use()
        waits = bench.want()
        bench.ready("b/0")
        assert bench.granted == [waits]

    def test_one_that_is_enabled_again(self, bench: Bench) -> None:
        bench.admin("a/0", Admin.DRAIN)
        waits = bench.want()
        bench.admin("a/0", Admin.ENABLED)
        assert bench.granted == [waits]

    def test_selectors_with_which_somebody_waits_are_never_dropped(self) -> None:
        bench = Bench(BookConfig(idle_selectors=2))
        bench.ready(*(f"a/{n}" for n in range(10)))
        held = [bench.get(f"name=a/{n}") for n in range(10)]
        waits = [bench.want(f"name=a/{n}") for n in range(10) for _ in range(2)]
        served = []
        for n, given in enumerate(held):
            bench.give_back(given)
            served += bench.granted
            (second,) = bench.given
            for other in range(3):  # selectors that come and go
                bench.want(f"name in (a/{n},{other})", max_wait=0.0)
            bench.give_back(second)
            served += bench.granted
        assert served == waits

    def test_a_quota_that_frees_up_while_devices_are_free(self) -> None:
        bench = Bench(BookConfig(tenants={"t": TenantConfig(max_live=1)}))
        bench.ready("a/0", "a/1")
        given = bench.get("name=a/0")
        waits = bench.want("name=a/1")
        assert bench.granted == []
        bench.give_back(given)
        assert bench.granted == [waits]

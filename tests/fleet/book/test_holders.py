"""Who holds a lease: what becomes of it when its holder's connection, session or token is gone."""

from __future__ import annotations

import pytest
from fleet_book import Bench

from loopwright.fleet.book.effects import GrantedLease, SaveLease, TellRenewed
from loopwright.fleet.book.events import (
    AgentUp,
    ClientDown,
    DeviceSpec,
    Renewal,
    Revoked,
    TokenOver,
)
from loopwright.fleet.words import Admin, EndReason, LeaseState, Occupancy, Refusal, Verdict


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.ready("a/0")
    return bench


def opened(bench: Bench, given: GrantedLease) -> None:
    """The device says that the session is open."""
    bench.report(given.device, Occupancy.ACTIVE, epoch=given.epoch)


def closed(bench: Bench, given: GrantedLease) -> None:
    """The device says that the session is over and all that it left is gone."""
    bench.report(given.device, last=given.epoch)


def works_on(bench: Bench, given: GrantedLease, seconds: float) -> None:
    """Time passes; the device says each second that its session is open."""
    for _ in range(round(seconds)):
        bench.wait(1.0)
        opened(bench, given)


class TestHolderAway:
    def test_with_its_session_gone_too_the_lease_is_lost_within_five_seconds(
        self, bench: Bench
    ) -> None:
        given = bench.use(ttl=3600.0)
        waits = bench.want()
        bench.tell(ClientDown("c"))
        bench.report("a/0", Occupancy.CLEANING, epoch=given.epoch)
        bench.wait(2.9)
        closed(bench, given)
        assert bench.ended == []
        bench.wait(0.2)
        assert bench.ended == [(given.lease, EndReason.CLIENT_LOST)]
        closed(bench, given)
        assert bench.granted == []  # who asked is gone: so is what it waits for
        assert bench.book.request(waits) is None
        assert bench.get(client="d").lease != given.lease

    def test_before_it_was_opened_the_lease_is_lost_too(self, bench: Bench) -> None:
        given = bench.get(ttl=3600.0)
        bench.tell(ClientDown("c"))
        bench.wait(2.0)
        bench.report("a/0", Occupancy.RESERVED)
        bench.wait(1.1)
        assert bench.ended == [(given.lease, EndReason.CLIENT_LOST)]
        assert bench.get(client="d").epoch == given.epoch + 1

    def test_while_its_session_lives_the_lease_does(self, bench: Bench) -> None:
        # The client is cut off from the tracker, and not from its device.
        given = bench.use(ttl=60.0)
        bench.tell(ClientDown("c"))
        works_on(bench, given, 59.0)
        assert bench.book.leases()[0].state is LeaseState.ACTIVE
        assert bench.renew(given, client="c2") is Verdict.OK

    def test_its_time_begins_when_both_are_gone(self, bench: Bench) -> None:
        given = bench.use(ttl=60.0)
        bench.tell(ClientDown("c"))
        works_on(bench, given, 20.0)
        closed(bench, given)
        bench.wait(2.9)
        assert bench.ended == []
        opened(bench, given)  # it has opened another session: it lives
        works_on(bench, given, 10.0)
        closed(bench, given)
        bench.wait(3.1)
        assert bench.ended == [(given.lease, EndReason.CLIENT_LOST)]

    def test_a_device_that_has_not_spoken_since_may_have_a_session(self, bench: Bench) -> None:
        given = bench.get(ttl=60.0)
        bench.wait(1.0)
        bench.tell(ClientDown("c"))
        bench.wait(8.0, agents=False)
        assert bench.ended == []
        opened(bench, given)
        assert bench.ended == []

    def test_it_is_lost_with_the_first_word_that_comes_late(self, bench: Bench) -> None:
        given = bench.get(ttl=60.0)
        bench.wait(1.0)
        bench.tell(ClientDown("c"))
        bench.wait(5.0, agents=False)
        bench.report("a/0", Occupancy.RESERVED)
        assert bench.ended == [(given.lease, EndReason.CLIENT_LOST)]

    def test_one_that_is_back_in_time_keeps_it(self, bench: Bench) -> None:
        given = bench.use(ttl=60.0)
        closed(bench, given)
        bench.tell(ClientDown("c"))
        bench.wait(2.9)
        assert bench.renew(given, client="c2") is Verdict.OK
        bench.wait(50.0)
        assert bench.ended == []
        bench.tell(ClientDown("c"))  # the older connection's, which comes late
        closed(bench, given)
        bench.wait(5.0)
        assert bench.ended == []

    def test_to_ask_again_is_to_be_back(self, bench: Bench) -> None:
        given = bench.get(request="r", ttl=60.0)
        bench.tell(ClientDown("c"))
        bench.want(request="r", client="c2", ttl=60.0)
        bench.report("a/0", Occupancy.RESERVED)
        bench.wait(5.0)
        assert bench.ended == []
        assert bench.book.leases()[0].id == given.lease

    def test_one_that_is_back_too_late_is_told_why(self, bench: Bench) -> None:
        given = bench.get(ttl=60.0)
        bench.tell(ClientDown("c"))
        bench.wait(2.0)
        bench.report("a/0", Occupancy.RESERVED)
        bench.wait(2.0)
        assert bench.renew(given, client="c2") is Verdict.GONE
        told = bench.said(TellRenewed)[0]
        assert told.reason is EndReason.CLIENT_LOST
        assert "connection and session are gone" in told.why

    def test_all_devices_of_a_request_have_one_holder(self, bench: Bench) -> None:
        bench.ready("b/0")
        bench.want(count=2, ttl=60.0)
        first, second = bench.given
        bench.tell(ClientDown("c"))
        assert bench.renew(first, client="c2") is Verdict.OK
        for given in (first, second):
            closed(bench, given)
        bench.wait(5.0)
        assert bench.ended == []
        assert {view.client for view in bench.book.leases()} == {"c2"}

    def test_an_agent_that_connects_again_has_not_said_that_the_session_is_gone(
        self, bench: Bench
    ) -> None:
        given = bench.use(ttl=60.0)
        bench.tell(ClientDown("c"))
        spec = DeviceSpec("a/0", {"board": "x", "name": "a/0"})
        bench.tell(AgentUp("a", "1", (spec,)))
        bench.wait(5.0)
        assert bench.ended == []
        opened(bench, given)
        assert bench.ended == []

    def test_it_is_said_where_leases_are_shown(self, bench: Bench) -> None:
        given = bench.use(ttl=60.0)
        assert bench.book.leases(bench.now)[0].away_s == 0.0
        bench.tell(ClientDown("c"))
        bench.wait(1.0)
        assert bench.book.leases(bench.now)[0].away_s == pytest.approx(1.0)
        assert "holder away for 1 s, its session goes on" in bench.explain(given.lease)
        closed(bench, given)
        said = "holder away for 1 s, lost in 3 s unless it comes back"
        assert said in bench.explain(given.lease)
        assert bench.renew(given) is Verdict.OK
        assert "away" not in bench.explain(given.lease)


class TestTokens:
    def test_with_a_token_all_ends_that_is_held_with_it(self, bench: Bench) -> None:
        bench.ready("b/0")
        given = bench.use("name=a/0", token="t1")
        other = bench.use("name=b/0", token="t2", client="d")
        waits = bench.want(token="t1")
        assert bench.book.held_with("t1") == (given.lease,)
        bench.tell(TokenOver("t1", "token t1 was revoked"))
        assert bench.ended == [(given.lease, EndReason.REVOKED)]
        assert bench.order("a/0").kill
        assert [(told.request, told.code) for told in bench.refused] == [(waits, Refusal.CANCELLED)]
        assert bench.renew(given) is Verdict.GONE
        assert bench.renew(other, client="d") is Verdict.OK

    def test_a_lease_belongs_to_the_token_that_renewed_it_last(self, bench: Bench) -> None:
        given = bench.use(token="t1")
        bench.tell(Renewal(given.lease, given.epoch, "d", "t", "t2"))
        bench.tell(TokenOver("t1", "revoked"))
        assert bench.ended == []
        bench.tell(TokenOver("t2", "revoked"))
        assert bench.ended == [(given.lease, EndReason.REVOKED)]

    def test_the_store_knows_it(self, bench: Bench) -> None:
        bench.want(token="t1")
        assert [effect.row.token for effect in bench.said(SaveLease)] == ["t1"]


class TestDrainedForAnOperator:
    def test_nobody_gets_the_device_after_it(self, bench: Bench) -> None:
        given = bench.use()
        waits = bench.want()
        bench.tell(Revoked(given.lease, "op", "I need it", drain=True))
        assert bench.ended == [(given.lease, EndReason.REVOKED)]
        closed(bench, given)
        assert bench.granted == []
        view = bench.book.device("a/0")
        assert view is not None
        assert view.admin is Admin.DRAIN
        assert (view.why, view.kept) == ("I need it", "draining: I need it")
        bench.admin("a/0", Admin.ENABLED)
        assert bench.granted == [waits]

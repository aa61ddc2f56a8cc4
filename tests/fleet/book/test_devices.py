"""Devices and agents: heard of or not, well or not, wanted or not, there twice."""

from __future__ import annotations

import pytest
from fleet_book import Bench

from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.effects import (
    Note,
    SaveDevice,
    TellDesired,
    TellReleased,
    TellSuperseded,
)
from loopwright.fleet.book.events import (
    AgentDown,
    AgentUp,
    DeviceSpec,
    ProbeAsked,
    ReportedState,
    Synced,
    Tick,
)
from loopwright.fleet.book.views import DeviceView
from loopwright.fleet.words import (
    Admin,
    EndReason,
    Health,
    LinkState,
    Occupancy,
    Refusal,
    Verdict,
)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.ready("a/0")
    return bench


def view(bench: Bench, name: str = "a/0") -> DeviceView:
    found = bench.book.device(name)
    assert found is not None
    return found


def notes(bench: Bench) -> list[str]:
    return [note.what for note in bench.said(Note)]


class TestGrantable:
    def test_when_up_good_enabled_idle_and_reported(self, bench: Bench) -> None:
        one = view(bench)
        assert one.grantable
        assert (one.link, one.health) == (LinkState.UP, Health.GOOD)
        assert (one.admin, one.occupancy) == (Admin.ENABLED, Occupancy.IDLE)

    def test_not_before_it_reported(self) -> None:
        bench = Bench()
        bench.up("a", "a/0")
        request = bench.want()
        assert bench.granted == []
        bench.report("a/0")
        assert bench.granted == [request]

    @pytest.mark.parametrize("health", [h for h in Health if h is not Health.GOOD])
    def test_not_unless_it_is_well(self, bench: Bench, health: Health) -> None:
        bench.report("a/0", health=health)
        request = bench.want()
        assert bench.granted == []
        bench.report("a/0")
        assert bench.granted == [request]

    @pytest.mark.parametrize("occupancy", [Occupancy.ACTIVE, Occupancy.CLEANING])
    def test_not_while_it_is_at_work_for_nobody(self, bench: Bench, occupancy: Occupancy) -> None:
        bench.report("a/0", occupancy, epoch=0, last=1)
        bench.want()
        assert bench.granted == []

    def test_a_reservation_that_is_over_does_not_count(self, bench: Bench) -> None:
        bench.report("a/0", Occupancy.RESERVED)
        bench.want()
        assert len(bench.granted) == 1


class TestLink:
    def test_silence_makes_it_suspect_then_lost(self, bench: Bench) -> None:
        given = bench.use(ttl=600.0)
        bench.wait(5.9, agents=False)
        assert view(bench).link is LinkState.UP
        bench.wait(0.2, agents=False)
        assert view(bench).link is LinkState.SUSPECT
        bench.wait(23.8, agents=False)
        assert bench.ended == []
        bench.wait(0.2, agents=False)
        assert view(bench).link is LinkState.LOST
        assert bench.ended == [(given.lease, EndReason.DEVICE_LOST)]
        assert "device-lost" in notes(bench)

    def test_a_suspect_device_is_not_granted_and_its_lease_lives(self, bench: Bench) -> None:
        bench.ready("b/0")
        given = bench.use("name=a/0")
        bench.wait(7.0, agents=False)
        bench.want("name=b/0")
        assert bench.granted == []
        assert bench.renew(given) is Verdict.OK
        bench.tell(
            bench.synced(
                "b", ReportedState(device="b/0", occupancy=Occupancy.IDLE, health=Health.GOOD)
            )
        )
        assert bench.granted == []  # that seq is known already
        bench.report("b/0")
        assert len(bench.granted) == 1

    def test_a_closed_connection_makes_it_suspect_at_once_and_lost_soon(self, bench: Bench) -> None:
        given = bench.use()
        bench.tell(AgentDown("a", "1"))
        assert view(bench).link is LinkState.SUSPECT
        bench.wait(9.9, agents=False)
        assert bench.ended == []
        bench.wait(0.2, agents=False)
        assert bench.ended == [(given.lease, EndReason.DEVICE_LOST)]

    def test_an_agent_that_is_back_in_time_keeps_its_leases(self, bench: Bench) -> None:
        given = bench.use()
        bench.tell(AgentDown("a", "1"))
        bench.wait(5.0, agents=False)
        bench.up("a", "a/0")
        bench.report("a/0", Occupancy.ACTIVE, epoch=given.epoch)
        bench.wait(20.0)
        assert bench.ended == []
        assert bench.renew(given) is Verdict.OK

    def test_the_end_of_an_older_connection_takes_nothing_from_one_that_reports(
        self, bench: Bench
    ) -> None:
        given = bench.use()
        bench.up("a", "a/0")
        bench.tell(AgentDown("a", "1"))  # of the connection before: it took long to die
        bench.report("a/0", Occupancy.ACTIVE, epoch=given.epoch)
        assert view(bench).link is LinkState.UP
        bench.wait(20.0)
        assert bench.ended == []

    def test_a_lost_device_that_returns_is_free_when_it_says_so(self, bench: Bench) -> None:
        bench.use()
        bench.wait(31.0, agents=False)
        request = bench.want()
        bench.report("a/0", Occupancy.ACTIVE, epoch=1)
        assert view(bench).link is LinkState.UP
        assert bench.granted == []
        order = bench.order("a/0")
        assert (order.lease, order.fence, order.kill) == ("", 1, True)
        bench.report("a/0", last=1)
        assert bench.granted == [request]

    def test_a_longer_period_between_reports_makes_silence_longer(self, bench: Bench) -> None:
        bench.tell(Synced("a", "1", 99, (), period_s=10.0))
        bench.wait(29.0, agents=False)
        assert view(bench).link is LinkState.UP
        bench.wait(2.0, agents=False)
        assert view(bench).link is LinkState.SUSPECT

    def test_a_device_that_is_lost_for_a_week_is_forgotten(self) -> None:
        bench = Bench(BookConfig(forget_s=1000.0))
        bench.ready("a/0", "b/0")
        bench.get("name=a/0")
        bench.admin("b/0", Admin.DRAIN, "old")
        bench.wait(31.0, agents=False)
        waits = bench.want("name=a/0", max_wait=5000.0)
        assert len(bench.queued) == 1
        bench.wait(1001.0, agents=False)
        assert bench.book.devices() == ()
        assert [(r.request, r.code) for r in bench.refused] == [(waits, Refusal.UNSATISFIABLE)]
        bench.ready("a/0", "b/0")
        assert bench.get("name=a/0").epoch == 1001  # its epochs go on, and what people want of it
        assert (view(bench, "b/0").admin, view(bench, "b/0").why) == (Admin.DRAIN, "old")


class TestReports:
    def test_those_out_of_order_or_doubled_are_ignored(self, bench: Bench) -> None:
        given = bench.get()
        bench.seq["a"] = 10
        bench.tell(
            bench.synced(
                "a",
                ReportedState(
                    device="a/0",
                    occupancy=Occupancy.ACTIVE,
                    health=Health.GOOD,
                    lease="",
                    epoch=1,
                    last_epoch=1,
                ),
            )
        )
        for seq in (10, 9):
            old = ReportedState(device="a/0", occupancy=Occupancy.IDLE, health=Health.BAD)
            bench.tell(Synced("a", "1", seq, (old,)))
            assert view(bench).health is Health.GOOD
            assert view(bench).occupancy is Occupancy.ACTIVE
        assert bench.order("a/0").lease == given.lease  # but they are answered

    def test_each_is_answered_with_what_is_wanted(self, bench: Bench) -> None:
        for _ in range(3):
            bench.report("a/0")
            order = bench.order("a/0")
            assert (order.lease, order.epoch, order.probe, order.kill) == ("", 0, False, False)

    def test_one_answer_covers_all_devices_of_an_agent(self) -> None:
        bench = Bench()
        bench.ready("a/0", "a/1", "a/2")
        idle = [
            ReportedState(device=f"a/{n}", occupancy=Occupancy.IDLE, health=Health.GOOD)
            for n in range(3)
        ]
        bench.seq["a"] += 1
        bench.tell(bench.synced("a", *idle))
        (told,) = bench.said(TellDesired)
        assert [order.device for order in told.orders] == ["a/0", "a/1", "a/2"]

    def test_those_of_an_agent_that_is_not_known_change_nothing(self, bench: Bench) -> None:
        bench.tell(
            Synced(
                "x",
                "1",
                1,
                (ReportedState(device="a/0", occupancy=Occupancy.IDLE, health=Health.BAD),),
            )
        )
        assert notes(bench) == ["unknown-agent"]
        assert view(bench).health is Health.GOOD

    def test_a_session_that_nobody_ordered_is_ended(self, bench: Bench) -> None:
        bench.report("a/0", Occupancy.ACTIVE, epoch=9)
        order = bench.order("a/0")
        assert (order.lease, order.fence, order.kill) == ("", 9, True)
        bench.want()
        assert bench.granted == []


class TestCleaning:
    @pytest.mark.parametrize(("kind", "limit"), [("cpu", 15.0), ("fpga", 60.0)])
    def test_one_that_takes_too_long_is_bad_until_it_is_clean(
        self, kind: str, limit: float
    ) -> None:
        bench = Bench()
        bench.ready("a/0", kind=kind)
        given = bench.use()
        request = bench.want()
        bench.give_back(given)
        bench.report("a/0", Occupancy.CLEANING, last=1)
        bench.wait(limit - 0.1)
        assert view(bench).health is Health.GOOD
        bench.wait(0.2)
        assert view(bench).health is Health.BAD
        assert "stuck" in notes(bench)
        assert bench.book.lease(given.lease) is None
        bench.report("a/0", Occupancy.CLEANING, last=1)
        assert bench.granted == []
        bench.report("a/0", last=1)
        assert bench.granted == [request]

    def test_silence_is_not_held_against_it(self, bench: Bench) -> None:
        given = bench.use()
        bench.give_back(given)
        bench.report("a/0", Occupancy.CLEANING, last=1)
        bench.wait(20.0, agents=False)
        assert view(bench).health is Health.GOOD
        assert view(bench).link is LinkState.SUSPECT


class TestProbes:
    def test_a_device_that_was_never_probed_is(self) -> None:
        bench = Bench()
        bench.up("a", "a/0")
        bench.report("a/0", health=Health.UNKNOWN)
        assert bench.order("a/0").probe
        bench.report("a/0", health=Health.UNKNOWN)  # the order may have been lost
        assert bench.order("a/0").probe
        bench.report("a/0", health=Health.PROBING)
        assert not bench.order("a/0").probe
        bench.want()
        bench.report("a/0", health=Health.GOOD)
        assert len(bench.granted) == 1

    @pytest.mark.parametrize(("health", "after"), [(Health.DRIFT, 30.0), (Health.BAD, 60.0)])
    def test_one_that_is_unwell_is_probed_after_a_pause(
        self, bench: Bench, health: Health, after: float
    ) -> None:
        bench.report("a/0", health=health, drift=0.11)
        assert not bench.order("a/0").probe
        bench.wait(after - 2.0)
        bench.report("a/0", health=health)
        assert not bench.order("a/0").probe
        bench.wait(2.1)
        bench.report("a/0", health=health)
        assert bench.order("a/0").probe

    def test_one_that_does_not_obey_is_asked_again_later(self, bench: Bench) -> None:
        bench.tell(ProbeAsked("a/0"))
        assert bench.order("a/0").probe
        bench.wait(31.0)
        bench.report("a/0")
        assert not bench.order("a/0").probe
        bench.wait(60.0)
        bench.report("a/0")
        assert bench.order("a/0").probe

    def test_none_disturbs_a_lease(self, bench: Bench) -> None:
        given = bench.use(ttl=600.0)
        bench.report("a/0", Occupancy.ACTIVE, Health.DRIFT, epoch=given.epoch)
        bench.wait(40.0)
        bench.report("a/0", Occupancy.ACTIVE, Health.DRIFT, epoch=given.epoch)
        assert not bench.order("a/0").probe
        assert bench.renew(given) is Verdict.OK
        bench.give_back(given)
        bench.report("a/0", health=Health.DRIFT, last=1)
        bench.wait(2.1)
        bench.report("a/0", health=Health.DRIFT, last=1)
        assert bench.order("a/0").probe


class TestAdmin:
    def test_drain_lets_the_lease_end_and_begins_no_other(self, bench: Bench) -> None:
        given = bench.use()
        bench.admin("a/0", Admin.DRAIN, "moves")
        assert bench.ended == []
        assert bench.order("a/0").admin is Admin.DRAIN
        assert [row.row.admin for row in bench.said(SaveDevice)] == [Admin.DRAIN]
        assert bench.renew(given) is Verdict.OK
        bench.want()
        bench.give_back(given)
        bench.report("a/0", last=1)
        assert bench.granted == []
        bench.admin("a/0", Admin.ENABLED)
        assert len(bench.granted) == 1

    @pytest.mark.parametrize("admin", [Admin.MAINTENANCE, Admin.RETIRED])
    def test_quarantine_takes_the_lease_away(self, bench: Bench, admin: Admin) -> None:
        given = bench.use()
        bench.admin("a/0", admin, "canary +11 %")
        assert bench.ended == [(given.lease, EndReason.REVOKED)]
        assert bench.order("a/0").kill
        assert [e.client for e in bench.said(TellReleased)] == ["c"]

    def test_a_retired_device_serves_no_request_for_ever(self, bench: Bench) -> None:
        bench.use()
        waits = bench.want()
        bench.admin("a/0", Admin.RETIRED)
        assert [(r.request, r.code) for r in bench.refused] == [(waits, Refusal.UNSATISFIABLE)]
        bench.want()
        assert [r.code for r in bench.refused] == [Refusal.UNSATISFIABLE]
        bench.admin("a/0", Admin.ENABLED)
        bench.report("a/0", last=1)
        bench.want()
        assert len(bench.granted) == 1

    def test_a_quarantined_device_may_be_waited_for(self, bench: Bench) -> None:
        bench.admin("a/0", Admin.MAINTENANCE, "broken fan")
        bench.want()
        assert "1 quarantined: broken fan" in bench.queued[0].why

    def test_an_unknown_device_is_noted(self, bench: Bench) -> None:
        bench.admin("z/9", Admin.DRAIN)
        assert notes(bench) == ["unknown-device"]


class TestIncarnations:
    def test_a_new_one_ends_what_the_old_one_did(self, bench: Bench) -> None:
        given = bench.use()
        bench.up("a", "a/0", incarnation="2")
        assert bench.ended == [(given.lease, EndReason.DEVICE_LOST)]
        assert "started anew" in bench.explain(given.lease)
        bench.want()
        assert bench.granted == []
        bench.report("a/0")
        assert bench.given[0].incarnation == "2"
        assert bench.given[0].epoch == 2

    def test_reports_of_the_old_one_are_refused(self, bench: Bench) -> None:
        bench.up("a", "a/0", incarnation="2")
        bench.report("a/0")
        bench.tell(
            Synced(
                "a",
                "1",
                999,
                (ReportedState(device="a/0", occupancy=Occupancy.IDLE, health=Health.BAD),),
            )
        )
        assert [(s.incarnation, s.device) for s in bench.said(TellSuperseded)] == [("1", "a/0")]
        assert view(bench).health is Health.GOOD

    def test_a_late_copy_of_an_old_registration_takes_nothing(self, bench: Bench) -> None:
        bench.up("a", "a/0", incarnation="2")
        bench.report("a/0")
        given = bench.use()
        bench.tell(AgentUp("a", "1", (DeviceSpec("a/0", {"board": "x"}),)))
        assert bench.ended == []
        assert [s.incarnation for s in bench.said(TellSuperseded)] == ["1"]
        assert bench.renew(given) is Verdict.OK

    def test_an_old_one_may_come_back_when_the_new_one_is_lost(self, bench: Bench) -> None:
        bench.up("b", DeviceSpec("a/0", {"board": "x"}))
        bench.report_of("b", "a/0")
        assert view(bench).agent == "b"
        bench.wait(31.0, agents=False)
        bench.tell(AgentUp("a", "1", (DeviceSpec("a/0", {"board": "x"}),)))
        bench.report("a/0")
        assert view(bench).agent == "a"


class TestTwoAgentsWithOneDevice:
    def test_the_newer_wins_and_the_older_is_told(self, bench: Bench) -> None:
        given = bench.use()
        bench.up("b", DeviceSpec("a/0", {"board": "x"}))
        assert bench.ended == [(given.lease, EndReason.DEVICE_LOST)]
        told = [(s.agent, s.incarnation, s.device) for s in bench.said(TellSuperseded)]
        assert told == [("a", "1", "a/0")]
        assert view(bench).agent == "b"
        bench.report("a/0")  # of agent a
        assert [s.agent for s in bench.said(TellSuperseded)] == ["a"]
        assert not view(bench).grantable

    def test_after_three_turns_it_is_flagged(self, bench: Bench) -> None:
        for turn in range(3):
            assert not view(bench).flapping
            agent = "ab"[(turn + 1) % 2]
            spec = DeviceSpec("a/0", {"board": "x"})
            bench.up(agent, spec, incarnation=f"{agent}{turn}")
        assert view(bench).flapping
        assert notes(bench).count("flapping") == 1

    def test_the_flag_goes_when_that_was_long_ago(self, bench: Bench) -> None:
        for turn in range(3):
            bench.up("ba"[turn % 2], "a/0", incarnation=str(turn + 2))
            bench.wait(10.0)
        assert view(bench).flapping
        bench.wait(bench.config.flap_window_s - 11.0)
        assert view(bench).flapping
        bench.wait(1.0)
        assert not view(bench).flapping

    def test_it_is_flagged_again_when_it_begins_again(self, bench: Bench) -> None:
        for turn in range(6):
            if turn == 3:
                bench.wait(bench.config.flap_window_s)
                assert not view(bench).flapping
            bench.up("ba"[turn % 2], "a/0", incarnation=str(turn + 2))
        assert view(bench).flapping
        assert notes(bench).count("flapping") == 1

    def test_plain_restarts_are_no_flapping(self, bench: Bench) -> None:
        for number in range(2, 8):
            bench.tell(AgentDown("a", str(number - 1)))
            bench.up("a", "a/0", incarnation=str(number))
            bench.report("a/0")
        assert not view(bench).flapping

    def test_an_agent_that_no_longer_has_a_device_loses_it(self, bench: Bench) -> None:
        bench.ready("a/0", "a/1")
        given = bench.use("name=a/1")
        bench.up("a", "a/0")
        assert bench.ended == [(given.lease, EndReason.DEVICE_LOST)]
        assert view(bench, "a/1").link is LinkState.LOST


class TestLabels:
    def test_new_ones_count_from_the_next_registration_on(self, bench: Bench) -> None:
        waits = bench.want("board=y")
        assert [r.request for r in bench.refused] == [waits]
        bench.up("a", DeviceSpec("a/0", {"board": "y"}))
        bench.report("a/0")
        bench.want("board=y")
        assert len(bench.granted) == 1
        bench.want("board=x")
        assert [r.code for r in bench.refused] == [Refusal.UNSATISFIABLE]

    def test_who_waits_for_old_ones_is_refused(self, bench: Bench) -> None:
        bench.use()
        waits = bench.want("board=x")
        bench.up("a", DeviceSpec("a/0", {"board": "y"}))
        assert [(r.request, r.code) for r in bench.refused] == [(waits, Refusal.UNSATISFIABLE)]

    def test_a_device_is_named_by_its_name(self, bench: Bench) -> None:
        bench.up("b", DeviceSpec("b/0", {"name": "something else"}))
        assert [d.name for d in bench.book.devices("name=b/0")] == ["b/0"]


class TestTheTrackerItself:
    def test_after_a_pause_of_its_own_it_does_not_blame_agents(self, bench: Bench) -> None:
        given = bench.use(ttl=600.0)
        bench.now += 120.0  # stopped: what agents sent lies unread
        bench.tell(Tick())
        assert bench.ended == []
        bench.report("a/0", Occupancy.ACTIVE, epoch=given.epoch)
        assert view(bench).link is LinkState.UP

    def test_time_never_goes_back(self, bench: Bench) -> None:
        given = bench.use()
        bench.now = -50.0
        assert bench.renew(given) is Verdict.OK
        bench.now = 29.0
        bench.tell(bench.synced("a"))
        assert bench.ended == []

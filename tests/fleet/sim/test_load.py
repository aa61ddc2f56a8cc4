"""A book that is large or old is as quick, and no larger, than one that is neither."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from fleet_book import Bench

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.events import Event, GiveBack, Requested
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.sim.load import Rig, load


def calls(rig: Rig, events: Iterable[Event]) -> float:
    """Calls that an event takes on average, of Python's functions and of C's."""
    count = told = 0

    def watch(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    for event in events:
        sys.setprofile(watch)
        try:
            rig.tell(event)
        finally:
            sys.setprofile(before)
        told += 1
    return count / told


class TestSize:
    def test_an_event_costs_the_same_with_a_thousand_times_as_many(self) -> None:
        small, large = Rig(10, 10), Rig(10_000, 10_000)
        assert calls(large, large.events(100)) <= 1.3 * calls(small, small.events(100))

    def test_and_takes_about_as_long(self) -> None:
        small = min(load(10, 10, 500, time.perf_counter).us_per_event for _ in range(3))
        large = min(load(1_000, 3_000, 500, time.perf_counter).us_per_event for _ in range(3))
        assert large <= 8 * small  # a walk over all of them would be 100 times

    def test_with_as_many_selectors_as_devices_too(self) -> None:
        costs = []
        for devices in (20, 2_000):
            rig = Rig(devices, 0)
            for number in range(devices):
                name = f"h{number // 100}/cpu{number % 100}"
                rig.tell(
                    Requested(
                        request=f"n{number}",
                        client="c",
                        tenant="t",
                        asked=LeaseRequest(selector=f"name={name}", ttl_s=3000.0),
                    )
                )
            released = [GiveBack(lease, epoch, "c", who) for lease, _, epoch, who in rig.held]
            costs.append(calls(rig, released[:20]))
            assert len(rig.held) == devices + 20
        assert costs[1] <= 1.3 * costs[0]


class TestAge:
    def test_many_leases_leave_nothing_behind(self) -> None:
        young, old = aged(3_000), aged(30_000)
        assert young.counts.granted == 3_000
        assert old.counts.granted == 30_000
        assert entries(old) <= entries(young) + 1_100  # tenants are forgotten by the thousand


def aged(cycles: int) -> LeaseBook:
    """A book after so many leases, each of another client and tenant."""
    bench = Bench(BookConfig(remembered=100))
    bench.ready("a/0", "a/1")
    for number in range(cycles):
        bench.now += 0.01
        client, tenant = f"c{number}", f"t{number}"
        bench.tell(
            Requested(
                request=f"r{number}",
                client=client,
                tenant=tenant,
                asked=LeaseRequest(selector=f"name=a/{number % 2}"),
            )
        )
        (given,) = bench.given
        bench.tell(GiveBack(given.lease, given.epoch, client, tenant))
        if number % 100 == 0:
            bench.tell(bench.synced("a"))
            bench.seq["a"] += 1
    return bench.book


def entries(book: LeaseBook) -> int:
    """How many things all tables of a book hold, without those that hold what it was told first."""
    state = book._state
    return sum(
        len(table)
        for name in type(state).__slots__
        if hasattr(table := getattr(state, name), "__len__") and name != "timers"
    ) + len([one for one in state.timers if one[2].timer == one[0]])

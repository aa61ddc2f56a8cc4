"""A book that is large or old is as quick, and no larger, than one that is neither."""

from __future__ import annotations

import sys
import time

from fleet_book import Bench

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.events import GiveBack, Wanted
from loopwright.fleet.book.sim_load import Rig, load


def calls(devices: int, waiting: int) -> float:
    """Calls that an event of a lease cycle takes, of Python's functions and of C's."""
    rig, count, events = Rig(devices, waiting), 0, 0

    def watch(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    for event in rig.events(100):
        sys.setprofile(watch)
        rig.tell(event)
        sys.setprofile(None)
        events += 1
    return count / events


class TestSize:
    def test_an_event_costs_the_same_with_a_thousand_times_as_many(self) -> None:
        small, large = calls(10, 10), calls(10_000, 10_000)
        assert large <= 1.3 * small

    def test_and_takes_about_as_long(self) -> None:
        small = min(load(10, 10, 500, time.perf_counter).us_per_event for _ in range(3))
        large = min(load(1_000, 3_000, 500, time.perf_counter).us_per_event for _ in range(3))
        assert large <= 4 * small  # a walk over all of them would be 100 times

    def test_requests_with_ten_thousand_selectors_are_found_by_name(self) -> None:
        rig = Rig(2_000, 0)
        for number in range(2_000):
            name = f"h{number // 100}/cpu{number % 100}"
            rig.tell(Wanted(f"n{number}", "c", "t", f"name={name}", ttl_s=3000.0))
        begin = time.perf_counter()
        for lease, _, epoch, tenant in rig.held[:500]:
            rig.tell(GiveBack(lease, epoch, "c", tenant))
        assert time.perf_counter() - begin < 1.0
        assert len(rig.held) == 2_500


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
        bench.tell(Wanted(f"r{number}", client, tenant, f"name=a/{number % 2}"))
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

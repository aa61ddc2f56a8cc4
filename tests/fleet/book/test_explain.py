"""`explain` says why, in the situations that a person asks about."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fleet_book import Bench

from loopwright.fleet.book.config import BookConfig, TenantConfig
from loopwright.fleet.book.events import AgentDown, Cancelled, Revoked, StoreDown
from loopwright.fleet.words import Admin, Health, LeaseState, Occupancy


def three() -> Bench:
    bench = Bench()
    bench.ready("a/0", "b/0", "d/0")
    return bench


def leased(bench: Bench, *devices: str) -> None:
    for device in devices:
        bench.use(f"name={device}")


def quarantined(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.admin("d/0", Admin.MAINTENANCE, "canary +11 %")


def drifting(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.report("d/0", health=Health.DRIFT, drift=0.11)


def bad(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.report("d/0", health=Health.BAD)


def probing(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.report("d/0", health=Health.PROBING)


def unknown(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.report("d/0", health=Health.UNKNOWN)


def draining(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.admin("d/0", Admin.DRAIN)


def leased_then_draining(bench: Bench) -> None:
    leased(bench, "a/0", "b/0", "d/0")
    bench.admin("d/0", Admin.DRAIN, "new fan")


def cleaning(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    given = bench.use("name=d/0")
    bench.give_back(given)


def stuck(bench: Bench) -> None:
    cleaning(bench)
    bench.report("d/0", Occupancy.CLEANING, last=1)
    bench.wait(15.5)


def silent(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.tell(AgentDown("d", "1"))


def lost(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.tell(AgentDown("d", "1"))
    bench.wait(10.5, agents=False)


def registered(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.up("d", "d/0", incarnation="2")


def flap(bench: Bench) -> None:
    """Two agents take `d/0` from each other until it is flagged."""
    for turn in range(bench.config.flap_limit):
        bench.up("ed"[turn % 2], "d/0", incarnation=str(turn + 2))


def flapping(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    flap(bench)


def read_only(bench: Bench) -> None:
    leased(bench, "a/0", "b/0", "d/0")


def all_leased(bench: Bench) -> None:
    leased(bench, "a/0", "b/0", "d/0")


def unopened(bench: Bench) -> None:
    leased(bench, "a/0", "b/0")
    bench.get("name=d/0")


TWO = "3 match, 2 leased and free in <= 35 s"


class TestWaiting:
    @pytest.mark.parametrize(
        ("situation", "said"),
        [
            (all_leased, "3 match, 3 leased and free in <= 35 s"),
            (unopened, "3 match, 3 leased and free in <= 35 s"),
            (quarantined, f"{TWO}, 1 quarantined: canary +11 %"),
            (drifting, f"{TWO}, 1 drifting: canary +11 %"),
            (bad, f"{TWO}, 1 bad"),
            (probing, f"{TWO}, 1 being probed"),
            (unknown, f"{TWO}, 1 not probed yet"),
            (draining, f"{TWO}, 1 draining"),
            (leased_then_draining, f"{TWO}, 1 leased, then draining: new fan"),
            (cleaning, f"{TWO}, 1 cleaning"),
            (stuck, "3 match, 2 leased and free in <= 20 s, 1 stuck: not clean in time"),
            (silent, f"{TWO}, 1 silent"),
            (lost, "3 match, 2 leased and free in <= 25 s, 1 lost"),
            (registered, f"{TWO}, 1 not reported yet"),
            (flapping, f"{TWO}, 1 not reported yet, 1 flapping: two agents have d/0"),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_says_what_each_device_is_about(
        self, situation: Callable[[Bench], None], said: str
    ) -> None:
        bench = three()
        situation(bench)
        waits = bench.want()
        assert bench.explain(waits) == said
        assert bench.queued[0].why == said

    def test_figures_come_with_the_sentence(self) -> None:
        bench = three()
        leased(bench, "a/0", "b/0", "d/0")
        first, second = bench.want(), bench.want()
        found = bench.book.explain(second, 10.0)
        assert found is not None
        assert (found.state, found.matching, found.free, found.leased) == (
            LeaseState.QUEUED,
            3,
            0,
            3,
        )
        assert (found.free_within_s, found.ahead) == (25.0, 1)
        assert bench.book.explain(first, 10.0).ahead == 0  # type: ignore[union-attr]

    def test_one_device(self) -> None:
        bench = three()
        leased(bench, "a/0")
        assert bench.explain(bench.want("name=a/0")).startswith("1 matches, 1 leased")

    def test_a_quota(self) -> None:
        bench = Bench(BookConfig(tenants={"t": TenantConfig(max_live=1)}))
        bench.ready("a/0", "b/0")
        bench.get("name=a/0")
        said = bench.explain(bench.want("name=b/0"))
        assert said == "1 matches, 1 free; t holds 1 of the 1 it may"

    def test_a_gang(self) -> None:
        bench = three()
        leased(bench, "a/0")
        said = bench.explain(bench.want(count=3))
        assert said == "3 match, 2 free, 1 leased and free in <= 35 s; 3 are wanted at once"

    def test_a_store_that_cannot_be_written(self) -> None:
        bench = three()
        leased(bench, "a/0", "b/0", "d/0")
        waits = bench.want()
        bench.tell(StoreDown("disk full"))
        assert bench.explain(waits).endswith("; the tracker grants nothing now: disk full")

    def test_many_devices_are_counted_in_short(self) -> None:
        bench = Bench()
        bench.ready(*(f"a/{n}" for n in range(20)))
        for n in range(20):
            bench.get(f"name=a/{n}")
        bench.want("board=x")
        assert bench.queued[0].why == "20 match, none free"
        assert bench.explain("r21") == "20 match, 20 leased and free in <= 35 s"

    def test_epochs_that_are_not_reserved_yet(self) -> None:
        bench = Bench(store=False)
        bench.ready("a/0")
        said = bench.explain(bench.want())
        assert said == "1 matches, 1 short of epochs: the store is asked for more"


class TestLeases:
    def test_one_that_is_to_be_opened(self) -> None:
        bench = three()
        given = bench.get("name=a/0")
        bench.now = 4.0
        assert bench.explain(given.lease) == "on a/0, to be opened within 6 s"

    def test_one_of_a_device_that_two_agents_have(self) -> None:
        bench = three()
        flap(bench)
        bench.report_of("e", "d/0")
        given = bench.get("name=d/0")
        said = bench.explain(given.lease)
        assert said.endswith("; d/0 is flapping: two agents have it")

    def test_one_in_use(self) -> None:
        bench = three()
        given = bench.use("name=a/0")
        bench.now = 4.0
        assert bench.explain(given.lease) == "on a/0, for 26 s unless renewed"

    def test_one_that_is_asked_to_yield(self) -> None:
        bench = three()
        leased(bench, "b/0", "d/0")
        given = bench.use("name=a/0", priority=0)
        bench.want("name=a/0", priority=3)
        bench.renew(given)
        assert bench.explain(given.lease) == "on a/0, asked to yield within 10 s"

    def test_one_whose_device_is_not_clean_yet(self) -> None:
        bench = three()
        given = bench.use("name=a/0")
        bench.give_back(given)
        assert bench.explain(given.lease) == "ended: released; a/0 is not clean yet"

    def test_one_that_was_taken_away(self) -> None:
        bench = three()
        given = bench.get("name=a/0")
        bench.tell(Revoked(given.lease, "ann", "demo at noon"))
        assert bench.explain(given.lease) == "ended: revoked, by ann: demo at noon"

    def test_one_that_ended_by_itself(self) -> None:
        bench = three()
        given = bench.get("name=a/0")
        bench.wait(11.0)
        said = bench.explain(given.lease)
        assert said == "ended: open-timeout, no session within 10 s of the grant"


class TestRequests:
    def test_one_that_was_granted(self) -> None:
        bench = three()
        request = bench.want("name=a/0")
        lease = bench.given[0].lease
        assert bench.explain(request) == f"granted: {lease} on a/0"

    def test_one_that_is_over(self) -> None:
        bench = three()
        leased(bench, "a/0")
        waits = bench.want("name=a/0")
        bench.tell(Cancelled(waits, "c"))
        assert bench.explain(waits) == "over: cancelled, its client or an operator took it back"

    def test_one_that_waited_in_vain(self) -> None:
        bench = three()
        leased(bench, "a/0")
        waits = bench.want("name=a/0", max_wait=3.0)
        bench.wait(3.5)
        assert bench.explain(waits).startswith("over: max-wait, no device was free within the wait")

    def test_one_that_is_not_known(self) -> None:
        assert three().book.explain("nothing", 0.0) is None

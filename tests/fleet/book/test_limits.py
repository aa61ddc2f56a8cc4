"""What a request may ask for, by the role of who asks and by the tenant."""

from __future__ import annotations

import math

import pytest
from fleet_book import Bench
from msgspec.structs import replace

from loopwright.fleet.book.config import BookConfig, LeaseLimits, TenantConfig
from loopwright.fleet.book.effects import EndLease, TellRenewed
from loopwright.fleet.book.events import GiveBack, LeaseRow, Requested, Restored
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.words import EndReason, Priority, Refusal, Role, Verdict

LIMITS = BookConfig(
    roles={Role.USER: LeaseLimits(max_class=Priority.INTERACTIVE, max_ttl_s=60.0)},
    tenants={
        "ci": TenantConfig(
            limits=LeaseLimits(max_class=Priority.BATCH, max_ttl_s=90.0, max_lease_s=100.0)
        )
    },
)


def ask(
    bench: Bench, role: Role, *, tenant: str = "t", priority: int = 1, ttl_s: float = 30.0
) -> list[tuple[Refusal, str]]:
    """What a request is refused with."""
    bench.asked += 1
    asked = LeaseRequest(priority=priority, ttl_s=ttl_s)
    bench.tell(Requested(f"r{bench.asked}", "c", tenant, asked, role=role))
    return [(told.code, told.detail) for told in bench.refused]


@pytest.fixture
def bench() -> Bench:
    bench = Bench(LIMITS)
    bench.ready("a/0")
    return bench


def test_by_default_a_user_takes_no_device_from_others_by_its_class() -> None:
    bench = Bench()
    bench.ready("a/0")
    given = bench.use(priority=1)
    for priority in (Priority.INTERACTIVE, Priority.URGENT):
        ((code, detail),) = ask(bench, Role.USER, priority=priority)
        assert code is Refusal.FORBIDDEN
        assert detail == (
            f"class {priority.name.lower()} is above normal, the most that role user may ask for "
            "(max_class)"
        )
    assert bench.renew(given) is Verdict.OK
    assert ask(bench, Role.USER, priority=Priority.NORMAL) == []
    assert ask(bench, Role.OPERATOR, priority=Priority.URGENT) == []
    assert bench.renew(given) is Verdict.YIELD_PLEASE


@pytest.mark.parametrize(
    ("role", "tenant", "priority", "ttl_s", "words"),
    [
        (Role.USER, "t", 3, 30.0, "class urgent is above interactive, the most that role user may"),
        (Role.USER, "ci", 1, 30.0, "class normal is above batch, the most that tenant ci may"),
        (Role.ADMIN, "ci", 1, 30.0, "class normal is above batch, the most that tenant ci may"),
        (Role.USER, "t", 1, 60.5, "a ttl of 60.5 s is above 60 s, the most that role user may"),
        (Role.ADMIN, "ci", 0, 91.0, "a ttl of 91 s is above 90 s, the most that tenant ci may"),
    ],
)
def test_what_is_above_a_limit_is_refused_with_its_name(
    bench: Bench, role: Role, tenant: str, priority: int, ttl_s: float, words: str
) -> None:
    ((code, detail),) = ask(bench, role, tenant=tenant, priority=priority, ttl_s=ttl_s)
    assert code is Refusal.FORBIDDEN
    assert detail.startswith(words)
    assert bench.book.leases() == ()


@pytest.mark.parametrize(
    ("role", "tenant", "priority", "ttl_s"),
    [(Role.USER, "t", 2, 60.0), (Role.ADMIN, "ci", 0, 90.0), (Role.OPERATOR, "t", 3, 3600.0)],
)
def test_what_is_at_its_limits_is_served(
    bench: Bench, role: Role, tenant: str, priority: int, ttl_s: float
) -> None:
    assert ask(bench, role, tenant=tenant, priority=priority, ttl_s=ttl_s) == []
    assert len(bench.given) == 1


class TestLeaseTime:
    def test_a_lease_ends_when_its_time_is_over_though_it_is_renewed(self, bench: Bench) -> None:
        given = bench.use(tenant="ci", priority=0, ttl=40.0)
        verdicts = []
        for _ in range(4):
            bench.wait(20.0)
            verdicts.append(bench.renew(given, tenant="ci"))
        assert verdicts == [Verdict.OK, Verdict.OK, Verdict.YIELD_PLEASE, Verdict.YIELD_PLEASE]
        told = bench.said(TellRenewed)[0]
        assert (told.ttl_s, told.reason) == (pytest.approx(20.0), EndReason.EXPIRED)
        assert told.why == "held for 100 s, the most that tenant ci may (max_lease_s)"
        bench.wait(19.9)
        assert bench.ended == []
        bench.wait(0.2)
        (end,) = bench.said(EndLease)
        assert (end.reason, end.detail) == (EndReason.EXPIRED, told.why)

    def test_its_ttl_is_not_longer_than_that(self, bench: Bench) -> None:
        given = bench.get(tenant="ci", priority=0, ttl=90.0)
        assert given.ttl_s == 90.0
        assert bench.book.leases()[0].ends_s == pytest.approx(100.0)
        short = Bench(BookConfig(tenant=TenantConfig(limits=LeaseLimits(max_lease_s=10.0))))
        short.ready("a/0")
        assert short.get(ttl=30.0).ttl_s == 10.0

    def test_a_holder_that_stops_in_time_says_why(self, bench: Bench) -> None:
        given = bench.use(tenant="ci", priority=0, ttl=90.0)
        bench.wait(30.0)
        bench.renew(given, tenant="ci")
        bench.tell(GiveBack(given.lease, given.epoch, "c", "ci", EndReason.EXPIRED))
        (end,) = bench.said(EndLease)
        assert end.detail == "held for 100 s, the most that tenant ci may (max_lease_s)"

    def test_it_counts_anew_after_a_restart_for_the_role_that_the_store_has(self) -> None:
        config = BookConfig(roles={Role.USER: LeaseLimits(max_lease_s=50.0)})
        row = LeaseRow(
            lease="old",
            request="r",
            device="a/0",
            agent="a",
            incarnation="1",
            epoch=7,
            client="c",
            tenant="t",
            selector="",
            ttl_s=30.0,
            priority=1,
            tags={},
        )
        for role, ends_s in ((Role.ADMIN, None), (Role.USER, 50.0)):
            bench = Bench(config)
            bench.tell(Restored((replace(row, role=role),), ()))
            assert bench.book.leases()[0].ends_s == ends_s

    def test_without_a_limit_it_is_held_for_as_long_as_it_is_renewed(self, bench: Bench) -> None:
        given = bench.use(ttl=60.0)
        for _ in range(100):
            bench.wait(50.0)
            assert bench.renew(given) is Verdict.OK
        assert bench.book.leases()[0].ends_s is None


def test_of_two_limits_the_lower_counts() -> None:
    config = BookConfig(
        roles={Role.USER: LeaseLimits(max_lease_s=50.0)},
        tenant=TenantConfig(limits=LeaseLimits(max_lease_s=80.0)),
    )
    found = [limits.max_lease_s for limits in config.limits(Role.USER, "t")]
    assert found == [50.0, 80.0]
    assert [limits.max_lease_s for limits in config.limits(Role.ADMIN, "t")] == [math.inf, 80.0]
    bench = Bench(config)
    bench.ready("a/0")
    assert ask(bench, Role.USER) == []
    assert bench.book.leases()[0].ends_s == pytest.approx(50.0)

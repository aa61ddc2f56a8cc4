"""What every TrackerStore does: in memory, in SQLite, in PostgreSQL."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from loopwright.fleet.book.effects import EndLease, ReserveEpochs, SaveDevice, SaveLease
from loopwright.fleet.book.events import DeviceRow, LeaseRow
from loopwright.fleet.security.tokens import CodeRow, Principal, TokenRow
from loopwright.fleet.store.memory import MemoryRows, MemoryStore
from loopwright.fleet.store.rows import (
    ENDED,
    AgentRow,
    AuditEvent,
    ChangeBatch,
    JoinRow,
    StoreContents,
    StoreError,
    StoreFencedError,
    TrackerStore,
)
from loopwright.fleet.store.sql import SqlTrackerStore
from loopwright.fleet.words import Admin, EndReason, Role

Opener = Callable[[], TrackerStore]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def opener(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opener]:
    """Opens the same data again each time, as a tracker does that starts again."""
    opened: list[TrackerStore] = []
    rows = MemoryRows()
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('store')}/tracker.db"
    elif request.param == "postgresql":
        url = request.getfixturevalue("postgres").fresh()

    def open_it() -> TrackerStore:
        if request.param == "memory":
            opened.append(MemoryStore(rows, keep_events=100))
        else:
            opened.append(SqlTrackerStore(url, keep_events=100))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


def lease(name: str = "l1", epoch: int = 7) -> LeaseRow:
    tags = {"wl": "conv2d"}
    return LeaseRow(
        lease=name,
        request="r1",
        device="pi/cpu0",
        agent="pi",
        incarnation="inc",
        epoch=epoch,
        client="bob#1.1",
        tenant="team",
        selector="board=rpi4",
        ttl_s=30.0,
        priority=1,
        tags=tags,
    )


def ended(name: str) -> EndLease:
    return EndLease(
        lease=name, device="pi/cpu0", tenant="team", epoch=7, reason=EndReason.RELEASED, detail=""
    )


AGENT = AgentRow("pi", b"\x00k" * 16, {"board": "rpi4"})
BOB = Principal("bob", "team", Role.OPERATOR, frozenset({"lab", "attic"}))
TOKEN = TokenRow("t1", b"\x00h" * 16, BOB, 1e9)
FOREVER = TokenRow("t2", b"i" * 32, BOB)
JOIN = JoinRow(CodeRow("j1", b"j" * 32, 5.5, "pi", used=True), {"pool": "lab"}, "pi")


def test_a_new_store_is_empty(opener: Opener) -> None:
    store = opener()
    assert store.begin() == 1
    assert store.load() == StoreContents()
    assert store.events(0, 10) == ()


def test_what_was_committed_is_there_after_opening_again(opener: Opener) -> None:
    store = opener()
    store.begin()
    store.commit(
        ChangeBatch(
            [
                SaveLease(lease()),
                *(AGENT, TOKEN, FOREVER, JOIN),
                SaveDevice(DeviceRow("d", 9, Admin.DRAIN, "hot")),
            ]
        )
    )
    store.close()
    kept = opener().load()
    assert kept.leases == (lease(),)
    assert kept.agents == (AGENT,)
    assert kept.tokens == (TOKEN, FOREVER)
    assert kept.joins == (JOIN,)
    assert kept.devices == (DeviceRow("d", 9, Admin.DRAIN, "hot"),)


def test_the_last_change_of_a_row_counts(opener: Opener) -> None:
    store = opener()
    store.begin()
    store.commit(ChangeBatch([SaveLease(lease()), SaveLease(lease(epoch=8)), TOKEN]))
    store.commit(ChangeBatch([dataclasses.replace(TOKEN, revoked=True)]))
    kept = store.load()
    assert [row.epoch for row in kept.leases] == [8]
    assert [row.revoked for row in kept.tokens] == [True]


@pytest.mark.parametrize("together", [True, False])
def test_an_ended_lease_is_forgotten(opener: Opener, together: bool) -> None:
    store = opener()
    store.begin()
    changes = [SaveLease(lease("l1")), SaveLease(lease("l2")), ended("l1")]
    batches = [ChangeBatch(changes)] if together else [ChangeBatch([change]) for change in changes]
    for batch in batches:
        store.commit(batch)
    assert [row.lease for row in store.load().leases] == ["l2"]


def test_epochs_never_go_back(opener: Opener) -> None:
    store = opener()
    store.begin()
    store.commit(ChangeBatch([ReserveEpochs("d", 2000)]))
    store.commit(ChangeBatch([ReserveEpochs("d", 1000)]))
    store.commit(ChangeBatch([SaveDevice(DeviceRow("d", 0, Admin.MAINTENANCE, "fan"))]))
    assert store.load().devices == (DeviceRow("d", 2000, Admin.MAINTENANCE, "fan"),)


def test_reserving_epochs_keeps_what_people_want_of_the_device(opener: Opener) -> None:
    store = opener()
    store.begin()
    store.commit(ChangeBatch([SaveDevice(DeviceRow("d", 0, Admin.DRAIN, "moving"))]))
    store.commit(ChangeBatch([ReserveEpochs("d", 1000)]))
    assert store.load().devices == (DeviceRow("d", 1000, Admin.DRAIN, "moving"),)


def test_each_start_has_a_higher_epoch(opener: Opener) -> None:
    assert [opener().begin() for _ in range(3)] == [1, 2, 3]


def test_only_the_newest_tracker_may_write(opener: Opener) -> None:
    old, new = opener(), opener()
    old.begin()
    new.begin()
    with pytest.raises(StoreFencedError, match=r"tracker 2 has begun on .* after tracker 1"):
        old.commit(ChangeBatch([SaveLease(lease())]))
    new.commit(ChangeBatch([SaveLease(lease("l2"))]))
    assert [row.lease for row in new.load().leases] == ["l2"]


def test_a_store_that_was_not_begun_does_not_write(opener: Opener) -> None:
    with pytest.raises(StoreError, match=r"not begun|not reopened"):
        opener().commit(ChangeBatch([SaveLease(lease())]))


def test_a_reopened_store_goes_on(opener: Opener) -> None:
    store = opener()
    store.begin()
    store.commit(ChangeBatch([SaveLease(lease())]))
    store.reopen()
    store.commit(ChangeBatch([SaveLease(lease("l2"))]))
    assert {row.lease for row in store.load().leases} == {"l1", "l2"}


def event(number: int) -> AuditEvent:
    return AuditEvent(float(number), "lease.end", f"l{number}", "bob", "released")


def test_the_log_is_read_in_pages(opener: Opener) -> None:
    store = opener()
    store.begin()
    store.commit(ChangeBatch([event(n) for n in range(10)]))
    first = store.events(0, 6)
    rest = store.events(first[-1].id, 6)
    assert [logged.event for logged in first + rest] == [event(n) for n in range(10)]


def test_the_log_is_pruned_to_its_newest(opener: Opener) -> None:
    store = opener()
    store.begin()
    for start in range(0, 400, 20):
        store.commit(ChangeBatch([event(n) for n in range(start, start + 20)]))
    kept = [logged.event for logged in store.events(0, 1000)]
    assert 100 <= len(kept) < 220
    assert kept == [event(n) for n in range(400 - len(kept), 400)]


def test_a_device_is_forgotten_until_it_is_back_and_its_epochs_stay(opener: Opener) -> None:
    store = opener()
    store.begin()
    gone = DeviceRow("pi/cpu0", 2000, Admin.MAINTENANCE, "fan", forgotten=True)
    store.commit(ChangeBatch([ReserveEpochs("pi/cpu0", 1000), ReserveEpochs("pi/cpu1", 1000)]))
    store.commit(ChangeBatch([SaveDevice(gone)]))
    store.commit(ChangeBatch([SaveDevice(gone), ReserveEpochs("pi/cpu1", 2000)]))
    store = opener()
    store.begin()
    there = DeviceRow("pi/cpu1", 2000, Admin.ENABLED)
    assert sorted(store.load().devices, key=lambda row: row.device) == [gone, there]
    back = DeviceRow("pi/cpu0", 2000, Admin.MAINTENANCE, "fan")
    store.commit(ChangeBatch([SaveDevice(back), ReserveEpochs("pi/cpu0", 3000)]))
    known = {row.device: row for row in opener().load().devices}
    assert known["pi/cpu0"] == DeviceRow("pi/cpu0", 3000, Admin.MAINTENANCE, "fan")


def test_the_last_ends_of_leases_are_read_from_the_log(opener: Opener) -> None:
    store = opener()
    store.begin()
    ends = [AuditEvent(float(n), ENDED, f"l{n}", detail="pi epoch 1: released") for n in range(3)]
    others = [AuditEvent(9.0, "lease-unknown", "l7"), AuditEvent(9.5, "admin", "pi/cpu0")]
    store.commit(ChangeBatch([ends[0], others[0], ends[1], others[1], ends[2]]))
    assert opener().load().ended == tuple(ends)

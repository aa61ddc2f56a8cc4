"""Trackers that start again: with a thousand devices, or from a backup of another machine."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fault_tuner import Book, Tuning, leases_of
from fleet_faults import Site, until
from fleet_lab import WAIT_S, Lab, well

from loopwright.fleet.request import LeaseRequest

TRIALS = 8
HOSTS, DEVICES = 20, 50
HELD, LATE = 20, 60


def test_a_thousand_devices_are_granted_again_when_the_tracker_is_back(lab: Lab) -> None:
    for number in range(HOSTS):
        lab.agent(f"h{number}", well, devices=DEVICES)
    fleet = lab.client()
    until(lambda: fleet.status()["free"] == HOSTS * DEVICES, "a thousand devices")
    held = [fleet.lease("board=sim", ttl=120.0) for _ in range(HELD)]
    lab.run(lab.end())
    wish = LeaseRequest(selector="board=sim", ttl_s=120.0, max_wait_s=WAIT_S)
    late = [lab.thread.start(fleet.aio.acquire(wish)) for _ in range(LATE)]
    lab.run(lab.begin())
    granted = [future.result(WAIT_S)[0] for future in late]
    for lease in held:
        lease.check()
    devices = [lease.devices[0].name for lease in held] + [g.device.name for g in granted]
    assert len(set(devices)) == HELD + LATE
    free = HOSTS * DEVICES - HELD - LATE
    until(lambda: fleet.status()["free"] == free, "all others are free")
    assert {lease.id for lease in fleet.leases()} == {g.id for g in granted} | {h.id for h in held}


def back_up(site: Site, path: Path) -> None:
    """What an operator copies each night."""
    with (
        closing(sqlite3.connect(site.folder / "tracker.db")) as store,
        closing(sqlite3.connect(path)) as copy,
    ):
        store.backup(copy)


def restore(site: Site, path: Path) -> None:
    """Have the tracker's machine be another, with what was copied."""
    for old in site.folder.glob("tracker.db*"):
        old.unlink()
    path.rename(site.folder / "tracker.db")


def test_a_tracker_that_is_restored_from_a_backup_grants_higher_epochs_and_no_result_is_lost(
    site: Site, records: Book, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    back_up(site, copy)
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            site.kill_tracker()
            restore(site, copy)
            site.start_tracker()
            until(lambda: not fleet.aio._held, "the lease that the backup has not is over")
        found = records.check(TRIALS)
    first, second = leases_of(found)
    epochs = [r.provenance.epoch for r in found if r.provenance is not None]
    assert epochs == sorted(epochs)
    assert epochs[-1] > epochs[0]
    # Of the first one only the device and its holder knew: where the holder gives it up before
    # the device is heard, the log has no end of it. `ended` sees to it that each ends once.
    assert site.ended([second]) == ["released"]
    assert site.ends().get(first, "revoked") == "revoked"


def test_each_lease_that_a_backup_or_a_device_has_ends_once(site: Site, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"

    def active(name: str) -> None:
        until(lambda: site.device(name).occupancy == "active", f"a session of {name}")

    with site.client() as fleet:
        with fleet.lease("board=two", max_wait=WAIT_S) as kept, kept.session():
            active("two")
            with fleet.lease("board=one", max_wait=WAIT_S) as over, over.session():
                active("one")
                back_up(site, copy)
            assert site.ended([over.id]) == ["released"]
            with fleet.lease("board=one", max_wait=WAIT_S) as later, later.session():
                active("one")
                site.kill_tracker()
                restore(site, copy)
                site.start_tracker()
                assert site.ended([over.id]) == ["device-lost"]
                until(lambda: later.id not in site.live(), "the end of what the backup has not")
                assert site.ends().get(later.id, "revoked") == "revoked"  # as above
            assert site.live() == {kept.id}
        assert site.ended([kept.id]) == ["released"]
    for name in ("one", "two"):
        site.await_agent(name)

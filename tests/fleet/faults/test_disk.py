"""Disks that are full or fail, of the tracker and of a device."""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_tuner import Book, Tuning, leases_of
from fleet_faults import Site, until

from loopwright.errors import FleetError
from loopwright.fleet.agent.blobs import BlobCache, BlobError, Uploads
from loopwright.fleet.client.api import Fleet

TRIALS = 8
TTL_S = 4.5
KB = 1024


@contextmanager
def no_file_over(pid: int, nbytes: int) -> Iterator[None]:
    """Have a process find the disk full where a file would become larger."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def read_only(owner: Fleet) -> str:
    """Why the tracker cannot write, if it cannot."""
    return str(owner.status()["read_only"])


def refuses_grants_and_keeps_leases(site: Site, fleet: Fleet, words: str) -> None:
    """What a tracker does whose store cannot be written; it has just become so."""
    with site.owner() as owner:
        with pytest.raises(FleetError, match=words):
            owner.command("token.issue", name="nobody")
        until(lambda: read_only(owner), "the alarm")
        with pytest.raises(FleetError, match=words):
            fleet.lease("board=two", max_wait=0.0)
        renewed = int(str(owner.status()["renewed"]))
        until(lambda: int(str(owner.status()["renewed"])) > renewed, "a renewal")


def test_a_full_disk_of_the_tracker_stops_grants_and_neither_renewals_nor_releases(
    site: Site, records: Book
) -> None:
    assert site.tracker is not None
    full = max(path.stat().st_size for path in site.folder.glob("tracker.db*"))
    with site.client() as fleet:
        second = fleet.lease("board=two")
        with Tuning(fleet, "board=one", records, TRIALS, TTL_S) as tuning:
            tuning.wait()
            with no_file_over(site.tracker.pid, full):
                refuses_grants_and_keeps_leases(site, fleet, "disk|full|written")
                second.close()
                until(lambda: second.id not in site.live(), "the release")
                tuning.work()
            with site.owner() as owner:
                until(lambda: not read_only(owner), "the end of the alarm")
                made = owner.command("token.issue", name="somebody")
        leases = leases_of(records.check(TRIALS))
        assert len(leases) == 1
    assert site.ended([*leases, second.id]) == ["released", "released"]
    site.kill_tracker()
    site.start_tracker()
    with site.owner() as owner:
        assert isinstance(made, dict)
        assert made["id"] in str(owner.command("token.ls"))
    assert site.ended([*leases, second.id]) == ["released", "released"]


def test_an_fsync_that_fails_stops_grants_until_the_store_was_opened_again(
    site: Site, records: Book
) -> None:
    if not site.tracker_environment:
        pytest.skip("making fsync fail needs a C compiler")
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS, TTL_S) as tuning:
            tuning.wait()
            site.broken.touch()
            refuses_grants_and_keeps_leases(site, fleet, "tracker.db")
            site.broken.unlink()
            with site.owner() as owner:
                until(lambda: not read_only(owner), "the end of the alarm")
                assert int(str(owner.status()["store_failures"])) > 0
        leases = leases_of(records.check(TRIALS))
        with fleet.lease("board=two", max_wait=60.0) as later:
            assert later.id not in leases
    assert site.ended([*leases, later.id]) == ["released", "released"]


def test_a_full_disk_of_a_device_refuses_an_upload_and_the_session_goes_on(site: Site) -> None:
    data = bytes(range(256)) * (64 * KB // 256)
    with site.client() as fleet, fleet.lease("board=one") as lease, lease.session() as session:
        with (
            no_file_over(site.agents["one"].pid, KB),
            pytest.raises(FleetError, match="the disk of the device is full"),
        ):
            session.upload([data])
        assert session.upload([data]) == len(data)
    assert site.ended([lease.id]) == ["released"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a megabyte of room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount") or "mount"
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_of_a_device_costs_the_uploads_that_nobody_uses(small_disk: Path) -> None:
    blobs = BlobCache(small_disk, quota=1 << 30, largest=1 << 20)
    uploads = Uploads(blobs)
    datas = [bytes([number]) * (300 * KB) for number in range(4)]
    digests = [hashlib.sha256(data).digest() for data in datas]
    for digest, data in zip(digests[:3], datas[:3], strict=True):
        assert uploads.put(digest, 0, len(data), data)
    blobs.pin(digests[0])
    assert uploads.put(digests[3], 0, len(datas[3]), datas[3])
    assert [blobs.has(digest) for digest in digests] == [True, False, True, True]
    assert blobs.read(digests[3]) == datas[3]
    for digest in digests[2:]:
        blobs.pin(digest)
    with pytest.raises(BlobError, match="the disk of the device is full") as refused:
        uploads.put(digests[1], 0, len(datas[1]), datas[1])
    assert refused.value.code == "disk-full"
    assert [blobs.has(digest) for digest in digests] == [True, False, True, True]

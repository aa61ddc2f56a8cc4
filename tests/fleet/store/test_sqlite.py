"""What is SQLite's own: the file, and what is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from loopwright.errors import ConfigError
from loopwright.fleet.book.effects import ReserveEpochs, SaveDevice, SaveLease
from loopwright.fleet.book.events import LeaseRow
from loopwright.fleet.store.memory import MemoryStore
from loopwright.fleet.store.rows import (
    AgentRow,
    AuditEvent,
    ChangeBatch,
    Pace,
    StoreBusyError,
    StoreError,
)
from loopwright.fleet.store.sql import SqlTrackerStore, open_store


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tracker.db"


def test_only_the_owner_reads_the_file_and_its_log(path: Path) -> None:
    store = SqlTrackerStore(url_of(path))
    store.begin()
    store.commit(ChangeBatch([AgentRow("pi", b"k" * 32)]))
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    store.close()
    assert "tracker.db-wal" in modes
    assert set(modes.values()) == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    SqlTrackerStore(url_of(path)).close()
    path.chmod(0o644)
    SqlTrackerStore(url_of(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_before_gets_the_columns_that_came_since(path: Path) -> None:
    with closing(SqlTrackerStore(url_of(path))) as store:
        store.begin()
        store.commit(ChangeBatch([leased(1)]))
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("ALTER TABLE leases DROP COLUMN token")
        raw.commit()
    with closing(SqlTrackerStore(url_of(path))) as store:
        store.begin()
        assert store.load().leases == (leased(1).row,)
        token = replace(leased(1).row, token="t1")
        store.commit(ChangeBatch([SaveLease(replace(token, lease="l2"))]))
        assert {row.token for row in store.load().leases} == {"", "t1"}


def test_a_tracker_of_before_can_write_into_a_file_of_now(path: Path) -> None:
    SqlTrackerStore(url_of(path)).close()
    with closing(sqlite3.connect(path)) as raw:
        names = "lease, request, device, agent, incarnation, epoch, client, tenant, selector, "
        names += "ttl_s, priority, tags"
        values = ("l", "r", "a/0", "a", "1", 1, "c", "t", "", 30.0, 1, "{}")
        raw.execute(f"INSERT INTO leases ({names}) VALUES ({','.join('?' * 12)})", values)
        raw.commit()
    with closing(SqlTrackerStore(url_of(path))) as store:
        assert [row.token for row in store.load().leases] == [""]


def leased(number: int) -> SaveLease:
    name = f"l1.{number}"
    return SaveLease(
        LeaseRow(
            lease=name,
            request="r",
            device="pi/cpu0",
            agent="pi",
            incarnation="boot",
            epoch=number + 1,
            client="c",
            tenant="t",
            selector="kind=cpu",
            ttl_s=30.0,
            priority=0,
            tags={},
        )
    )


def filled(store: SqlTrackerStore) -> int:
    """How many leases were committed until the log is to go into the file."""
    number = 0
    while store.pace(ChangeBatch()) is Pace.PROMPT:
        store.commit(ChangeBatch(leased(number + n) for n in range(1000)), wait=False)
        number += 1000
    return number


def test_only_what_must_survive_a_loss_of_power_waits_for_the_disk(path: Path) -> None:
    store = SqlTrackerStore(url_of(path))
    store.begin()
    assert store.pace(ChangeBatch([leased(0), AuditEvent(1.0, "did", "this")])) is Pace.PROMPT
    assert store.pace(ChangeBatch([leased(0), ReserveEpochs("pi/cpu0", 1000)])) is Pace.SLOW
    assert store.pace(ChangeBatch([AgentRow("pi", b"k" * 32)])) is Pace.SLOW
    store.close()


def test_the_log_goes_into_the_file_now_and_then(path: Path) -> None:
    store = SqlTrackerStore(url_of(path))
    store.begin()
    number = filled(store)
    before = path.stat().st_size
    store.commit(ChangeBatch([leased(number)]))
    assert path.stat().st_size > before + 40 * number
    assert store.pace(ChangeBatch()) is Pace.PROMPT
    store.commit(ChangeBatch([leased(number + 1)]), wait=False)
    log = path.with_name("tracker.db-wal")
    size = log.stat().st_size
    store.commit(ChangeBatch([leased(number + 2)]), wait=False)
    assert log.stat().st_size == size  # it began anew
    assert len(store.load().leases) == number + 3
    store.close()


def test_a_commit_that_would_not_wait_is_refused_while_another_process_writes(path: Path) -> None:
    store = SqlTrackerStore(url_of(path), busy_s=0.01)
    store.begin()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        store.commit(ChangeBatch([leased(0)]), wait=False)
    other.execute("ROLLBACK")
    other.close()
    store.commit(ChangeBatch([leased(0)]), wait=False)  # it need not be reopened
    assert [row.lease for row in store.load().leases] == ["l1.0"]
    store.close()


def test_the_log_goes_into_the_file_when_another_process_has_written(path: Path) -> None:
    store = SqlTrackerStore(url_of(path))
    store.begin()
    number = filled(store)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    rest = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    rest.start()
    store.commit(ChangeBatch([leased(number)]))
    rest.join()
    other.close()
    assert len(store.load().leases) == number + 1
    store.close()


def refused(path: Path, match: str) -> None:
    """The store is refused in one line and left as it is."""
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=match) as caught:
        SqlTrackerStore(url_of(path))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("devices:\n- pi\n" * 100)
    refused(path, "is not a database; name another file")


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE albums (id INTEGER)")
    connection.close()
    refused(path, "a database of something else .*table albums.*name another one")


def test_a_records_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE loopwright_meta (name TEXT, value TEXT)")
        connection.execute(
            "INSERT INTO loopwright_meta VALUES ('application', 'loopwright-records')"
        )
    connection.close()
    refused(path, "something else .*loopwright-records")


def test_another_version_is_refused(path: Path) -> None:
    SqlTrackerStore(url_of(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE loopwright_meta SET value = '99' WHERE name = 'schema'")
    connection.close()
    refused(path, "another version .*99, here it is 1")


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_a_damaged_file_is_refused(path: Path, where: float) -> None:
    store = SqlTrackerStore(url_of(path))
    store.begin()
    store.commit(
        ChangeBatch([AgentRow(f"agent-{n}", b"k" * 32, {"n": "x" * 200}) for n in range(400)])
    )
    store.close()
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * where) // 4096 * 4096)
        file.write(b"\xff" * 4096)
    refused(path, "is damaged .*restore a copy")


def test_a_cut_file_is_refused(path: Path) -> None:
    store = SqlTrackerStore(url_of(path))
    store.begin()
    store.commit(ChangeBatch([AgentRow(f"agent-{n}", b"k" * 32) for n in range(400)]))
    store.close()
    os.truncate(path, path.stat().st_size // 2 + 100)
    refused(path, "is damaged")


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("tracker.db", "is not a URL; write sqlite:///FILE"),
        ("mysql://h/x", "databases of 'mysql' are not supported"),
        ("sqlite://", "memory:"),
        ("sqlite:////nonexistent/folder/x.db", "there is no folder /nonexistent/folder"),
        ("sqlite:////tmp", "is a folder"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        SqlTrackerStore(url)


def test_memory_is_a_store_without_a_file() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


_WRITER = """
import os, sys
from loopwright.fleet.book.effects import ReserveEpochs, SaveLease
from loopwright.fleet.book.events import LeaseRow
from loopwright.fleet.store.rows import ChangeBatch
from loopwright.fleet.store.sql import SqlTrackerStore
store = SqlTrackerStore(sys.argv[1])
store.begin()
for n in range(1, 10**9):
    store.commit(ChangeBatch([ReserveEpochs("d", n)]))
    os.write(1, b"%d\\n" % n)
"""


def test_a_killed_writer_loses_nothing_that_it_committed(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, url_of(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer, writer.stdout:
        said = [int(writer.stdout.readline()) for _ in range(50)]
        writer.kill()
        said += [
            int(line) for line in writer.stdout.read().splitlines(keepends=True) if line[-1] == "\n"
        ]
    store = SqlTrackerStore(url_of(path))
    (device,) = store.load().devices
    store.close()
    assert device.epochs >= said[-1] >= 50


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_commits_and_later_goes_on(small_disk: Path) -> None:
    store = SqlTrackerStore(url_of(small_disk / "tracker.db"))
    store.begin()
    store.commit(ChangeBatch([ReserveEpochs("d", 1000)]))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"x" * (1 << 20))
    big = ChangeBatch([AuditEvent(1.0, "x", "y", detail="z" * 4000) for _ in range(40)])
    with pytest.raises(StoreError, match="disk is full; free some space"):
        store.commit(big)
    with pytest.raises(StoreError, match="was not reopened"):
        store.commit(big)
    filler.unlink()
    store.reopen()
    store.commit(ChangeBatch([ReserveEpochs("d", 2000)]))
    assert [row.epochs for row in store.load().devices] == [2000]
    assert store.events(0, 10) == ()
    store.close()


def test_another_writer_is_waited_for_no_longer_than_said(path: Path) -> None:
    store = SqlTrackerStore(url_of(path), busy_s=0.05)
    store.begin()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another process"):
        store.commit(ChangeBatch([ReserveEpochs("d", 1)]))
    other.execute("ROLLBACK")
    other.close()
    store.reopen()
    store.commit(ChangeBatch([ReserveEpochs("d", 1)]))
    store.close()


def test_a_store_of_before_devices_were_forgotten_is_taken_up(path: Path) -> None:
    store = SqlTrackerStore(url_of(path))
    store.begin()
    store.commit(ChangeBatch([ReserveEpochs("pi/cpu0", 1000)]))
    store.close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE forgotten")
    store = SqlTrackerStore(url_of(path))
    store.begin()
    (row,) = store.load().devices
    store.commit(ChangeBatch([SaveDevice(replace(row, forgotten=True))]))
    assert store.load().devices == (replace(row, forgotten=True),)
    store.close()

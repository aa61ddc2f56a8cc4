from __future__ import annotations

import contextlib
import dataclasses
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from loopwright.errors import RecordsError
from loopwright.outcome import Timed
from loopwright.records.record import Record, to_line
from loopwright.records.store import Query, SqlStore

if TYPE_CHECKING:
    from conftest import MakeRecord

# Appends records for ever, one transaction each, and says after each that it was appended.
WRITER = """
import dataclasses, sys
from loopwright.records.record import from_line
from loopwright.records.store import SqlStore
url, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
base = dataclasses.replace(from_line(sys.stdin.readline()), seed=seed)
with SqlStore(url) as store:
    for trial in range(count):
        store.append([dataclasses.replace(base, trial=trial)])
        print(trial, flush=True)
"""


def start_writer(url: str, record: Record, seed: int, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(seed), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(to_line(record) + "\n")
    process.stdin.flush()
    return process


def test_records_come_back_in_order(store: SqlStore, make_record: MakeRecord) -> None:
    records = [make_record(n) for n in range(3)]
    assert store.append(records) == 3
    assert list(store.query()) == records


def test_records_survive_closing(
    url: str, make_record: MakeRecord, read_all: Callable[[str], list[Record]]
) -> None:
    with SqlStore(url) as store:
        store.append([make_record()])
    assert read_all(url) == [make_record()]


def test_appending_again_adds_nothing(store: SqlStore, make_record: MakeRecord) -> None:
    store.append([make_record(0)])
    assert store.append([make_record(0), make_record(1)]) == 1
    assert store.append([]) == 0
    assert store.count() == 2


def test_more_records_than_a_page_all_come(store: SqlStore, make_record: MakeRecord) -> None:
    records = [make_record(n) for n in range(1203)]
    store.append(records)
    assert [r.trial for r in store.query()] == list(range(1203))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workload", "f"),
        ("template", "other"),
        ("version", 2),
        ("target", "arm"),
        ("device", "there"),
        ("threads", 2),
    ],
)
def test_each_part_of_the_key_keeps_records_apart(
    store: SqlStore, make_record: MakeRecord, field: str, value: str | int
) -> None:
    here, other = make_record(), make_record(**{field: value})
    store.append([here, other])
    assert list(store.query(Query.of(here.key))) == [here]
    assert list(store.query(Query.of(other.key))) == [other]


def test_best_is_the_fastest_checked_record_of_each_key(
    store: SqlStore, make_record: MakeRecord
) -> None:
    unchecked = dataclasses.replace(make_record(9), outcome=Timed((1.0,), 1.0, checked=False))
    fast, two = make_record(1, 500.0), make_record(3, 800.0, threads=2)
    store.append([make_record(0, 900.0), fast, make_record(2, None), two, unchecked])
    assert store.best(Query()) == (fast, two)
    assert store.best(Query(threads=2)) == (two,)
    assert store.best(Query(device="there")) == ()


def test_the_fastest_checked_records_come_in_order(
    store: SqlStore, make_record: MakeRecord
) -> None:
    unchecked = dataclasses.replace(make_record(9), outcome=Timed((1.0,), 1.0, checked=False))
    slow, fast, third = make_record(0, 900.0), make_record(1, 500.0), make_record(3, 990.0)
    store.append([slow, fast, make_record(2, None), third, unchecked])
    assert store.fastest(Query(), 2) == (fast, slow)
    assert store.fastest(Query(threads=2), 2) == ()


def test_of_equally_fast_records_the_first_is_best(
    store: SqlStore, make_record: MakeRecord
) -> None:
    store.append([make_record(4, 500.0), make_record(5, 500.0)])
    assert [r.trial for r in store.best(Query())] == [4]


def test_a_store_in_memory_works(make_record: MakeRecord) -> None:
    with SqlStore("sqlite://") as store:
        store.append([make_record()])
        assert list(store.query()) == [make_record()]


def test_a_killed_writer_loses_nothing_that_it_appended(
    url: str, make_record: MakeRecord, read_all: Callable[[str], list[Record]]
) -> None:
    with start_writer(url, make_record(), seed=1, count=100_000) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        told += [int(line) for line in writer.stdout if line.endswith("\n")]
    trials = [record.trial for record in read_all(url)]
    assert trials[: len(told)] == told
    assert len(trials) - len(told) <= 1  # appended, and killed before it could say so


def test_several_writers_share_a_file(
    url: str, make_record: MakeRecord, read_all: Callable[[str], list[Record]]
) -> None:
    writers = [start_writer(url, make_record(), seed, count=40) for seed in (1, 2, 3)]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    found = read_all(url)
    for seed in (1, 2, 3):
        assert [r.trial for r in found if r.seed == seed] == list(range(40))


def test_a_file_that_is_being_made_is_seen_whole_or_not_at_all(url: str, tmp_path: Path) -> None:
    seen: list[list[tuple[str]]] = []

    def look(*arguments: object) -> None:
        if "INSERT INTO loopwright_meta" in str(arguments[2]):
            with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as other:
                seen.append(other.execute("SELECT name FROM sqlite_master").fetchall())

    sa.event.listen(sa.Engine, "before_cursor_execute", look)
    try:
        SqlStore(url).close()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", look)
    assert seen == [[]]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("r.db", "'r.db' is not a URL; write sqlite:///r.db"),
        ("mysql://host/db", "'mysql' are not supported; use sqlite:///FILE"),
        ("sqlite:////no/such/folder/r.db", "there is no folder /no/such/folder"),
        ("sqlite:////tmp", "/tmp is a folder; name a file in it"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, words: str) -> None:
    with pytest.raises(RecordsError, match=words):
        SqlStore(url)


def test_a_missing_file_is_refused_when_it_is_to_be_read(url: str, tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"there is no file .*`loopwright tune` makes one"):
        SqlStore(url, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_left_alone(url: str, tmp_path: Path) -> None:
    text = b"not a database, but long enough to be looked at" * 50
    (tmp_path / "r.db").write_bytes(text)
    with pytest.raises(RecordsError, match="is not a records database"):
        SqlStore(url)
    assert (tmp_path / "r.db").read_bytes() == text


def test_a_database_of_something_else_is_refused(url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "r.db")
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(RecordsError, match=r"something else \(it has the table songs\)"):
        SqlStore(url)


def test_a_file_of_another_version_is_refused_and_keeps_its_records(
    url: str, tmp_path: Path, make_record: MakeRecord
) -> None:
    with SqlStore(url) as store:
        store.append([make_record()])
    connection = sqlite3.connect(tmp_path / "r.db")
    connection.execute("UPDATE loopwright_meta SET value = '99' WHERE name = 'schema'")
    connection.commit()
    with pytest.raises(RecordsError, match=r"another version \(records schema 99, here it is 1\)"):
        SqlStore(url)
    assert connection.execute("SELECT count(*) FROM records").fetchone() == (1,)
    connection.close()


def test_a_file_that_may_not_be_written_is_named(
    url: str, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SqlStore(url):
        pass
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3.dbapi2,
        "connect",
        lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options),
    )
    with SqlStore(url) as store, pytest.raises(RecordsError, match="is read-only; copy it"):
        store.append([make_record()])

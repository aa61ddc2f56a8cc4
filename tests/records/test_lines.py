from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loopwright.errors import RecordsError
from loopwright.records.lines import export_lines, import_lines
from loopwright.records.record import to_line
from loopwright.records.store import SqlStore

if TYPE_CHECKING:
    from conftest import MakeRecord


def test_exported_records_import_into_another_store(
    store: SqlStore, tmp_path: Path, make_record: MakeRecord
) -> None:
    records = [make_record(n, None if n == 1 else 10.0 + n) for n in range(1100)]
    store.append(records)
    assert export_lines(store.query(), tmp_path / "r.jsonl") == 1100
    with SqlStore("sqlite://") as other:
        result = import_lines(other, tmp_path / "r.jsonl")
        assert (result.added, result.known, result.bad) == (1100, 0, ())
        assert list(other.query()) == records


def test_importing_twice_is_the_same_as_once(
    store: SqlStore, tmp_path: Path, make_record: MakeRecord
) -> None:
    path = tmp_path / "r.jsonl"
    export_lines([make_record(0), make_record(1)], path)
    import_lines(store, path)
    result = import_lines(store, path)
    assert (result.added, result.known) == (0, 2)
    assert store.count() == 2


def test_bad_lines_are_named_and_the_good_ones_kept(
    store: SqlStore, tmp_path: Path, make_record: MakeRecord
) -> None:
    path = tmp_path / "r.jsonl"
    good = [make_record(0), make_record(1)]
    torn = to_line(make_record(2))[:-20]
    other = to_line(make_record(3)).replace('"v":1', '"v":9')
    path.write_text("\n".join([to_line(good[0]), other, "", to_line(good[1]), torn]))
    result = import_lines(store, path)
    assert list(store.query()) == good
    assert result.added == 2
    assert [message.partition(": ")[0] for message in result.bad] == [f"{path}:2", f"{path}:5"]
    assert "record format 9" in result.bad[0]
    assert "truncated" in result.bad[1]


def test_a_file_that_is_not_there_is_refused(store: SqlStore, tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"none\.jsonl cannot be read: No such file"):
        import_lines(store, tmp_path / "none.jsonl")


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path, make_record: MakeRecord) -> None:
    path = tmp_path / "r.jsonl"
    export_lines([make_record()], path)
    before = path.read_text()

    def broken() -> object:
        yield make_record(1)
        raise RecordsError("broken")

    with pytest.raises(RecordsError, match="broken"):
        export_lines(broken(), path)  # type: ignore[arg-type]
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]

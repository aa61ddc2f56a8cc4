"""Records as text files: one JSON object per line, to keep, send and merge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loopwright.errors import RecordsError
from loopwright.records.record import Record, from_line, to_line
from loopwright.records.store import RecordStore

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: records added, records already there, and the bad lines.

    Each bad line is one message that names the file, the line and what is wrong.
    """

    added: int
    known: int
    bad: tuple[str, ...]


def export_lines(records: Iterable[Record], path: Path) -> int:
    """How many records were written to `path`, which is replaced only when all are written."""
    partial = path.with_name(f"{path.name}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(to_line(record) + "\n")
                count += 1
        partial.replace(path)
    except OSError as error:
        raise RecordsError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def import_lines(store: RecordStore, path: Path) -> Imported:
    """Append the records of `path` to `store`; repeating it changes nothing.

    A line that cannot be read loses nothing: it is reported, the file is left alone, and every good
    line is imported, so that the rest of a torn file is not lost with its last line.

    Raises: RecordsError when the file itself cannot be read.
    """
    bad: list[str] = []
    batch: list[Record] = []
    added = total = 0
    try:
        with path.open("rb") as file:
            for record in _good(file, path, bad):
                batch.append(record)
                if len(batch) == _BATCH:
                    added, total, batch = added + store.append(batch), total + len(batch), []
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    added, total = added + store.append(batch), total + len(batch)
    return Imported(added, total - added, tuple(bad))


def _good(file: BinaryIO, path: Path, bad: list[str]) -> Iterator[Record]:
    """The records of the readable lines; errors in the others go to `bad`."""
    for number, line in enumerate(file, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            yield from_line(text)
        except RecordsError as error:
            bad.append(f"{path}:{number}: {error}")

"""Records that come with the package: the best programs of the bundled models, by instruction set.

They are in `loopwright/tuned/<target>.jsonl.gz`, in the format of exported records, one for each
task. `tools/ship_records.py` makes them from a store.
"""

from __future__ import annotations

import functools
import gzip
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from loopwright.records.record import Record, from_line, to_line
from loopwright.records.store import Query
from loopwright.target.union import Target

FOLDER = Path(str(resources.files("loopwright"))) / "tuned"


class ShippedRecords:
    """The records for a target; none where the package has none."""

    def __init__(self, target: Target, folder: Path = FOLDER) -> None:
        self._path = path_of(target, folder)

    def best(self, query: Query) -> tuple[Record, ...]:
        """The records of `query`, the fastest first."""
        if query.workload is None:
            found: Iterable[Record] = (r for some in _read(self._path).values() for r in some)
        else:
            found = _read(self._path).get(query.workload, ())
        agreeing = [record for record in found if _agrees(record, query)]
        return tuple(sorted(agreeing, key=lambda record: record.best_ns or 0.0))

    def fastest(self, query: Query, count: int) -> tuple[Record, ...]:
        """The `count` fastest records of `query`."""
        return self.best(query)[:count]


def path_of(target: Target, folder: Path = FOLDER) -> Path:
    """The file for a target."""
    return folder / f"{target.key}.jsonl.gz"


def write(records: Iterable[Record], path: Path) -> int:
    """How many records were written to `path`; equal ones always give equal bytes."""
    lines = sorted(to_line(record) for record in records)
    text = "".join(f"{line}\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text)
    return len(lines)


@functools.cache
def _read(path: Path) -> Mapping[str, tuple[Record, ...]]:
    """The records of a file by workload."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                record = from_line(line)
                found[record.key.workload].append(record)
    return {key: tuple(records) for key, records in found.items()}


def _agrees(record: Record, query: Query) -> bool:
    key = record.key
    wanted = (
        (query.workload, key.workload),
        (query.template, key.template),
        (query.version, key.version),
        (query.target, key.target),
        (query.device, key.device),
        (query.threads, key.threads),
        (query.operator, record.operator),
        (query.policy, record.policy),
    )
    return all(want is None or want == has for want, has in wanted)

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loopwright.errors import RecordsError
from loopwright.records.best import lookup
from loopwright.records.store import SqlStore

if TYPE_CHECKING:
    from conftest import MakeRecord


def test_the_fastest_record_of_the_key_is_found(store: SqlStore, make_record: MakeRecord) -> None:
    store.append([make_record(0, 9.0), make_record(1, 5.0), make_record(2, 1.0, device="there")])
    found = lookup(store, make_record().key, what="conv2d", where="r.db")
    assert found == make_record(1, 5.0)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"device": "there"}, r"only records of another device \(there\); tune it on here"),
        ({"threads": 4}, "tuned for 4 threads, not for 1"),
        (
            {"version": 3},
            "its records are of version 3 of the template conv2d, which is now at 1; tune it again",
        ),
        ({"target": "arm"}, "only records for the target arm, not x86-64-avx2-00000000"),
        ({"workload": "f"}, "it was never tuned; run `loopwright tune` first"),
        ({"ns": None}, "no trial passed so far; tune it with more trials"),
    ],
)
def test_without_one_the_error_says_what_there_is(
    store: SqlStore, make_record: MakeRecord, stored: dict[str, str | int], words: str
) -> None:
    store.append([make_record(0, **stored)])  # type: ignore[arg-type]
    with pytest.raises(RecordsError, match=f"r.db has no usable record for conv2d: {words}"):
        lookup(store, make_record().key, what="conv2d", where="r.db")

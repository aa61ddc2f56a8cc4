from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import RecordsError
from loopwright.outcome import Failed, FailureKind, FailureStage, Provenance, Timed
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, TaskKey, from_line, to_line
from loopwright.space.config import Config
from loopwright.target.presets import PRESETS

if TYPE_CHECKING:
    from conftest import MakeRecord

names = st.text(min_size=1, max_size=8)
whole = st.integers(-(2**31), 2**31)
times = st.floats(1e-3, 1e15)
places = st.none() | st.builds(
    Provenance, names, names, whole, st.integers(0, 2), st.none() | times, times
)
outcomes = st.builds(
    Timed, st.lists(times).map(tuple), times, st.booleans(), times, times, places
) | st.builds(
    Failed, st.sampled_from(FailureStage), st.sampled_from(FailureKind), st.text(), places
)
attributes = st.dictionaries(
    names, whole | st.text() | st.booleans() | st.lists(whole, max_size=4).map(tuple) | times
).map(lambda d: tuple(d.items()))
sizes = st.lists(st.integers(1, 99), min_size=1, max_size=4).map(tuple)
configs = st.dictionaries(names, sizes | whole | st.booleans() | st.text()).map(Config.of)
records = st.builds(
    Record,
    key=st.builds(TaskKey, names, names, whole, names, names, st.integers(1, 64)),
    operator=names,
    attrs=attributes,
    flops=st.integers(0, 2**53),
    config=configs,
    outcome=outcomes,
    policy=names,
    seed=whole,
    trial=whole,
    at_s=times,
    software=names,
)


@given(records)
def test_a_record_comes_back_from_its_line(record: Record) -> None:
    line = to_line(record)
    assert "\n" not in line
    assert from_line(line) == record
    assert from_line(line).provenance == record.provenance
    assert from_line(line).digest == record.digest


def test_what_was_measured_without_a_lease_has_the_line_that_it_always_had(
    make_record: MakeRecord,
) -> None:
    record = make_record()
    assert record.provenance is None
    assert "provenance" not in to_line(record)
    assert record.digest == "3da4bd6b3c04df9c567c86e40055b19e"


def test_a_lease_is_part_of_a_records_line(make_record: MakeRecord) -> None:
    record = make_record()
    where = Provenance("board-7/cpu0", "l3.14", 15, 1)
    leased = dataclasses.replace(record, outcome=dataclasses.replace(record.outcome, where=where))
    told = json.loads(to_line(leased))["provenance"]
    assert (told["device"], told["lease"], told["epoch"]) == ("board-7/cpu0", "l3.14", 15)
    assert leased.digest != record.digest


def test_records_that_differ_have_different_digests(make_record: MakeRecord) -> None:
    assert make_record(0).digest != make_record(1).digest
    assert make_record(0, 1000.0).digest != make_record(0, 1001.0).digest


def test_gflops_is_operations_over_nanoseconds(make_record: MakeRecord) -> None:
    assert make_record(ns=1000.0).gflops == 2000.0
    assert make_record(ns=None).gflops is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"v": 2}, "record format 2, this Loopwright reads format 1; export it with"),
        ({"flops": "many"}, r"Expected `int`, got `str` - at `\$.flops`"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"config": {"tile_w": [1, "a"]}}, "knob 'tile_w' holds"),
        ({"result": {"outcome": "maybe"}}, "Invalid value 'maybe'"),
        ({"key": {}}, r"missing required field `workload` - at `\$.key`"),
    ],
)
def test_a_line_that_does_not_fit_is_refused_with_the_place(
    make_record: MakeRecord, change: dict[str, object], words: str
) -> None:
    data = json.loads(to_line(make_record())) | change
    with pytest.raises(RecordsError, match=words):
        from_line(json.dumps(data))


@pytest.mark.parametrize("best_ns", [0.0, -1.0])
def test_a_time_that_is_none_is_refused(make_record: MakeRecord, best_ns: float) -> None:
    record = dataclasses.replace(make_record(), outcome=Timed((1.0,), best_ns))
    with pytest.raises(RecordsError, match="is no time"):
        from_line(to_line(record))


def test_the_fingerprint_is_stable_and_tells_instruction_sets_apart() -> None:
    first, second = PRESETS["x86-64-avx2"], PRESETS["x86-64-sse4"]
    assert fingerprint(first) == fingerprint(first)
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first).replace("-", "").isalnum()

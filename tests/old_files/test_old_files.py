"""Files that release 0.1.0 wrote before the packages were redrawn: still read, still run.

`small.lw`, `small.sqlite` and `small.jsonl` were made of `small.onnx` by that release's
`loopwright optimize small.onnx --target x86-64-sse4 --trials 6 --records sqlite:///small.sqlite`
and `loopwright records export`; `small.npz` holds an input and what onnxruntime computed from it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import loopwright as lw
from loopwright.api.program import example_inputs
from loopwright.api.task import task
from loopwright.records.lines import export_lines, import_lines
from loopwright.records.record import task_key
from loopwright.records.store import Query, SqlStore
from loopwright.runtime.cpu.loader import runnable_keys
from loopwright.target.presets import PRESETS
from loopwright.te.reference import evaluate
from loopwright.templates.registry import templates_for

HERE = Path(__file__).parent
TARGET = "x86-64-sse4"
runs_here = pytest.mark.skipif(
    PRESETS[TARGET].key not in runnable_keys(), reason="the files hold code for x86-64"
)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a copy of the old records."""
    shutil.copy(HERE / "small.sqlite", tmp_path / "records.db")
    return f"sqlite:///{tmp_path}/records.db"


@runs_here
def test_an_old_model_file_runs() -> None:
    held = np.load(HERE / "small.npz")
    y = lw.load(HERE / "small.lw")(held["x"])
    np.testing.assert_allclose(y, held["y"], rtol=1e-5, atol=1e-6)


def test_old_records_are_read_and_written_as_they_were(store: str, tmp_path: Path) -> None:
    with SqlStore(store, create=False) as records:
        assert export_lines(records.query(Query()), tmp_path / "out.jsonl") == 21
    assert (tmp_path / "out.jsonl").read_text() == (HERE / "small.jsonl").read_text()


def test_old_lines_are_taken_in(tmp_path: Path) -> None:
    with SqlStore(f"sqlite:///{tmp_path}/new.db") as records:
        done = import_lines(records, HERE / "small.jsonl")
        assert (done.added, done.bad) == (21, ())
        assert len(list(records.query(Query()))) == 21


@runs_here
def test_the_best_of_old_records_are_filed_as_today_and_built(store: str) -> None:
    with SqlStore(store, create=False) as records:
        best = records.best(Query())
    assert len(best) == 3
    for record in best:
        usual = task(record.operator, target=TARGET, **dict(record.attrs))
        rows = templates_for(record.operator, usual.workload, usual.target)
        (template,) = (row for row in rows if row.name == record.key.template)
        made = task(record.operator, target=TARGET, template=template, **dict(record.attrs))
        assert task_key(made, record.key.device) == record.key
        inputs = example_inputs(made)
        output = lw.build(made, config=record.config)(*inputs)
        (expected,) = evaluate(made.workload, inputs)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loopwright.records.store import SqlStore

if TYPE_CHECKING:
    from conftest import Run

onnx = pytest.importorskip("onnx")
RECORDS = ("--records", "sqlite:///r.db")
TUNE = ("tune", "net.onnx", "--policy", "random", *RECORDS)


@pytest.fixture(autouse=True)
def model(tmp_path: Path) -> Callable[..., Path]:
    """Write net.onnx: one small convolution."""

    def write(batch: int | str = 1, dtype: int = onnx.TensorProto.FLOAT) -> Path:
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [
                onnx.helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
                onnx.helper.make_node("Relu", ["c"], ["y"]),
            ],
            "net",
            [value("x", dtype, (batch, 16, 8, 8)), value("w", dtype, (16, 16, 3, 3))],
            [value("y", dtype, (batch, 16, 8, 8))],
        )
        opset = [onnx.helper.make_opsetid("", 18)]
        path = tmp_path / "net.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
        return path

    write()
    return write


def trials_of(tmp_path: Path) -> int:
    with SqlStore(f"sqlite:///{tmp_path / 'r.db'}", create=False) as store:
        return len({record.trial for record in store.query()})


def test_tuning_a_model_reports_what_it_found(run: Run) -> None:
    result = run(*TUNE, "--trials", "3", "-o", "json")
    assert result.code == 0
    data = json.loads(result.out)
    (task,) = data["tasks"]
    assert task["operator"] == "conv2d"
    assert task["attrs"]["relu"] is True
    assert (task["count"], task["trials"]) == (1, 3)
    assert task["best_ns"] > 0
    assert "3 trials" in result.err


def test_the_same_command_again_goes_on(run: Run, tmp_path: Path) -> None:
    run(*TUNE, "--trials", "2")
    again = run(*TUNE, "--trials", "3")
    assert "net: 3 trials" in again.out
    assert "2 of them from before" in again.err
    assert trials_of(tmp_path) == 3


def test_the_tuned_programs_are_timed_beside_a_peer(run: Run) -> None:
    pytest.importorskip("onnxruntime")
    run(*TUNE, "--trials", "2")
    result = run(
        "bench", "net.onnx", "--ops", *RECORDS, "--compare", "onnxruntime", "--rounds", "1",
        "-o", "json",
    )  # fmt: skip
    assert result.code == 0
    data = json.loads(result.out)
    (op,) = data["ops"]
    assert op["ratio"]["onnxruntime"] == pytest.approx(op["ns"]["onnxruntime"] / op["ns"]["kernel"])
    assert op["ns"]["plain"] > 0
    assert data["geometric_mean_ratio"]["onnxruntime"] > 0


def with_constant_weight(path: Path) -> Path:
    """The model in `path`, its weight now a number that is known beforehand; the new file."""
    opened = onnx.load(path)
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    opened.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    del opened.graph.input[1]
    onnx.save(opened, path.with_name("whole.onnx"))
    return path.with_name("whole.onnx")


def test_a_whole_model_is_timed_beside_a_peer(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with_constant_weight(tmp_path / "net.onnx")
    with SqlStore(f"sqlite:///{tmp_path / 'r.db'}"):
        pass
    options = (*RECORDS, "--compare", "onnxruntime", "--rounds", "2")
    result = run("bench", "whole.onnx", *options, "-o", "json")
    assert result.code == 0, result.err
    (row,) = json.loads(result.out)["models"]
    assert row["ratio"] == pytest.approx(row["ns"]["onnxruntime"] / row["ns"]["loopwright"])
    assert row["error"] < 1e-5
    assert set(row["peak_bytes"]) == set(row["load_s"]) == {"loopwright", "onnxruntime"}
    assert row["engines"]["onnxruntime"].startswith("onnxruntime ")


def test_a_tuned_model_is_timed_alone_or_beside_its_source(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with_constant_weight(tmp_path / "net.onnx")
    made = run("optimize", "whole.onnx", "-o", "net.lw", "--time-budget", "0", "--threads", "2")
    assert made.code == 0, made.err
    alone = run("bench", "net.lw", "--rounds", "1", "-o", "json")
    assert json.loads(alone.out)["models"][0]["threads"] == 2
    against = ("--compare", "onnxruntime", "--rounds", "1", "-o", "json")
    refused = run("bench", "net.lw", *against)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "give it as --source model.onnx" in refused.err
    both = run("bench", "net.lw", "--source", "whole.onnx", *against)
    assert json.loads(both.out)["models"][0]["error"] < 1e-5


def test_each_trial_and_pass_is_traced_when_the_settings_say_where(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_TRACE", str(tmp_path / "trace"))
    run(*TUNE, "--trials", "2")
    lines = (tmp_path / "trace" / "trace.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert sum(event["event"] == "trial" and not event["again"] for event in events) == 2
    assert events[-1]["best_ns"] > 0
    flat = [e for e in events if e["event"] == "pass" and e["name"] == "flatten_storage"]
    assert len({event["kernel"] for event in flat}) >= 2
    text = (tmp_path / "trace" / "kernels" / flat[0]["text"]).read_text()
    assert text.startswith(f"kernel {flat[0]['kernel']}(")


def test_the_tasks_of_a_model_are_listed(run: Run) -> None:
    data = json.loads(run("tasks", "net.onnx", "-o", "json").out)
    assert data["flops"] == data["tasks"][0]["flops"]
    assert data["tasks"][0]["nodes"] == ["conv"]
    assert "conv2d 1x16x8x8 w 16x16x3x3 p1 relu" in run("tasks", "net.onnx").out


def test_a_model_that_was_never_tuned_cannot_be_timed(run: Run, tmp_path: Path) -> None:
    SqlStore(f"sqlite:///{tmp_path / 'r.db'}").close()
    result = run("bench", "net.onnx", "--ops", *RECORDS)
    assert result.code == 2
    assert "it was never tuned; run `loopwright tune` first" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tune", "none.onnx"], "there is no file none.onnx, nor a bundled model"),
        (["tune", "cut.onnx"], "cut.onnx is not an ONNX model, or only part of one"),
        (["tune", "net.onnx", "--target", "z80"], "unknown target 'z80'; use one of cpu"),
        (["tune", "net.onnx", "--target", "aarch64-neon"], "which this machine"),
        (["tune", "net.onnx", "--policy", "magic"], "unknown policy 'magic'; use one of model"),
        (["tune", "net.onnx", "--time-budget", "soon"], "'soon' is not a duration"),
        (["tune", "net.onnx", "--tasks", "7"], "'7' is not among 0 to 0"),
        (["tune", "net.onnx", "--compare", "mxnet"], "unknown peer 'mxnet'"),
        (["tune", "net.onnx", "--device", "board=rpi4"], "give --fleet tls://HOST:7070 too"),
        (
            ["tune", "net.onnx", "--compare", "onnxruntime", "--fleet", "tcp://127.0.0.1:1"],
            "--compare times on this machine, not on a fleet",
        ),
        (["tune", "net.onnx", "--fleet", "lab"], "address 'lab' has no port"),
        (["tune", "net.onnx", "--max-wait", "5s"], "are about a fleet: give --fleet too"),
        (
            ["tune", "net.onnx", "--fleet", "tcp://127.0.0.1:1", "--priority", "now"],
            "--priority 'now' is not one of batch, normal, interactive, urgent",
        ),
        (
            ["tune", "net.onnx", "--fleet", "tcp://127.0.0.1:1", "--max-wait", "soon"],
            "'soon' is not a duration",
        ),
        (["tune", "net.onnx", "--executor", "threads"], "is not one of processes, inline, dask://"),
        (["tune", "net.onnx", "--shape", "x=2"], "input 'x' has 4 dimensions"),
        (["tasks", "net.onnx", "--threads", "1", "--target", "cpu l9=1"], "option 'l9=1'"),
        (["bench", "net.onnx", "--compare", "mxnet"], "use one of onnxruntime, openvino, torch"),
        (["bench", "net.onnx", "--ops", "--compare", "openvino"], "use one of onnxruntime, torch"),
        (["bench", "net.onnx", "--source", "a.onnx"], "net.onnx is not one"),
    ],
)
def test_a_wrong_option_is_one_line_and_loses_no_record(
    run: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:-9])
    with SqlStore(f"sqlite:///{tmp_path / 'r.db'}"):
        pass
    records = () if arguments[0] == "tasks" else RECORDS
    result = run(*arguments, *records)
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1
    assert trials_of(tmp_path) == 0


def test_a_dynamic_shape_says_how_to_fix_it_and_the_fix_works(
    run: Run, model: Callable[..., Path]
) -> None:
    model(batch="n")
    refused = run("tasks", "net.onnx")
    assert refused.code == 2
    assert "dimension 0 of input 'x' is dynamic ('n')" in refused.err
    assert "--input-shape x:1x16x8x8" in refused.err
    assert run("tasks", "net.onnx", "--input-shape", "x:1x16x8x8").code == 0


def test_an_unsupported_dtype_names_the_node(run: Run, model: Callable[..., Path]) -> None:
    model(dtype=onnx.TensorProto.COMPLEX64)
    result = run("tasks", "net.onnx")
    assert result.code == 2
    assert "net.onnx" in result.err
    assert "complex64" in result.err


def test_records_of_another_version_are_refused_and_kept(run: Run, tmp_path: Path) -> None:
    run(*TUNE, "--trials", "1")
    connection = sqlite3.connect(tmp_path / "r.db")
    before = connection.execute("SELECT count(*) FROM records").fetchone()
    connection.execute("UPDATE loopwright_meta SET value = '0' WHERE name = 'schema'")
    connection.commit()
    result = run(*TUNE, "--trials", "2")
    assert result.code == 2
    assert "was written by another version" in result.err
    assert connection.execute("SELECT count(*) FROM records").fetchone() == before
    connection.close()

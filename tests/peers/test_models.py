from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save

import loopwright as lw
from loopwright.errors import ModelError, UnsupportedError
from loopwright.peers.interleave import interleave
from loopwright.peers.model_inputs import indexed_rows, model_inputs
from loopwright.peers.models import make_model_engine
from loopwright.peers.peer import Peer
from loopwright.peers.wire import ModelSpec, PeerReady
from loopwright.report.compare import OURS, compare_model
from loopwright.runtime.model_file import Port


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution with Relu, 1x8x6x6 to 1x8x6x6."""
    weight = np.random.default_rng(0).uniform(-1, 1, (8, 8, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 6, 6))],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "small.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.fixture
def tuned(model: Path, tmp_path: Path) -> Path:
    """The model as a program."""
    path = tmp_path / "small.lw"
    with lw.compile(model) as made:
        made.save(path)
    return path


def spec(model: Path, tmp_path: Path) -> ModelSpec:
    x = np.random.default_rng(1).uniform(-1, 1, (1, 8, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    return ModelSpec(str(model), str(tmp_path / "in.npz"), str(tmp_path / "out.npz"))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_peer_runs_a_model_in_its_process(engine: str, model: Path, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    with Peer(engine) as peer:
        ready = peer.load_model(spec(model, tmp_path))
        times = peer.time(2, min_repeat_s=1e-4)
    assert ready.form.startswith(engine)
    assert ready.peak_bytes > 1 << 20
    assert len(times) == 2
    with np.load(tmp_path / "out.npz") as found:
        assert found["0"].shape == (1, 8, 6, 6)


def test_a_tuned_model_is_compared_with_its_source(model: Path, tuned: Path) -> None:
    found = compare_model(tuned, str(model), ["onnxruntime"], 1, rounds=2)
    assert set(found.timings) == {OURS, "onnxruntime"}
    assert found.error is not None
    assert found.error < 1e-5
    assert found.ratio is not None


def test_an_engine_that_cannot_read_the_model_is_left_out(
    model: Path, tuned: Path, tmp_path: Path
) -> None:
    other = load(model)
    other.opset_import[0].version = 999
    save(other, tmp_path / "later.onnx")
    found = compare_model(tuned, str(tmp_path / "later.onnx"), ["onnxruntime"], 1, rounds=1)
    assert found.refused["onnxruntime"].startswith("onnxruntime cannot run this: ")
    assert found.ratio is None
    assert found.error is None


def test_an_engine_whose_process_ends_is_left_out(
    model: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    load_model = Peer.load_model

    def dying(peer: Peer, given: ModelSpec) -> PeerReady:
        if peer.engine == "onnxruntime":
            peer._process.kill()
            peer._process.wait()
        return load_model(peer, given)

    monkeypatch.setattr(Peer, "load_model", dying)
    found = compare_model(tuned, str(model), ["onnxruntime"], 1, rounds=1)
    assert "process of onnxruntime ended with -9" in found.refused["onnxruntime"]
    assert set(found.timings) == {OURS}


def test_a_source_that_is_no_onnx_is_an_error(model: Path, tuned: Path) -> None:
    model.write_bytes(model.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"small\.onnx is not an ONNX model"):
        compare_model(tuned, str(model), ["onnxruntime"], 1, rounds=1)


def test_outputs_are_compared_with_those_of_onnxruntime(model: Path, tuned: Path) -> None:
    pytest.importorskip("openvino")
    found = compare_model(tuned, str(model), ["openvino", "onnxruntime"], 1, rounds=1)
    assert found.reference == "onnxruntime"
    assert found.best_peer in ("openvino", "onnxruntime")


def test_a_model_that_is_not_the_source_has_a_large_error(model: Path, tuned: Path) -> None:
    other = load(model)
    weight = numpy_helper.to_array(other.graph.initializer[0])
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(1.01 * weight, "w"))
    save(other, model)
    found = compare_model(tuned, str(model), ["onnxruntime"], 1, rounds=1)
    assert found.error == pytest.approx(0.01, rel=0.05)


def test_without_peers_no_source_is_needed(tuned: Path) -> None:
    found = compare_model(tuned, None, [], 1, rounds=3)
    assert (found.best_peer, found.ratio, found.error) == (None, None, None)
    assert len(found.timings[OURS].ns) == 3


def test_a_tuned_model_that_cannot_be_loaded_says_so(model: Path, tuned: Path) -> None:
    with tuned.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"x" * 64)
    with pytest.raises(ModelError, match=r"small\.lw was altered"):
        compare_model(tuned, str(model), ["onnxruntime"], 1, rounds=1)


def test_openvino_gets_the_shapes_of_its_inputs(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    given = spec(model, tmp_path)
    opened = load(model)
    for value in (*opened.graph.input, *opened.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    save(opened, model)
    engine = make_model_engine("openvino", 1)
    with np.load(given.inputs) as inputs:
        engine.load(given.path, dict(inputs))
    engine.run()
    assert engine.outputs()[0].shape == (1, 8, 6, 6)


def test_indices_stay_within_the_smallest_table_they_index(tmp_path: Path) -> None:
    tables = {"big": (50, 4), "small": (7, 4), "types": (4, 3)}
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in tables.items()
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["big", "ids"], ["a"]),
            helper.make_node("Unsqueeze", ["ids", "axis"], ["more"]),
            helper.make_node("Gather", ["small", "more"], ["b"]),
            helper.make_node("Gather", ["types", "segments"], ["c"], axis=1),
        ],
        "tables",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, (40,)),
            helper.make_tensor_value_info("segments", TensorProto.INT64, (40,)),
            helper.make_tensor_value_info("mask", TensorProto.INT64, (40,)),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "abc"],
        [*weights, numpy_helper.from_array(np.array([0]), "axis")],
    )
    path = tmp_path / "tables.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    rows = indexed_rows(path)
    assert rows == {"ids": 7, "segments": 3}
    ports = [Port(name, (40,), "int64") for name in ("ids", "segments", "mask")]
    inputs = model_inputs(ports, rows)
    assert {name: (a.min(), a.max()) for name, a in inputs.items()} == {
        "ids": (0, 6), "segments": (0, 2), "mask": (0, 1),
    }  # fmt: skip


def test_inputs_are_seeded_and_of_the_dtype_asked_for() -> None:
    ports = [
        Port("x", (2, 300), "float32"),
        Port("y", (2, 300), "float32"),
        Port("b", (3,), "bool"),
    ]
    first, again = model_inputs(ports, {}), model_inputs(ports, {})
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["x"] != first["y"]).any()
    assert (first["x"].dtype, first["b"].dtype) == (np.float32, np.bool_)
    assert abs(float(first["x"].std()) - 1) < 0.1
    assert (first["x"] != model_inputs(ports, {}, seed=1)["x"]).any()


def test_the_turns_of_engines_go_forth_and_back() -> None:
    asked: list[str] = []

    def contender(name: str) -> Callable[[], Sequence[float]]:
        def time() -> Sequence[float]:
            asked.append(name)
            return (float(len(asked)),)

        return time

    found = interleave({name: contender(name) for name in ("ours", "a", "b")}, rounds=3)
    assert asked == ["ours", "a", "b", "b", "a", "ours", "ours", "a", "b"]
    assert found["a"].ns == (2.0, 5.0, 8.0)


def test_a_peer_that_runs_no_models_says_so() -> None:
    with pytest.raises(UnsupportedError, match="torch runs no ONNX models; use onnxruntime"):
        make_model_engine("torch", 1)

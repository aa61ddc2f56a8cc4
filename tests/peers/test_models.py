from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

import loopwright as lw
from loopwright.api.compare import OURS, compare_model
from loopwright.errors import UnsupportedError
from loopwright.peers.models import make_model_engine
from loopwright.peers.peer import Peer
from loopwright.peers.wire import ModelSpec


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


def test_a_tuned_model_is_compared_with_its_source(model: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "small.lw"
    with lw.compile(model) as made:
        made.save(tuned)
    found = compare_model(tuned, str(model), ["onnxruntime"], 1, rounds=2)
    assert set(found.timings) == {OURS, "onnxruntime"}
    assert found.error is not None
    assert found.error < 1e-5
    assert found.ratio is not None


def test_an_engine_that_cannot_read_the_model_is_left_out(model: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "small.lw"
    with lw.compile(model) as made:
        made.save(tuned)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:-40])
    found = compare_model(tuned, str(broken), ["onnxruntime"], 1, rounds=1)
    assert "onnxruntime" in found.refused
    assert found.ratio is None


def test_a_peer_that_runs_no_models_says_so() -> None:
    with pytest.raises(UnsupportedError, match="torch runs no ONNX models; use onnxruntime"):
        make_model_engine("torch", 1)

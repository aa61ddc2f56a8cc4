from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from loopwright.errors import EnvironmentFailure, UnsupportedError
from loopwright.peers import peer as peers
from loopwright.peers.engine import PeerEngine, batch_size, operands, time_calls
from loopwright.peers.peer import Peer
from loopwright.peers.serve import PeerServer
from loopwright.peers.wire import Answer, Ask, OpSpec, PeerReady, PeerRefusal, TimeIt, Times

CONV = OpSpec(
    "conv2d",
    {
        "data": (1, 8, 6, 7),
        "weight": (16, 8, 3, 3),
        "strides": (2, 1),
        "padding": (1, 0, 1, 2),
        "dilation": (1, 1),
        "groups": 1,
        "bias": True,
        "relu": True,
    },
)
DENSE = OpSpec("dense", {"data": (4, 8), "weight": (16, 8), "bias": True, "relu": True})
BATCH = OpSpec("batch_matmul", {"a": (3, 4, 8), "b": (3, 8, 5)})
MATMUL = OpSpec(
    "matmul",
    {"a": (8, 4), "b": (5, 8), "transpose_a": True, "transpose_b": True, "constant_b": True},
)


class Fake:
    """An engine without a library."""

    def __init__(self) -> None:
        self.runs = 0

    def load(self, spec: OpSpec) -> str:
        if spec.operator != "conv2d":
            raise NotImplementedError(f"no {spec.operator}\nat all")
        return "fake"

    def run(self) -> None:
        self.runs += 1

    def kernel_ns(self, repeats: int) -> Sequence[float]:
        return [5.0] * repeats


def correlate(spec: OpSpec) -> np.ndarray:
    """The convolution of `CONV`, from its definition."""
    found = operands(spec)
    data, weight, bias = found.data, found.weight, found.bias
    top, left, bottom, right = spec.shape("padding")
    padded = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    rows, columns = spec.shape("strides")
    out = np.einsum("nchwij,ocij->nohw", windows[:, :, ::rows, ::columns], weight)
    assert bias is not None
    return np.maximum(out + bias[:, None, None], 0)


def serving(engine: PeerEngine) -> Callable[[Ask], Answer]:
    return PeerServer(lambda: engine, lambda: pytest.fail("no model is asked for")).answer


def test_loading_and_timing_are_answered() -> None:
    engine = Fake()
    answer = serving(engine)
    assert answer(CONV) == PeerReady("fake")
    times = answer(TimeIt(3, 0.0))
    assert isinstance(times, Times)
    assert len(times.ns) == 3
    assert answer(TimeIt(2, 0.0, kernel=True)) == Times((5.0, 5.0))


def test_what_the_library_raises_is_a_refusal_of_one_line() -> None:
    assert serving(Fake())(DENSE) == PeerRefusal("NotImplementedError: no dense")


def test_a_batch_is_long_enough_and_not_empty() -> None:
    engine = Fake()
    assert batch_size(engine.run, 0.0) == 1
    assert batch_size(engine.run, 1e-4) > 1


def test_a_figure_is_a_mean_over_its_calls() -> None:
    engine = Fake()
    assert len(time_calls(engine.run, calls=7, repeats=4)) == 4
    assert engine.runs == 28


@pytest.mark.parametrize("spec", [CONV, DENSE, BATCH, MATMUL], ids=lambda s: s.operator)
def test_the_onnxruntime_model_computes_the_operator(spec: OpSpec) -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime as ort

    from loopwright.peers.onnxruntime import one_operator

    found = operands(spec)
    if spec.operator == "conv2d":
        expected = correlate(spec)
    elif spec.operator == "dense":
        expected = np.maximum(found.data @ found.weight.T + found.bias, 0)
    elif spec.operator == "matmul":
        expected = found.data.T @ found.weight.T
    else:
        expected = found.data @ found.weight
    model, inputs = one_operator(spec)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, inputs)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


def test_every_way_of_torch_computes_the_same() -> None:
    pytest.importorskip("torch")
    from loopwright.peers.torch import _forms

    for name, call in _forms(CONV).items():
        found = call().numpy()  # type: ignore[attr-defined]  # a torch.Tensor
        np.testing.assert_allclose(found, correlate(CONV), rtol=1e-5, atol=1e-4, err_msg=name)


def test_a_peer_answers_and_sleeps_until_it_is_asked_again() -> None:
    pytest.importorskip("onnxruntime")
    with Peer("onnxruntime") as peer:
        assert peer.load(CONV).startswith("onnxruntime ")
        status = Path(f"/proc/{peer._process.pid}/status").read_text()
        assert "State:\tT" in status
        assert len(peer.time(3, min_repeat_s=0.0)) == 3
        assert len(peer.time(4, kernel=True)) == 4
        with pytest.raises(
            UnsupportedError, match=r"cannot run this: .*no onnxruntime model of lstm"
        ):
            peer.load(OpSpec("lstm", CONV.attrs))
        assert peer.load(DENSE)


def test_a_peer_whose_process_ended_is_an_environment_failure() -> None:
    pytest.importorskip("onnxruntime")
    with Peer("onnxruntime") as peer:
        peer._process.kill()
        peer._process.wait()
        with pytest.raises(EnvironmentFailure, match="process of onnxruntime ended with -9"):
            peer.load(CONV)


def test_a_peer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        UnsupportedError, match="unknown peer 'mxnet'; use one of onnxruntime, openvino, torch"
    ):
        Peer("mxnet")


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Callable[[str], tuple[str, ...]] = lambda engine: (engine,)  # noqa: E731
    monkeypatch.setattr(peers, "missing", absent)
    with pytest.raises(EnvironmentFailure, match=r"needs torch; pip install 'loopwright\[torch\]'"):
        Peer("torch")

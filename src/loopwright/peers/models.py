"""Whole models in the process of a peer: onnxruntime, OpenVINO, and our own tuned models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from loopwright.errors import UnsupportedError
from loopwright.layout import Array
from loopwright.peers.wire import ModelSpec, PeerReady
from loopwright.version import __version__


class ModelEngine(Protocol):
    """A library that runs a model on inputs that it was given once."""

    def load(self, path: str, inputs: Mapping[str, Array]) -> str:
        """Make the model ready; how it is computed."""
        ...

    def run(self) -> None:
        """Compute the model once."""
        ...

    def outputs(self) -> Sequence[Array]:
        """The outputs of the last run, in the model's order."""
        ...


def make_ready(engine: ModelEngine, spec: ModelSpec) -> PeerReady:
    """Load a model, run it once and write its outputs."""
    with np.load(spec.inputs) as file:
        inputs = {name: file[name] for name in file.files}
    start = time.perf_counter()
    form = engine.load(spec.path, inputs)
    load_s = time.perf_counter() - start
    engine.run()
    with Path(spec.outputs).open("wb") as file:
        named = {str(n): np.asarray(a) for n, a in enumerate(engine.outputs())}
        np.savez(file, allow_pickle=False, **named)
    return PeerReady(form, load_s, _peak_bytes())


def make_model_engine(name: str, threads: int) -> ModelEngine:
    """The engine for models called `name`; its library is imported now.

    Raises: UnsupportedError for one that runs no ONNX models.
    """
    match name:
        case "onnxruntime":
            return _OnnxRuntime(threads)
        case "openvino":
            return _OpenVino(threads)
        case "loopwright":
            return _Loopwright(threads)
        case _:
            raise UnsupportedError(f"{name} runs no ONNX models; use onnxruntime or openvino")


class _OnnxRuntime:
    """The CPU provider with all graph optimisations."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        self._library = onnxruntime
        self._threads = threads

    def load(self, path: str, inputs: Mapping[str, Array]) -> str:
        ort = self._library
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = dict(inputs)
        return f"onnxruntime {ort.__version__}"

    def run(self) -> None:
        self._results = self._session.run(None, self._inputs)

    def outputs(self) -> Sequence[Array]:
        found: Sequence[Array] = self._results
        return found


class _OpenVino:
    """One inference at a time, in float32."""

    def __init__(self, threads: int) -> None:
        import openvino

        self._library = openvino
        self._threads = threads

    def load(self, path: str, inputs: Mapping[str, Array]) -> str:
        ov = self._library
        core = ov.Core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = core.read_model(path)
        if model.is_dynamic():
            model.reshape({name: list(array.shape) for name, array in inputs.items()})
        compiled = core.compile_model(model, "CPU", config)
        self._request = compiled.create_infer_request()
        for name, array in inputs.items():
            self._request.set_tensor(name, ov.Tensor(np.ascontiguousarray(array)))
        self._places = range(len(compiled.outputs))
        return f"openvino {ov.__version__.split('-')[0]}"

    def run(self) -> None:
        self._request.infer()

    def outputs(self) -> Sequence[Array]:
        return [np.array(self._request.get_output_tensor(place).data) for place in self._places]


class _Loopwright:
    """A tuned model."""

    def __init__(self, threads: int) -> None:
        from loopwright.runtime.cpu.model import load_model

        self._load = load_model
        self._threads = threads

    def load(self, path: str, inputs: Mapping[str, Array]) -> str:
        self._model = self._load(path, self._threads)
        self._inputs = [inputs[port.name] for port in self._model.inputs]
        return f"loopwright {__version__}"

    def run(self) -> None:
        self._results = self._model(*self._inputs)

    def outputs(self) -> Sequence[Array]:
        return self._results if isinstance(self._results, tuple) else (self._results,)


def _peak_bytes() -> int:
    """The most memory that this process has had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0

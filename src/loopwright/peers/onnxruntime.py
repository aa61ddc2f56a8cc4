"""onnxruntime as a peer: each operator is a model of its own, with its weights inside."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from loopwright.ops.epilogue import parse
from loopwright.ops.registry import FORMS
from loopwright.peers.engine import Array, operands
from loopwright.peers.wire import OpSpec

_IR_VERSION = 8
_OPSET = 18
_REORDERS = frozenset({"ReorderInput", "ReorderOutput"})


class OnnxRuntime:
    """onnxruntime's CPU provider with `threads` threads, all graph optimisations on."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._model = b""
        self._session: ort.InferenceSession | None = None
        self._binding: ort.IOBinding | None = None
        self._inputs: dict[str, Array] = {}

    def load(self, spec: OpSpec) -> str:
        """Make the operator ready; its data stay bound, so that a call copies nothing."""
        model, self._inputs = one_operator(spec)
        self._model = model.SerializeToString()
        self._session = self._new_session(profile=None)
        binding = self._session.io_binding()
        for name, array in self._inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_output("out", "cpu")
        self._binding = binding
        return f"onnxruntime {ort.__version__}"

    def run(self) -> None:
        """Compute the operator once, layout changes at its ends included."""
        if self._session is not None:
            self._session.run_with_iobinding(self._binding)

    def kernel_ns(self, repeats: int) -> Sequence[float]:
        """What onnxruntime's profile says of the operator's kernel, without its layout changes."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._new_session(profile=Path(folder) / "profile")
            warmup = 3
            for _ in range(warmup + repeats):
                session.run(None, self._inputs)
            events = json.loads(Path(session.end_profiling()).read_text())
        kernels = [
            event["dur"] * 1e3
            for event in events
            if event.get("cat") == "Node"
            and event["name"].endswith("_kernel_time")
            and event["args"]["op_name"] not in _REORDERS
        ]
        nodes = max(1, len(kernels) // (warmup + repeats))
        calls = [sum(kernels[i : i + nodes]) for i in range(0, len(kernels), nodes)]
        return calls[warmup:]

    def _new_session(self, *, profile: Path | None) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        return ort.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])


def one_operator(spec: OpSpec) -> tuple[ModelProto, dict[str, Array]]:
    """A model that computes `spec` to `out` with its weights inside, and its inputs."""
    found = operands(spec)
    nodes = _nodes(spec)
    inputs = {"data": found.data}
    weights = {} if found.bias is None else {"bias": found.bias}
    weights |= zip(("depthwise", "depthwise_bias"), found.depthwise, strict=False)
    (weights if found.fixed else inputs)["weight"] = found.weight
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION), inputs


def _nodes(spec: OpSpec) -> list[NodeProto]:
    inputs = ["data", "weight", "bias"] if spec.flag("bias") else ["data", "weight"]
    out = "linear" if spec.flag("relu") else "out"
    relu = [helper.make_node("Relu", [out], ["out"])] if out != "out" else []
    if spec.operator == "separable_conv2d":
        second = helper.make_node("Conv", ["between", *inputs[1:]], [out])
        return [*_depthwise(spec), second, *relu]
    flips = {"transA": spec.flag("transpose_a"), "transB": spec.flag("transpose_b")}
    form = FORMS.get(spec.operator)
    match form and form.onnx:
        case "Conv":
            return [_convolution(spec, inputs, out), *relu]
        case "Gemm":
            flips["transB"] |= spec.operator == "dense"  # whose weight is (n, k)
            turned = {name: int(flip) for name, flip in flips.items()}
            return [helper.make_node("Gemm", inputs, [out], **turned), *relu]
        case "MatMul" if not any(flips.values()):
            return [helper.make_node("MatMul", inputs, [out]), *relu]
        case _:
            raise NotImplementedError(f"no onnxruntime model of {spec.operator}")


def _convolution(spec: OpSpec, inputs: Sequence[str], out: str) -> NodeProto:
    every = spec.operator != "conv2d"  # each channel has its own kernels
    groups = spec.shape("data")[1] if every else spec.integer("groups", 1)
    return helper.make_node(
        "Conv",
        inputs,
        [out],
        strides=spec.shape("strides"),
        pads=spec.shape("padding"),
        dilations=spec.shape("dilation"),
        group=groups,
    )


def _depthwise(spec: OpSpec) -> list[NodeProto]:
    """The first part of a separable convolution; whatever its epilogue does, relu stands for it."""
    inputs = ["data", "depthwise"]
    if spec.flag("depthwise_bias"):
        inputs.append("depthwise_bias")
    active = bool(parse(str(spec.attrs.get("depthwise_epilogue", ""))))
    out = "depth" if active else "between"
    nodes = [_convolution(spec, inputs, out)]
    return [*nodes, helper.make_node("Relu", [out], ["between"])] if active else nodes

"""Whatever follows a contraction, with constants of every shape, is what onnxruntime computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from loopwright.deploy.compile import compile as compile_model
from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.graph.evaluate import evaluate
from loopwright.graph.fuse import FusedKernel, fuse
from loopwright.graph.ir import Graph
from loopwright.graph.passes.pipeline import simplify
from loopwright.layout import Array
from loopwright.te.reference import evaluate as evaluate_workload

ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSwish", "Softplus")
PAIRS = ("Add", "Add", "Mul", "Sub", "PRelu")


@dataclass
class Chain:
    """A model in the making: one contraction of `x`, and what follows it."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    value: str = "x"

    def weight(self, *shape: int, low: float = -1.0) -> str:
        name = f"w{len(self.weights)}"
        array = np.asarray(self.rng.uniform(low, 1.0, shape), np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def then(self, op: str, *others: str, swapped: bool = False, **attrs: object) -> None:
        inputs = [*others, self.value] if swapped else [self.value, *others]
        self.value = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [self.value], **attrs))

    def model(self, shape: tuple[int, ...]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_empty_tensor_value_info(self.value)],
            self.weights,
        )
        opset = helper.make_opsetid("", 20)
        return helper.make_model(graph, opset_imports=[opset], ir_version=9)


def conv(chain: Chain, outputs: int, inputs: int, kernel: int = 3, *, bias: bool) -> None:
    weight = chain.weight(outputs, inputs, kernel, kernel)
    others = (weight, chain.weight(outputs)) if bias else (weight,)
    groups = 16 // inputs
    chain.then("Conv", *others, pads=[kernel // 2] * 4, group=groups)


def anchored(draw: st.DrawFn, chain: Chain, kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Adds an anchor; the shapes of the input and of its output."""
    image, bias = (1, 16, 5, 6), draw(st.booleans())
    match kind:
        case "conv":
            conv(chain, 24, 16, bias=bias)
            return image, (1, 24, 5, 6)
        case "pointwise":
            conv(chain, 24, 16, 1, bias=bias)
            return image, (1, 24, 5, 6)
        case "grouped":
            conv(chain, 24, 8, bias=bias)
            return image, (1, 24, 5, 6)
        case "depthwise":
            conv(chain, 16, 1, bias=bias)
            return image, image
        case "separable":
            conv(chain, 16, 1, bias=bias)
            followed(draw, chain, image)
            conv(chain, 24, 16, 1, bias=draw(st.booleans()))
            return image, (1, 24, 5, 6)
        case "gemm":
            others = (chain.weight(7, 16), chain.weight(7)) if bias else (chain.weight(7, 16),)
            chain.then("Gemm", *others, transB=1)
            return (3, 16), (3, 7)
        case "matmul":
            chain.then("MatMul", chain.weight(16, 7))
            return (2, 3, 16), (2, 3, 7)
        case _:
            chain.then("MatMul", chain.weight(2, 16, 7))
            return (2, 3, 16), (2, 3, 7)


def followed(draw: st.DrawFn, chain: Chain, shape: tuple[int, ...]) -> None:
    """Adds up to five elementwise nodes that keep the shape."""
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["activation", "pair", "pair", "norm"]))
        if kind == "activation":
            op = draw(st.sampled_from(ACTIVATIONS))
            bounds = (chain.weight(low=-1.0), chain.weight(low=1.0)) if op == "Clip" else ()
            chain.then(op, *bounds)
        elif kind == "norm" and len(shape) == 4:
            parameters = [chain.weight(shape[1], low=low) for low in (-1.0, -1.0, -1.0, 0.5)]
            chain.then("BatchNormalization", *parameters)
        else:
            op = draw(st.sampled_from(PAIRS))
            swapped = op != "PRelu" and draw(st.booleans())
            chain.then(op, chain.weight(*broadcastable(draw, shape)), swapped=swapped)


def broadcastable(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape`; half of the time that of a constant for each channel."""
    dim = 1 if len(shape) == 4 else len(shape) - 1
    if draw(st.booleans()):
        kept = [extent if d == dim else 1 for d, extent in enumerate(shape)]
    else:
        kept = [extent if draw(st.booleans()) else 1 for extent in shape]
    first = draw(st.integers(0, len(kept)))
    return tuple(kept[first:]) if all(e == 1 for e in kept[:first]) else tuple(kept)


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    chain = Chain(np.random.default_rng(draw(st.integers(0, 999))))
    kinds = ("conv", "pointwise", "grouped", "depthwise", "separable", "gemm", "matmul", "batches")
    given_shape, shape = anchored(draw, chain, draw(st.sampled_from(kinds)))
    followed(draw, chain, shape)
    return chain.model(given_shape)


def example(model: onnx.ModelProto) -> Array:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(5).uniform(-1, 1, shape).astype(np.float32)


def by_onnxruntime(model: onnx.ModelProto, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: Array = session.run(None, {"x": x})[0]
    return found


def by_kernels(graph: Graph, x: Array) -> Array:
    """The output as the workloads of the fused kernels define it."""
    fused = fuse(graph)
    values = {"x": x, **fused.constants}
    for kernel in fused.steps:
        if isinstance(kernel, FusedKernel):
            inputs = [
                values[name].reshape(tensor.shape)
                for name, tensor in zip(kernel.inputs, kernel.workload.inputs, strict=True)
            ]
            found = evaluate_workload(kernel.workload, inputs)
            values |= dict(zip(kernel.outputs, found, strict=True))
    return values[graph.outputs[0]]


@given(chains())
@settings(max_examples=60, deadline=None)
def test_a_chain_is_what_onnxruntime_computes(model: onnx.ModelProto) -> None:
    x = example(model)
    wanted = by_onnxruntime(model, x)
    graph = simplify(import_onnx_model(model))
    np.testing.assert_allclose(evaluate(graph, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
    found = by_kernels(graph, x).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@given(chains())
@settings(max_examples=4, deadline=None)
def test_a_compiled_chain_is_what_onnxruntime_computes(model: onnx.ModelProto) -> None:
    x = example(model)
    with compile_model(import_onnx_model(model), threads=1) as compiled:
        found = compiled.run({"x": x})[model.graph.output[0].name]
    np.testing.assert_allclose(found, by_onnxruntime(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("after", [("Relu", "Add"), ("Add", "Add"), ("Add", "Tanh", "Add")])
def test_constants_for_each_channel_are_computed_in_one_kernel(after: tuple[str, ...]) -> None:
    chain = Chain(np.random.default_rng(1))
    chain.then("Conv", chain.weight(24, 16, 3, 3), chain.weight(24), pads=[1] * 4)
    for op in after:
        chain.then(op, *([chain.weight(24, 1, 1)] if op == "Add" else []))
    graph = simplify(import_onnx_model(chain.model((1, 16, 5, 6))))
    assert len(fuse(graph).kernels) == 1

"""Small ONNX models, and that what is imported of one computes what onnxruntime does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import loopwright as lw
from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph, verify
from loopwright.layout import Array

node = helper.make_node


def value(
    name: str, shape: Sequence[int | str] | None = None, kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    """An input or output; by default a float one of any shape."""
    return helper.make_tensor_value_info(name, kind, shape)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **weights: Array,
) -> onnx.GraphProto:
    """A graph with constants, by name."""
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    return helper.make_graph(nodes, "g", inputs, outputs, constants)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int = 18,
    **weights: Array,
) -> onnx.ModelProto:
    """A model with constants, by name."""
    used = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = graph_of(nodes, inputs, outputs, **weights)
    return helper.make_model(graph, opset_imports=used, ir_version=8)


def single(op: str, given: Sequence[Array], outputs: int = 1, **attrs: object) -> onnx.ModelProto:
    """A model of one node, whose inputs are a, b, c, ... and like `given`."""
    names = "abcdefgh"[: len(given)]
    kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in given]
    inputs = [value(n, a.shape, kind) for n, a, kind in zip(names, given, kinds, strict=True)]
    results = [f"y{n}" for n in range(outputs)]
    made = node(op, list(names), results, **attrs)
    return model([made], inputs, [helper.make_empty_tensor_value_info(n) for n in results])


def onnxruntime_says(made: onnx.ModelProto, given: Mapping[str, Array]) -> list[Array]:
    """The outputs that onnxruntime computes without optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, given))


def assert_as_onnxruntime(
    made: onnx.ModelProto,
    given: Mapping[str, Array],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    compiled: bool = False,
) -> Graph:
    """Assert that the graph of `made`, and if asked for the compiled model, computes the same."""
    expected = onnxruntime_says(made, given)
    graph = import_onnx_model(made)
    verify(graph)
    results = [evaluate(graph, given)]
    if compiled:
        results.append(tuple(lw.compile(graph).run(given).values()))
    for result in results:
        for found, wanted in zip(result, expected, strict=True):
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)
    return graph

"""Batch normalisation without a node of its own: scales and shifts are constants by then."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.graph.ir import Array, Graph, Node
from loopwright.ops.nodes.attributes import integer, number

Doubles: TypeAlias = npt.NDArray[np.float64]
_WEIGHT_CHANNELS = {"conv": 0, "conv_transpose": 1}
"""Which dimension of the weight is the output's channels."""


def fold_batch_norms(graph: Graph) -> Graph:
    """The graph with batch normalisations folded into the convolution before them, or else turned
    into a multiplication and an addition. Products are formed in float64.

    Establishes: what is left of batch_norm has parameters that are no constants.
    """
    readers = graph.readers
    producers = graph.producers
    constants: dict[str, Array] = {}
    replaced: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op != "batch_norm" or any(n not in graph.constants for n in node.inputs[1:]):
            continue
        scale, shift = _scale_and_shift(graph, node)
        before = producers.get(node.inputs[0])
        alone = len(readers[node.inputs[0]]) == 1 and node.inputs[0] not in graph.outputs
        if before is not None and alone and _takes_scale(graph, before):
            replaced[before.name] = []
            replaced[node.name] = [_folded(graph, before, node, scale, shift, constants)]
        else:
            replaced[node.name] = _spelled_out(graph, node, scale, shift, constants)
    if not replaced:
        return graph
    nodes = [new for node in graph.nodes for new in replaced.get(node.name, [node])]
    return graph.with_nodes(nodes, constants)


def _scale_and_shift(graph: Graph, node: Node) -> tuple[Doubles, Doubles]:
    """What the normalisation multiplies with and adds, float64 [channels]."""
    gamma, beta, mean, variance = (
        graph.constants[name].astype(np.float64) for name in node.inputs[1:]
    )
    scale = gamma / np.sqrt(variance + number(node.attrs, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _takes_scale(graph: Graph, node: Node) -> bool:
    """Whether a scale of its channels can go into the weight of `node`."""
    if node.op not in _WEIGHT_CHANNELS or node.inputs[1] not in graph.constants:
        return False
    if node.op == "conv_transpose" and integer(node.attrs, "groups", 1) != 1:
        return False
    return len(node.inputs) < 3 or not node.inputs[2] or node.inputs[2] in graph.constants


def _folded(
    graph: Graph,
    node: Node,
    norm: Node,
    scale: Doubles,
    shift: Doubles,
    constants: dict[str, Array],
) -> Node:
    """The convolution that computes `node` and then `norm`."""
    weight = graph.constants[node.inputs[1]]
    bias = None
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = graph.constants[node.inputs[2]].astype(np.float64)
    shape = [1] * weight.ndim
    shape[_WEIGHT_CHANNELS[node.op]] = -1
    names = (f"{norm.outputs[0]}@weight", f"{norm.outputs[0]}@bias")
    constants[names[0]] = (weight.astype(np.float64) * scale.reshape(shape)).astype(weight.dtype)
    added = shift if bias is None else bias * scale + shift
    constants[names[1]] = added.astype(weight.dtype)
    return Node(node.op, node.name, (node.inputs[0], *names), norm.outputs, node.attrs)


def _spelled_out(
    graph: Graph, norm: Node, scale: Doubles, shift: Doubles, constants: dict[str, Array]
) -> list[Node]:
    value = graph.values[norm.inputs[0]]
    shape = [1] * len(value.shape)
    shape[1] = -1
    names = (f"{norm.outputs[0]}@scale", f"{norm.outputs[0]}@shift")
    for name, array in zip(names, (scale, shift), strict=True):
        constants[name] = array.reshape(shape).astype(value.dtype.numpy)
    scaled = f"{norm.outputs[0]}.scaled"
    return [
        Node("mul", f"{norm.name}.scale", (norm.inputs[0], names[0]), (scaled,)),
        Node("add", norm.name, (scaled, names[1]), norm.outputs),
    ]

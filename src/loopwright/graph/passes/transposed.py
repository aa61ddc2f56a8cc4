"""Transposed convolutions as plain ones, which there are fast templates for.

With stride s, the outputs of a row that are s apart are a convolution of their own: the one with
every s-th tap of the kernel, mirrored. So a transposed convolution is s * s convolutions whose
outputs interleave; their channels are put together and moved to their places by depth_to_space. Of
an image of one pixel it is a product with a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwright.graph.ir import Array, Graph, Node
from loopwright.ops.attributes import NodeAttr, integer, integers


@dataclass(frozen=True, slots=True)
class _Phase:
    """Outputs `first + s * t` of a row: taps `tap + s * j`, and the padding that they see."""

    taps: tuple[int, ...]
    before: int
    after: int


def transposed_to_plain(graph: Graph) -> Graph:
    """The graph with transposed convolutions written as plain ones, where that is no more work.

    Establishes: what is left of conv_transpose is grouped, dilated, strided differently in both
    directions, of outputs that the stride does not divide, or has no constant weight.
    """
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    for node in graph.nodes:
        made = _rewritten(graph, node, constants) if node.op == "conv_transpose" else None
        nodes += [node] if made is None else made
    return graph if not constants else graph.with_nodes(nodes, constants)


def _rewritten(graph: Graph, node: Node, constants: dict[str, Array]) -> list[Node] | None:
    data, output = (graph.values[name].shape for name in (node.inputs[0], node.outputs[0]))
    weight = graph.constants.get(node.inputs[1])
    if weight is None or len(data) != 4 or integer(node.attrs, "groups", 1) != 1:
        return None
    if set(integers(node.attrs, "dilations", (1, 1))) != {1}:
        return None
    pads = integers(node.attrs, "pads", (0, 0, 0, 0))
    strides = integers(node.attrs, "strides", (1, 1))
    if data[2:] == (1, 1) and not any(pads) and output[2:] == weight.shape[2:] and data[0] == 1:
        return _as_product(node, weight, output, constants)
    if len(set(strides)) != 1 or any(extent % strides[0] for extent in output[2:]):
        return None
    phases = [
        _phases(data[d + 2], output[d + 2], weight.shape[d + 2], strides[d], pads[d])
        for d in range(2)
    ]
    rows, columns = phases
    if rows is None or columns is None:
        return None
    return _as_convolutions(node, weight, rows, columns, constants)


def _phases(
    extent: int, output: int, kernel: int, stride: int, pad: int
) -> tuple[_Phase, ...] | None:
    """The phases of one direction; None when one has no tap or would crop its input."""
    found = []
    for first in range(stride):
        tap = (first + pad) % stride
        taps = tuple(range(tap, kernel, stride))
        start = (first + pad - tap) // stride  # the input that meets tap `tap` at output `first`
        before = len(taps) - 1 - start
        after = output // stride + len(taps) - 1 - extent - before
        if not taps or before < 0 or after < 0:
            return None
        found.append(_Phase(taps[::-1], before, after))
    return tuple(found)


def _as_convolutions(
    node: Node,
    weight: Array,
    rows: tuple[_Phase, ...],
    columns: tuple[_Phase, ...],
    constants: dict[str, Array],
) -> list[Node]:
    stride = len(rows)
    nodes: list[Node] = []
    parts: list[str] = []
    plain = np.swapaxes(weight, 0, 1)
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            name = f"{node.name}.{y}.{x}" if stride > 1 else node.name
            kernel = f"{node.inputs[1]}@{node.name}.{y}.{x}"
            constants[kernel] = np.ascontiguousarray(plain[:, :, row.taps][:, :, :, column.taps])
            parts.append(f"{node.outputs[0]}.{y}.{x}" if stride > 1 else node.outputs[0])
            attrs: dict[str, NodeAttr] = {
                "strides": (1, 1),
                "pads": (row.before, column.before, row.after, column.after),
                "dilations": (1, 1),
                "groups": 1,
            }
            inputs = (node.inputs[0], kernel, *node.inputs[2:])
            nodes.append(Node("conv", name, inputs, (parts[-1],), attrs))
    if stride == 1:
        return nodes
    together = f"{node.outputs[0]}.phases"
    nodes.append(Node("concat", f"{node.name}.join", tuple(parts), (together,), {"axis": 1}))
    attrs_block = {"block": stride}
    nodes.append(Node("depth_to_space", node.name, (together,), node.outputs, attrs_block))
    return nodes


def _as_product(
    node: Node, weight: Array, output: tuple[int, ...], constants: dict[str, Array]
) -> list[Node]:
    inputs, columns = weight.shape[0], weight[0].size
    kernel = f"{node.inputs[1]}@{node.name}"
    constants[kernel] = np.ascontiguousarray(weight.reshape(inputs, columns))
    flat, product, image, bias = (
        f"{node.outputs[0]}.{what}" for what in ("flat", "product", "image", "bias")
    )
    nodes = [
        Node("reshape", f"{node.name}.flat", (node.inputs[0],), (flat,), {"shape": (1, inputs)}),
        Node("gemm", f"{node.name}.product", (flat, kernel), (product,)),
    ]
    if len(node.inputs) < 3 or not node.inputs[2]:
        return [*nodes, Node("reshape", node.name, (product,), node.outputs, {"shape": output})]
    channels = {"shape": (1, output[1], 1, 1)}
    return [
        *nodes,
        Node("reshape", f"{node.name}.image", (product,), (image,), {"shape": output}),
        Node("reshape", f"{node.name}.bias", (node.inputs[2],), (bias,), channels),
        Node("add", node.name, (image, bias), node.outputs),
    ]

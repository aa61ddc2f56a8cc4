"""Passes that remove what computes nothing: constants, copies, moves of moves, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loopwright.graph.evaluate import evaluate_node
from loopwright.graph.ir import Array, Graph, Node
from loopwright.graph.passes.rewrite import Rewriter, rewrite, wide
from loopwright.ops.attributes import integers, number, text

_ALWAYS_FOLDED = 1 << 18
"""Elements that a folded constant may have, whatever it comes from."""
_COMPARED = 8
"""Constants of up to so many elements are compared: numbers that models are written with."""


def fold_constants(graph: Graph) -> Graph:
    """The graph with what depends on no input computed, unless that is much larger than its parts.

    Establishes: a node whose inputs are all constants makes a large value of small ones.
    """
    found: dict[str, Array] = {}
    nodes = []
    for node in graph.nodes:
        arrays = [found.get(name, graph.constants.get(name)) for name in node.inputs]
        known = [a for a in arrays if a is not None]
        whole = len(known) == sum(map(bool, node.inputs))
        if whole and _is_worth(graph, node, known):
            found.update(zip(node.outputs, evaluate_node(node, arrays), strict=True))
        else:
            nodes.append(node)
    return graph.with_nodes(nodes, found) if found else graph


def _is_worth(graph: Graph, node: Node, parts: Sequence[Array]) -> bool:
    size = sum(int(np.prod(graph.values[name].shape)) for name in node.outputs)
    return size <= max(_ALWAYS_FOLDED, 2 * sum(a.size for a in parts))


def remove_copies(graph: Graph) -> Graph:
    """The graph without nodes whose output is what they read.

    Establishes: an identity makes an output of the graph, of its input, a constant, or another
        output.
    """
    graph = rewrite(graph, _copy)
    makers = graph.producers
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        source = node.inputs[0]
        is_output = node.op == "identity" and node.outputs[0] in graph.outputs
        if is_output and source in makers and source not in {*graph.outputs, *renamed}:
            renamed[source] = node.outputs[0]
    if not renamed:
        return graph
    kept = [
        n for n in graph.nodes if renamed.get(n.inputs[0]) != n.outputs[0] or n.op != "identity"
    ]
    return graph.with_nodes(_renamed(node, renamed) for node in kept)


def _renamed(node: Node, names: dict[str, str]) -> Node:
    return replace(
        node,
        inputs=tuple(names.get(n, n) for n in node.inputs),
        outputs=tuple(names.get(n, n) for n in node.outputs),
    )


def _copy(r: Rewriter, node: Node) -> str | Sequence[Node] | None:
    if node.op not in _MAY_COPY or not _copies(r, node):
        return None
    if node.outputs[0] in r.graph.outputs:
        return None if node.op == "identity" else [r.node(node, "identity", node.inputs[:1], {})]
    return node.inputs[0]


_MAY_COPY = frozenset(
    {"identity", "cast", "reshape", "expand", "transpose", "slice", "pad", "tile", "concat", "clip"}
)


def _copies(r: Rewriter, node: Node) -> bool:
    if r.value(node.inputs[0]) != r.value(node.outputs[0]):
        return False
    match node.op:
        case "transpose":
            return integers(node.attrs, "perm") == tuple(range(len(integers(node.attrs, "perm"))))
        case "slice":
            return all(step > 0 for step in integers(node.attrs, "steps"))
        case "pad":
            return not any(integers(node.attrs, "pads"))
        case "concat":
            return len(node.inputs) == 1
        case "clip":
            return not node.attrs
        case _:
            return True


def merge_moves(graph: Graph) -> Graph:
    """The graph with reshapes of reshapes and transposes of transposes made one.

    Establishes: no reshape reads a reshape, no transpose a transpose, and a transpose moves a
    dimension of more than one element past another.
    """
    return rewrite(graph, _move)


def _move(r: Rewriter, node: Node) -> Sequence[Node] | None:
    before = r.maker(node.inputs[0], node.op) if node.inputs else None
    if node.op == "reshape":
        return None if before is None else [replace(node, inputs=before.inputs)]
    if node.op != "transpose":
        return None
    perm, source = integers(node.attrs, "perm"), node.inputs[0]
    if before is not None:
        first = integers(before.attrs, "perm")
        perm, source = tuple(first[p] for p in perm), before.inputs[0]
    shape = r.value(source).shape
    moved = [p for p in perm if shape[p] > 1]
    if moved == sorted(moved):
        made = r.maker(source, "reshape")  # often of a transpose that moved nothing either
        source = source if made is None else made.inputs[0]
        return [r.node(node, "reshape", [source], {"shape": tuple(shape[p] for p in perm)})]
    return None if before is None else [r.node(node, "transpose", [source], {"perm": perm})]


def merge_common(graph: Graph) -> Graph:
    """The graph with nodes that compute the same made one, and equal small constants.

    Establishes: no two nodes have the same operator, inputs and attributes, but for outputs.
    """
    seen: dict[object, str] = {}
    alike: dict[object, str] = {}
    swap: dict[str, str] = {}
    for name, array in graph.constants.items():
        if array.size <= _COMPARED and name not in graph.outputs:
            key = (array.shape, array.dtype.name, array.tobytes())
            swap[name] = alike.setdefault(key, name)

    def merged(_: Rewriter, node: Node) -> str | Sequence[Node] | None:
        inputs = tuple(swap.get(name, name) for name in node.inputs)
        if len(node.outputs) == 1:
            first = seen.setdefault((node.op, inputs, *sorted(node.attrs.items())), node.outputs[0])
            if first != node.outputs[0] and node.outputs[0] not in graph.outputs:
                return first
        return None if inputs == node.inputs else [replace(node, inputs=inputs)]

    return rewrite(graph, merged)


def plain_arithmetic(graph: Graph) -> Graph:
    """The graph with divisions by powers of two as products, which have the same value.

    Establishes: no division by a constant whose elements are all powers of two.
    """
    return rewrite(graph, _product)


def _product(r: Rewriter, node: Node) -> Sequence[Node] | None:
    divisor = r.constant(node.inputs[1]) if node.op == "div" else None
    if divisor is None or divisor.dtype.kind != "f" or not np.all(np.isfinite(divisor)):
        return None
    mantissa, exponent = np.frexp(divisor)
    if np.any(np.abs(mantissa) != 0.5) or np.any(np.abs(exponent) > 100):
        return None
    inverse = r.keep(
        np.reciprocal(wide(divisor)).astype(divisor.dtype), f"{node.inputs[1]}.inverse"
    )
    return [r.node(node, "mul", [node.inputs[0], inverse], {})]


def merge_pads(graph: Graph) -> Graph:
    """The graph with zeros around images added by the convolution that reads them.

    Establishes: no convolution is the only reader of an image padded with zeros.
    """
    return rewrite(graph, _padded)


def _padded(r: Rewriter, node: Node) -> Sequence[Node] | None:
    pad = r.lone(node.inputs[0], "pad") if node.op == "conv" else None
    if pad is None or text(pad.attrs, "mode", "constant") != "constant":
        return None
    given = integers(pad.attrs, "pads")
    rank = len(given) // 2
    around = (*given[2:rank], *given[rank + 2 :])
    outside = (*given[:2], *given[rank : rank + 2])
    if number(pad.attrs, "value", 0.0) != 0 or min(given) < 0 or any(outside):
        return None
    own = integers(node.attrs, "pads", (0,) * len(around))
    pads = tuple(a + b for a, b in zip(around, own, strict=True))
    attrs = {**node.attrs, "pads": pads}
    return [r.node(node, "conv", (pad.inputs[0], *node.inputs[1:]), attrs)]

"""Activations that a model spells out, as the operators that they are.

Gelu, silu, hard_swish and mish then fit into the epilogue of a convolution or product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from loopwright.graph.ir import Graph, Node

_NEAR = 1e-5
_GATES: Mapping[str, str] = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}
"""What x times such a gate of x is called."""


def name_activations(graph: Graph) -> Graph:
    """The graph with activations as one operator each.

    Establishes: x * sigmoid(x) is silu(x); 0.5 * x * (1 + erf(x / sqrt(2))), in the orders in which
    exporters write it, is gelu(x); likewise hard_swish and mish.
    """
    finder = _Finder(graph)
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op == "mul":
            for match in (finder.gelu, finder.gated):
                made = match(node)
                if made is not None:
                    found[node.name] = made
                    break
    if not found:
        return graph
    return graph.with_nodes(found.get(node.name, node) for node in graph.nodes)


class _Finder:
    """Looks at what a node reads."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = graph.producers

    def gelu(self, node: Node) -> Node | None:
        """The gelu that `node` computes, if it does."""
        factors = self._factors(node)
        halves = [f for f in factors if self._is(f, 0.5)]
        others = [f for f in factors if f not in halves]
        if len(halves) != 1 or len(others) != 2:
            return None
        for x, gate in (others, reversed(others)):
            if self._is_one_plus_erf(gate, x):
                return Node("gelu", node.name, (x,), node.outputs, {"approximate": "none"})
        return None

    def gated(self, node: Node) -> Node | None:
        """The silu, hard_swish or mish that `node` computes, if it does."""
        for x, gate in (node.inputs, node.inputs[::-1]):
            maker = self.producers.get(gate)
            if maker is None:
                continue
            if maker.inputs == (x,) and self._is_gate(maker):
                return Node(_GATES[maker.op], node.name, (x,), node.outputs)
            inner = self.producers.get(maker.inputs[0]) if maker.op == "tanh" else None
            if inner is not None and inner.op == "softplus" and inner.inputs == (x,):
                return Node("mish", node.name, (x,), node.outputs)
        return None

    def _is_gate(self, node: Node) -> bool:
        if node.op == "hard_sigmoid":
            alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
            sixth = isinstance(alpha, float) and math.isclose(alpha, 1 / 6, rel_tol=_NEAR)
            return sixth and beta == 0.5
        return node.op in _GATES

    def _factors(self, node: Node) -> list[str]:
        """The three values that two multiplications in a row take together."""
        found: list[str] = []
        for name in node.inputs:
            maker = self.producers.get(name)
            if maker is not None and maker.op == "mul" and len(found) < 2:
                found += maker.inputs
            else:
                found.append(name)
        return found

    def _is_one_plus_erf(self, name: str, x: str) -> bool:
        """Whether `name` is 1 + erf(x / sqrt(2))."""
        inner = self._other("add", name, lambda other: self._is(other, 1.0))
        erf = self.producers.get(inner) if inner is not None else None
        if erf is None or erf.op != "erf":
            return False
        divided = self._other("div", erf.inputs[0], lambda other: self._is(other, math.sqrt(2)))
        times = self._other("mul", erf.inputs[0], lambda other: self._is(other, math.sqrt(0.5)))
        return x in (divided, times)

    def _other(self, op: str, name: str, accepts: Callable[[str], bool]) -> str | None:
        """What `name` is made of by `op` with a constant that is accepted."""
        maker = self.producers.get(name)
        if maker is None or maker.op != op:
            return None
        a, b = maker.inputs
        if accepts(b):
            return a
        return b if op != "div" and accepts(a) else None

    def _is(self, name: str, number: float) -> bool:
        """Whether a value is the constant `number`."""
        array = self.graph.constants.get(name)
        return (
            array is not None
            and array.size == 1
            and bool(np.isclose(float(array.reshape(-1)[0]), number, rtol=_NEAR, atol=0))
        )

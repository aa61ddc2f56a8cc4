"""Going through a graph once and replacing nodes: what the passes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.graph.ir import Array, Graph, Node, Value
from loopwright.ops.attributes import NodeAttr


class Rewriter:
    """A graph while its nodes are replaced: what makes each value, and what reads it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._made: dict[str, Node] = {}
        self._new: dict[str, Array] = {}
        self._same: dict[str, str] = {}
        self._taken = {*graph.values, *graph.constants}
        self._names = {node.name for node in graph.nodes}
        reads = Counter(name for node in graph.nodes for name in node.inputs)
        self._single = {name for name, count in reads.items() if count == 1} - {*graph.outputs}

    def maker(self, value: str, op: str = "") -> Node | None:
        """The node before this one that makes `value`, if it is an `op`."""
        node = self._made.get(value)
        return node if node is not None and (not op or node.op == op) else None

    def lone(self, value: str, op: str = "") -> Node | None:
        """`maker`, if `value` is read once and no output of the graph: the node becomes free."""
        return self.maker(value, op) if value in self._single else None

    def value(self, name: str) -> Value:
        """The shape and dtype of a value of the graph as it was."""
        return self.graph.values[name]

    def constant(self, name: str) -> Array | None:
        """The array that `name` is, None when it is computed."""
        return self._new.get(name, self.graph.constants.get(name))

    def scalar(self, name: str) -> float | None:
        """The number that `name` is, if it is a constant of one element."""
        array = self.constant(name)
        return None if array is None or array.size != 1 else float(array.reshape(()).astype("f8"))

    def keep(self, array: Array, hint: str) -> str:
        """The name of a new constant; it starts with `hint`."""
        name = _fresh(hint, self._taken)
        self._new[name] = array
        return name

    def node(
        self,
        like: Node,
        op: str,
        inputs: Sequence[str],
        attrs: Mapping[str, NodeAttr],
        out: str = "",
    ) -> Node:
        """A node to put in place of `like`: its last, or one before that, which makes `out...`."""
        if not out:
            return Node(op, like.name, tuple(inputs), like.outputs, attrs)
        name = _fresh(f"{like.name}.{out}", self._names)
        return Node(
            op, name, tuple(inputs), (_fresh(f"{like.outputs[0]}.{out}", self._taken),), attrs
        )

    def run(self, rule: Rule) -> Graph:
        """The graph with each node replaced by what `rule` gives for it."""
        nodes: list[Node] = []
        changed = False
        for old in self.graph.nodes:
            node = self._redirected(old)
            found = rule(self, node)
            changed = changed or found is not None or node is not old
            if isinstance(found, str) and node.outputs[0] not in self.graph.outputs:
                self._same[node.outputs[0]] = found
                continue
            made = (node,) if found is None or isinstance(found, str) else tuple(found)
            for each in made:
                self._made.update(dict.fromkeys(each.outputs, each))
            nodes.extend(made)
        return self.graph.with_nodes(nodes, self._new) if changed else self.graph

    def _redirected(self, node: Node) -> Node:
        if not any(name in self._same for name in node.inputs):
            return node
        inputs = tuple(self._same.get(name, name) for name in node.inputs)
        self._single.difference_update(inputs)
        return replace(node, inputs=inputs)


Rule: TypeAlias = Callable[[Rewriter, Node], "Sequence[Node] | str | None"]
"""What a node becomes: others, the last of which make its outputs; a value that is its output
already; or None to leave it.
"""


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """`graph` with each node replaced by what `rule` gives for it."""
    return Rewriter(graph).run(rule)


def other(node: Node, value: str) -> str | None:
    """What a node of two inputs reads besides `value`; None when it does not read it just once."""
    if len(node.inputs) != 2 or node.inputs.count(value) != 1:
        return None
    return node.inputs[1 - node.inputs.index(value)]


def wide(array: Array) -> npt.NDArray[np.float64]:
    """`array` as float64."""
    return array.astype(np.float64)


def _fresh(hint: str, taken: set[str]) -> str:
    name, count = hint, 0
    while name in taken:
        count += 1
        name = f"{hint}.{count}"
    taken.add(name)
    return name

"""Graphs under construction: nodes are appended, and what is constant is computed at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.graph.evaluate import evaluate_node
from loopwright.graph.ir import Array, Graph, Node, Value, build, infer
from loopwright.ir import dtype as dt
from loopwright.ops.attributes import NodeAttr

_ALWAYS_FOLDED = 1 << 18
"""Elements of a constant that are folded whatever they come from."""
_GROWTH = 4
"""How much larger than its inputs a folded constant may be beyond that."""


class GraphBuilder:
    """Appends nodes to a graph, names them, and folds those whose inputs are all constants.

    Names that are `reserved` are given by `rename` only.
    """

    def __init__(self, label: str, reserved: Iterable[str] = ()) -> None:
        self._label = label
        self._nodes: list[Node] = []
        self._values: dict[str, Value] = {}
        self._constants: dict[str, Array] = {}
        self._inputs: dict[str, Value] = {}
        self._taken = set(reserved)
        self._node_names: set[str] = set()
        self._tried: dict[str, int] = {}
        self._tried_nodes: dict[str, int] = {}
        self._recent: set[str] = set()
        self._settled = 0

    def input(self, name: str, value: Value) -> str:
        """The next input of the graph."""
        self._taken.add(name)
        self._inputs[name] = self._values[name] = value
        return name

    def constant(self, array: Array, hint: str = "constant") -> str:
        """A value that is `array`; its name starts with `hint`.

        Raises: UnsupportedError for a dtype that no graph has.
        """
        name = self._fresh(hint)
        try:
            self._values[name] = Value(array.shape, dt.parse(array.dtype.name))
        except UnsupportedError as error:
            raise UnsupportedError(f"{self._label}: constant {hint!r}: {error}") from error
        self._constants[name] = array
        self._recent.add(name)
        return name

    def named_constant(self, name: str, array: Array) -> str:
        """A value called just `name`, which is `array`."""
        return self.rename(self.constant(array, name), name)

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        attrs: Mapping[str, NodeAttr] | None = None,
        *,
        name: str = "",
        hint: str = "",
        outputs: int = 1,
    ) -> tuple[str, ...]:
        """The outputs of a new node, or constants when all that it reads is constant.

        Args:
            name: how the node's name starts; the operator without it.
            hint: how the names of its outputs start; the node's name without it.

        Raises: ModelError or UnsupportedError naming the node, when the inputs do not fit.
        """
        made = tuple(self._fresh(hint or name or op) for _ in range(outputs))
        node = Node(op, self._node_name(name or op), tuple(inputs), made, attrs or {})
        folded = self._folded(node)
        if folded is not None:
            for value, array in zip(made, folded, strict=True):
                self._constants[value] = array
                self._values[value] = Value(array.shape, dt.parse(array.dtype.name))
            self._recent.update(made)
            return made
        for value, kind in zip(made, infer(self._label, node, self._values), strict=True):
            self._values[value] = kind
        self._recent.update(made)
        self._nodes.append(node)
        return made

    def value(self, name: str) -> Value:
        """The shape and dtype of `name`."""
        return self._values[name]

    def array(self, name: str) -> Array | None:
        """The value of a constant, None for what is computed."""
        return self._constants.get(name)

    def settle(self) -> None:
        """From here on, `rename` leaves what there is alone."""
        self._recent.clear()
        self._settled = len(self._nodes)

    def rename(self, old: str, new: str) -> str:
        """`new`, if `old` was made since `settle` and could be renamed so; else `old`."""
        if old not in self._recent or old == new:
            return old
        self._recent.remove(old)
        self._values[new] = self._values.pop(old)
        if old in self._constants:
            self._constants[new] = self._constants.pop(old)
        recent = self._nodes[self._settled :]
        self._nodes[self._settled :] = [_renamed(node, old, new) for node in recent]
        self._taken.add(new)
        return new

    def graph(self, name: str, outputs: Sequence[str]) -> Graph:
        """The graph that computes `outputs`."""
        return build(name, self._inputs, self._nodes, outputs, self._constants)

    def _folded(self, node: Node) -> tuple[Array, ...] | None:
        arrays = [self._constants.get(name) if name else None for name in node.inputs]
        if any(name and a is None for name, a in zip(node.inputs, arrays, strict=True)):
            return None
        given = sum(a.size for a in arrays if a is not None)
        if all(a.size for a in arrays if a is not None):
            made = infer(self._label, node, self._values)
            size = sum(value.nbytes // value.dtype.nbytes for value in made)
            if size > max(_ALWAYS_FOLDED, _GROWTH * given):
                return None
        try:
            return evaluate_node(node, arrays)
        except (ShapeError, ValueError) as error:
            whole = all(a.size for a in arrays if a is not None)
            kind = ShapeError if whole else UnsupportedError
            raise kind(f"{self._label}: node {node.name!r} ({node.op}): {error}") from error

    def _fresh(self, hint: str) -> str:
        name = _unused(hint, self._taken, self._tried)
        self._taken.add(name)
        return name

    def _node_name(self, hint: str) -> str:
        name = _unused(hint, self._node_names, self._tried_nodes)
        self._node_names.add(name)
        return name


def _unused(hint: str, taken: Set[str], tried: dict[str, int]) -> str:
    """`hint`, or with the first number that is free; `tried` says up to which none is."""
    if hint not in taken:
        return hint
    count = tried.get(hint, 0) + 1
    while f"{hint}.{count}" in taken:
        count += 1
    tried[hint] = count
    return f"{hint}.{count}"


def _renamed(node: Node, old: str, new: str) -> Node:
    swap = {old: new}
    return replace(
        node,
        inputs=tuple(swap.get(n, n) for n in node.inputs),
        outputs=tuple(swap.get(n, n) for n in node.outputs),
    )

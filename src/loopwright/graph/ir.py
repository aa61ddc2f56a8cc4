"""The graph of a model: operators on whole tensors of fixed shapes.

    Graph ::= inputs, nodes in order, outputs, constants
    Node  ::= outputs = op(inputs; attrs)

Values go by name. Every value is an input, a constant, or an output of one node, and nodes come
after what they read. What an operator means is a tensor expression (`ops`): the shapes of a node's
outputs are the shapes of those tensors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from loopwright.errors import ModelError, ShapeError, UnsupportedError
from loopwright.ir import dtype as dt
from loopwright.ir.dtype import DType
from loopwright.ops.attributes import NodeAttr
from loopwright.ops.registry import define
from loopwright.te.tensor import Tensor, placeholder

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Value:
    """The shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        total = self.dtype.nbytes
        for extent in self.shape:
            total *= extent
        return total

    def __str__(self) -> str:
        return f"{self.dtype}[{'x'.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Node:
    """`outputs = op(inputs; attrs)`. An optional input that is left out is ""."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, NodeAttr] = field(default_factory=dict)

    def __str__(self) -> str:
        given = ", ".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{', '.join(self.outputs)} = {self.op}({', '.join(self.inputs)}; {given})"


@dataclass(frozen=True, slots=True)
class Graph:
    """A model. `inputs` and `outputs` name its arguments and results, in order."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    constants: Mapping[str, Array]

    @property
    def producers(self) -> dict[str, Node]:
        """The node that makes each computed value."""
        return {name: node for node in self.nodes for name in node.outputs}

    @property
    def readers(self) -> dict[str, tuple[Node, ...]]:
        """The nodes that read each value, once each."""
        found: defaultdict[str, dict[str, Node]] = defaultdict(dict)
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    found[name][node.name] = node
        return {name: tuple(nodes.values()) for name, nodes in found.items()}

    def with_nodes(
        self, nodes: Iterable[Node], constants: Mapping[str, Array] | None = None
    ) -> Graph:
        """This graph with other nodes, and constants added: values inferred again, dead ones gone.

        Raises: ModelError naming the node whose inputs do not fit it.
        """
        known = {**self.constants, **(constants or {})}
        given = {name: self.values[name] for name in self.inputs}
        return build(self.name, given, nodes, self.outputs, known, self)

    def with_outputs(self, outputs: Sequence[str]) -> Graph:
        """This graph with other outputs."""
        return replace(self, outputs=tuple(outputs))

    def __str__(self) -> str:
        lines = [f"graph {self.name}({', '.join(f'{n}: {self.values[n]}' for n in self.inputs)})"]
        lines += [f"  {node}  # {self.values[node.outputs[0]]}" for node in self.nodes]
        return "\n".join([*lines, f"  return {', '.join(self.outputs)}"])


def build(
    name: str,
    inputs: Mapping[str, Value],
    nodes: Iterable[Node],
    outputs: Sequence[str],
    constants: Mapping[str, Array],
    before: Graph | None = None,
) -> Graph:
    """The graph of `nodes`, in order, with the values inferred; what no output needs is left out.

    Args:
        before: a graph that shares nodes with this one, whose values need not be inferred again.

    Raises: ModelError naming the node that reads what is not there yet, or whose inputs do not fit.
    """
    ordered = _alive(tuple(nodes), outputs)
    values = dict(inputs)
    used = {n for node in ordered for n in node.inputs} | set(outputs)
    kept = {n: a for n, a in constants.items() if n in used and n not in inputs}
    for constant, array in kept.items():
        values[constant] = Value(array.shape, dt.parse(array.dtype.name))
    shared = {} if before is None else {node.name: node for node in before.nodes}
    for node in ordered:
        made = None
        if before is not None and shared.get(node.name) is node:
            made = _known(node, values, before.values)
        made = infer(name, node, values) if made is None else made
        for output, value in zip(node.outputs, made, strict=True):
            if output in values:
                raise ModelError(f"{name}: node {node.name!r} makes {output!r}, which exists")
            values[output] = value
    missing = [output for output in outputs if output not in values]
    if missing:
        raise ModelError(f"{name}: nothing computes the output {missing[0]!r}")
    return Graph(name, tuple(inputs), tuple(outputs), ordered, values, kept)


def _known(
    node: Node, values: Mapping[str, Value], before: Mapping[str, Value]
) -> tuple[Value, ...] | None:
    """What the outputs of `node` were, if it read what it reads now."""
    if any(name and values.get(name) != before.get(name) for name in node.inputs):
        return None
    return tuple(before[name] for name in node.outputs)


def infer(graph: str, node: Node, values: Mapping[str, Value]) -> tuple[Value, ...]:
    """What the outputs of `node` are, given the values it reads.

    Raises: ModelError or UnsupportedError naming the graph and the node.
    """
    where = f"{graph}: node {node.name!r} ({node.op})"
    operands: list[Tensor | None] = []
    for place, name in enumerate(node.inputs):
        if name and name not in values:
            raise ModelError(f"{where} reads {name!r}, which nothing before it computes")
        operands.append(operand(values[name], f"in{place}") if name else None)
    try:
        found = define(node.op, node.attrs, operands, "out")
    except UnsupportedError as error:
        raise UnsupportedError(f"{where}: {error}") from error
    except ShapeError as error:
        raise ModelError(f"{where}: {error}") from error
    if len(found) != len(node.outputs):
        raise ModelError(f"{where} has {len(node.outputs)} outputs, {node.op} makes {len(found)}")
    return tuple(Value(tensor.shape, tensor.dtype) for tensor in found)


def operand(value: Value, name: str) -> Tensor:
    """A tensor that stands for a value."""
    return placeholder(value.shape, value.dtype, name)


def verify(graph: Graph) -> None:
    """Check that the graph is what this file says; values are those that its nodes make.

    Raises: ModelError saying what is wrong with which node or value.
    """
    given = {name: graph.values[name] for name in graph.inputs if name in graph.values}
    if len(given) != len(graph.inputs):
        raise ModelError(f"{graph.name}: an input has no shape")
    again = build(graph.name, given, graph.nodes, graph.outputs, graph.constants)
    for name, value in again.values.items():
        if graph.values.get(name) != value:
            raise ModelError(f"{graph.name}: {name!r} is {value}, not {graph.values.get(name)}")


def _alive(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[Node, ...]:
    """The nodes that the outputs need."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return tuple(reversed(kept))

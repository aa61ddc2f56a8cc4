"""From nodes to kernels: what is computed together becomes one workload.

- A convolution or matrix product takes in the elementwise operators that follow it, as far as they
  can be written as its epilogue (`ops/epilogue.py`): bias, residual add, activation. A depthwise
  convolution and the 1x1 convolution that alone reads it are one kernel.
- Other operators form groups: elementwise operators with the one reduction or rearrangement that
  they follow, as long as every value between them is read once.
- Reshapes move nothing (`ViewStep`), and a concatenation (`Join`) may be a matter of where its
  parts are written.

A value is computed once: groups never overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.graph import anchors
from loopwright.graph.ir import Array, Graph, Node, Value, operand
from loopwright.ir import dtype as dt
from loopwright.ops.attributes import AttrValue
from loopwright.ops.opdef import Channels, OpKind
from loopwright.ops.registry import OPS, define
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload, workload


@dataclass(frozen=True, slots=True)
class FusedKernel:
    """A workload with the values that it reads and writes, in the order of its arguments.

    `operator` and `attrs` say what it is: an operator that can be asked for by name, or "fused"
    without attributes. `nodes` are the names of the nodes it computes.
    """

    name: str
    nodes: tuple[str, ...]
    operator: str
    attrs: tuple[tuple[str, AttrValue], ...]
    workload: Workload
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keeps_channels: bool
    """Whether dimension 1 of a 4-D output is that of its inputs, so that both may be blocked."""
    has_constant_weight: bool = False
    """Of an operator by name: whether its second operand comes with the model."""


@dataclass(frozen=True, slots=True)
class ViewStep:
    """`output` is the elements of `source` in row-major order, in another shape."""

    name: str
    source: str
    output: str


@dataclass(frozen=True, slots=True)
class Join:
    """`output` is its parts, one after another along `axis`; `kernel` copies them together."""

    kernel: FusedKernel
    axis: int


Step: TypeAlias = FusedKernel | ViewStep | Join


@dataclass(frozen=True, slots=True)
class Fused:
    """The steps of a graph in an order in which they can run.

    `values` and `constants` are those of the graph, and the constants that were changed for a
    kernel.
    """

    graph: Graph
    steps: tuple[Step, ...]
    values: Mapping[str, Value]
    constants: Mapping[str, Array]

    @property
    def kernels(self) -> tuple[FusedKernel, ...]:
        """The steps that compute, copies of a concatenation included."""
        found = (step.kernel if isinstance(step, Join) else step for step in self.steps)
        return tuple(step for step in found if isinstance(step, FusedKernel))


def fuse(graph: Graph) -> Fused:
    """The kernels of `graph`.

    Raises: ModelError or UnsupportedError naming the node that cannot be computed.
    """
    groups = _groups(graph)
    constants = dict(graph.constants)
    composer = _Composer(graph)
    steps: list[Step] = []
    for members in groups:
        step = _step(graph, members, constants, composer)
        if isinstance(step, ViewStep) and step.source in constants:
            shape = graph.values[step.output].shape
            constants[step.output] = constants[step.source].reshape(shape)
        else:
            steps.append(step)
    added = {name: array for name, array in constants.items() if name not in graph.constants}
    values = dict(graph.values)
    values.update({name: _value(array) for name, array in added.items()})
    return Fused(graph, tuple(steps), values, constants)


def _value(array: Array) -> Value:
    return Value(array.shape, dt.parse(array.dtype.name))


def _step(
    graph: Graph, members: Sequence[Node], constants: dict[str, Array], composer: _Composer
) -> Step:
    first, last = members[0], members[-1]
    if len(members) == 1 and first.op == "reshape":
        return ViewStep(first.name, first.inputs[0], first.outputs[0])
    if anchors.is_anchor(graph, first):
        found = anchors.kernel(graph, members, constants)
        return FusedKernel(
            last.name,
            tuple(node.name for node in members),
            operator=found.operator,
            attrs=found.attrs,
            workload=found.workload,
            inputs=found.inputs,
            outputs=last.outputs,
            keeps_channels=True,
            has_constant_weight=found.inputs[1] in constants,
        )
    made = composer.kernel(members)
    if len(members) == 1 and first.op == "concat":
        axis = first.attrs["axis"]
        if isinstance(axis, int):
            return Join(made, axis)
    return made


# groups


class _Groups:
    """Which nodes are computed together; a group is named by its first node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.place = {node.name: n for n, node in enumerate(graph.nodes)}
        self.of: dict[str, str] = {}
        self.members: dict[str, list[Node]] = {}
        self.reductions: dict[str, int] = {}

    def open(self, node: Node) -> None:
        """Start a group with `node`."""
        self.of[node.name] = node.name
        self.members[node.name] = [node]
        self.reductions[node.name] = _weight(node)

    def join(self, node: Node, groups: Iterable[str]) -> None:
        """Put `node` behind the members of `groups`, which become one."""
        first, *others = dict.fromkeys(groups)
        for other in others:
            self.members[first] += self.members.pop(other)
            self.reductions[first] += self.reductions.pop(other)
        self.members[first] = sorted(self.members[first], key=lambda n: self.place[n.name])
        self.members[first].append(node)
        for member in self.members[first]:
            self.of[member.name] = first


def _weight(node: Node) -> int:
    """How much else a group with `node` can hold: one operator that is not elementwise."""
    return 0 if OPS[node.op].kind is OpKind.ELEMENTWISE else 1


def _groups(graph: Graph) -> list[list[Node]]:
    """The nodes of each kernel, in an order in which kernels can run."""
    groups = _Groups(graph)
    producers, readers = graph.producers, graph.readers
    taken: set[str] = set()
    for node in graph.nodes:
        if node.name in taken or not anchors.is_anchor(graph, node):
            continue
        chain = anchors.chain(graph, node, readers, taken)
        taken.update(member.name for member in chain)
        groups.open(node)
        for member in chain[1:]:
            groups.join(member, [node.name])
    for node in graph.nodes:
        if node.name in groups.of:
            continue
        joined = _joinable(graph, node, groups, producers, readers, taken)
        if joined:
            groups.join(node, joined)
        else:
            groups.open(node)
    found = list(groups.members.values())
    return sorted(found, key=lambda members: groups.place[members[-1].name])


def _joinable(
    graph: Graph,
    node: Node,
    groups: _Groups,
    producers: Mapping[str, Node],
    readers: Mapping[str, tuple[Node, ...]],
    taken: set[str],
) -> list[str]:
    """The groups that `node` becomes part of: those that make what it alone reads."""
    if OPS[node.op].kind is not OpKind.ELEMENTWISE or len(node.outputs) != 1:
        return []
    shape = graph.values[node.outputs[0]].shape
    found: list[str] = []
    for name in dict.fromkeys(node.inputs):
        maker = producers.get(name)
        if maker is None or maker.name in taken or OPS[maker.op].alone:
            continue
        alone = len(readers[name]) == 1 and name not in graph.outputs and len(maker.outputs) == 1
        if not alone or graph.values[name].shape != shape:
            continue
        group = groups.of[maker.name]
        weight = sum(groups.reductions[g] for g in {*found, group})
        if weight <= 1 and len(groups.members[group]) < MAX_MEMBERS:
            found.append(group)
    return list(dict.fromkeys(found))


MAX_MEMBERS = 24
"""More elementwise operators than these in a kernel are cut: code grows and gains nothing."""


# workloads


@dataclass(frozen=True, slots=True)
class _Operand:
    """What a member reads: the output of a member before it, or a value from outside.

    `place` counts outputs and outer values alike, in the order in which they are met.
    """

    place: int
    outer: Value | None = None
    is_constant: bool = False


_Form: TypeAlias = tuple[object, ...]
"""What makes kernels alike: their operators, attributes, operands and which values are results."""


class _Composer:
    """Kernels of nodes that are not a known operator, by their definitions.

    Those that are alike share one workload: a recurrent layer is the same few in each step.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._readers = graph.readers
        self._outputs = frozenset(graph.outputs)
        self._known: dict[_Form, Workload] = {}

    def kernel(self, members: Sequence[Node]) -> FusedKernel:
        """The kernel of `members`."""
        graph = self._graph
        places: dict[str, int] = {}
        operands: list[tuple[_Operand | None, ...]] = []
        inside: set[str] = set()
        for node in members:
            operands.append(tuple(self._operand(name, places, inside) for name in node.inputs))
            for name in node.outputs:
                places.setdefault(name, len(places))
                inside.add(name)
        results = self._results(members)
        form = (
            tuple((n.op, tuple(sorted(n.attrs.items())), len(n.outputs)) for n in members),
            tuple(operands),
            tuple(places[name] for name in results),
        )
        used = [name for name in places if name not in inside]
        if form not in self._known:
            self._known[form] = self._workload(members, used, results)
        return FusedKernel(
            members[-1].name,
            tuple(node.name for node in members),
            operator="fused",
            attrs=(("ops", "+".join(node.op for node in members)),),
            workload=self._known[form],
            inputs=tuple(used),
            outputs=tuple(results),
            keeps_channels=all(_keeps_channels(graph, node) for node in members),
        )

    def _operand(self, name: str, places: dict[str, int], inside: set[str]) -> _Operand | None:
        if not name:
            return None
        place = places.setdefault(name, len(places))
        if name in inside:
            return _Operand(place)
        return _Operand(place, self._graph.values[name], name in self._graph.constants)

    def _results(self, members: Sequence[Node]) -> list[str]:
        """The values that others read, or the model's user; the last one where nobody does."""
        names = {node.name for node in members}
        found = [
            name
            for node in members
            for name in node.outputs
            if name in self._outputs
            or any(reader.name not in names for reader in self._readers.get(name, ()))
        ]
        return found or [members[-1].outputs[0]]

    def _workload(
        self, members: Sequence[Node], used: Sequence[str], results: Sequence[str]
    ) -> Workload:
        graph = self._graph
        inputs = {name: operand(graph.values[name], f"a{n}") for n, name in enumerate(used)}
        tensors: dict[str, Tensor] = dict(inputs)
        for place, node in enumerate(members):
            operands = [tensors[name] if name else None for name in node.inputs]
            made = define(node.op, node.attrs, operands, f"t{place}")
            tensors.update(zip(node.outputs, made, strict=True))
        outputs = [tensors[name] for name in results]
        return workload(
            outputs,
            [*inputs.values(), *outputs],
            name=_label(members),
            constants=[t.name for name, t in inputs.items() if name in graph.constants],
        )


def _label(members: Sequence[Node]) -> str:
    """A short name of what the members compute."""
    main = [node.op for node in members if _weight(node)]
    return main[0] if main else members[0].op


def _keeps_channels(graph: Graph, node: Node) -> bool:
    """Whether element (n, c, ...) of the output depends on channel c of 4-D inputs alone, or is a
    concatenation of channels.
    """
    value = graph.values[node.outputs[0]]
    if len(value.shape) != 4:
        return False
    match OPS[node.op].channels:
        case Channels.KEPT:
            return True
        case Channels.JOINED:
            return node.attrs.get("axis") == 1
        case Channels.UNFOLDED:
            axes = node.attrs.get("axes", ())
            keeps = node.attrs.get("keepdims") == 1
            return isinstance(axes, tuple) and set(axes) <= {2, 3} and keeps
        case Channels.UNMOVED:
            source = graph.values[node.inputs[0]].shape
            return source[:2] == value.shape[:2]
        case Channels.MIXED:
            return False

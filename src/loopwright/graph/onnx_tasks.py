"""What there is to tune in an ONNX model: its convolutions and matrix products, and how many.

A batch normalisation and a Relu that directly follow a convolution, and a bias that follows a
matrix product, become part of the task. Operators that are not tuned are counted, so that a report
can say what it leaves out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.errors import ModelError, UnsupportedError
from loopwright.graph.onnx_file import Graph, Node
from loopwright.ir import dtype as dt
from loopwright.ops.attrs import AttrValue

Attrs: TypeAlias = tuple[tuple[str, AttrValue], ...]


@dataclass(frozen=True, slots=True)
class ModelTask:
    """An operator with its attributes, and the nodes of the model that are this task."""

    operator: str
    attrs: Attrs
    nodes: tuple[str, ...]

    @property
    def count(self) -> int:
        """How often the model computes it."""
        return len(self.nodes)


@dataclass(frozen=True, slots=True)
class ModelTasks:
    """The tasks of a model in the order of their first node; `untuned` counts other operators."""

    label: str
    tasks: tuple[ModelTask, ...]
    untuned: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A node that is a task. `folded` are the nodes after it that become part of it."""

    operator: str
    attrs: Attrs
    folded: tuple[str, ...] = ()


def model_tasks(graph: Graph) -> ModelTasks:
    """The tasks of `graph`.

    Raises: ModelError for an operand without a fixed shape, UnsupportedError for its dtype, each
        naming the node.
    """
    nodes: dict[tuple[str, Attrs], list[str]] = {}
    untuned: Counter[str] = Counter()
    folded: set[str] = set()
    for node in graph.nodes:
        extract = _EXTRACTORS.get(node.operator)
        found = extract(graph, node) if extract else None
        if found is not None:
            nodes.setdefault((found.operator, found.attrs), []).append(node.name)
            folded.update(found.folded)
        elif node.name not in folded and node.operator != "Constant":
            untuned[node.operator] += 1
    tasks = tuple(ModelTask(op, attrs, tuple(names)) for (op, attrs), names in nodes.items())
    return ModelTasks(graph.label, tasks, tuple(untuned.most_common()))


def _conv(graph: Graph, node: Node) -> _Found | None:
    data, weight = _shape(graph, node, 0), _shape(graph, node, 1)
    if len(data) != 4:
        return None
    dtype = _dtype(graph, node)
    groups = int(node.number("group", 1))
    if data[1] != weight[1] * groups or weight[0] % groups:
        raise ModelError(
            f"{_where(graph, node)}: data {data}, weight {weight} and group {groups} do not fit "
            "together"
        )
    strides = node.ints("strides", (1, 1))
    dilation = node.ints("dilations", (1, 1))
    padding = _padding(node, data[2:], weight[2:], strides, dilation)
    bias = len(node.inputs) > 2 and bool(node.inputs[2])
    last, folded = node, []
    norm = graph.only_user(last.outputs[0])
    if norm is not None and norm.operator == "BatchNormalization":
        bias, last = True, norm
        folded.append(norm.name)
    relu = _relu_after(graph, last)
    folded += [relu.name] if relu else []
    depthwise = groups > 1 and groups == data[1] and weight[1] == 1
    attrs: dict[str, AttrValue] = {
        "data": data,
        "weight": weight,
        "strides": strides,
        "padding": padding,
        "dilation": dilation,
    }
    if not depthwise:
        attrs["groups"] = groups
    attrs |= {"bias": bias, "relu": relu is not None}
    operator = "depthwise_conv2d" if depthwise else "conv2d"
    return _Found(operator, _with_dtype(attrs, dtype), tuple(folded))


def _gemm(graph: Graph, node: Node) -> _Found | None:
    if node.number("transA", 0) or node.number("alpha", 1.0) != 1.0:
        return None
    data, weight = _shape(graph, node, 0), _shape(graph, node, 1)
    if not node.number("transB", 0):
        weight = (weight[1], weight[0])
    bias = len(node.inputs) > 2 and bool(node.inputs[2])
    if bias and (node.number("beta", 1.0) != 1.0 or _shape(graph, node, 2)[-1] != weight[0]):
        return None
    return _dense(graph, node, data, weight, bias=bias)


def _matmul(graph: Graph, node: Node) -> _Found | None:
    lhs, rhs = _shape(graph, node, 0), _shape(graph, node, 1)
    if len(lhs) < 2 or len(rhs) < 2:
        return None
    rows, depth = lhs[-2:]
    if len(rhs) == 2 and node.inputs[1] not in graph.computed:
        for extent in lhs[:-2]:
            rows *= extent
        return _dense(graph, node, (rows, depth), (rhs[1], rhs[0]), bias=False)
    if lhs[:-2] != rhs[:-2]:
        return None
    batch = 1
    for extent in lhs[:-2]:
        batch *= extent
    attrs: dict[str, AttrValue] = {"a": (batch, rows, depth), "b": (batch, *rhs[-2:])}
    if node.inputs[1] not in graph.computed:
        attrs["constant_b"] = True
    return _Found("batch_matmul", _with_dtype(attrs, _dtype(graph, node)))


def _dense(
    graph: Graph, node: Node, data: tuple[int, ...], weight: tuple[int, ...], *, bias: bool
) -> _Found:
    """The task `data @ weight.T`, with the bias and the Relu that follow."""
    folded: list[str] = []
    last = node
    after = graph.only_user(node.outputs[0])
    if not bias and after is not None and _adds_bias(graph, after, node.outputs[0], weight[0]):
        bias, last = True, after
        folded.append(after.name)
    relu = _relu_after(graph, last)
    folded += [relu.name] if relu else []
    attrs: dict[str, AttrValue] = {
        "data": data,
        "weight": weight,
        "bias": bias,
        "relu": relu is not None,
    }
    return _Found("dense", _with_dtype(attrs, _dtype(graph, node)), tuple(folded))


def _adds_bias(graph: Graph, node: Node, value: str, channels: int) -> bool:
    """Whether `node` adds a vector of weights to `value`."""
    others = [name for name in node.inputs if name != value]
    if node.operator != "Add" or len(others) != 1 or others[0] in graph.computed:
        return False
    operand = graph.values.get(others[0])
    return operand is not None and operand.shape == (channels,)


def _relu_after(graph: Graph, node: Node) -> Node | None:
    user = graph.only_user(node.outputs[0])
    return user if user is not None and user.operator == "Relu" else None


def _padding(
    node: Node,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Rows above, columns left, rows below, columns right."""
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return node.ints("pads", (0, 0, 0, 0))
    if mode == "VALID":
        return (0, 0, 0, 0)
    before, after = [], []
    for extent, size, step, spread in zip(image, kernel, strides, dilation, strict=True):
        total = max(0, (-(-extent // step) - 1) * step + (size - 1) * spread + 1 - extent)
        small, large = total // 2, total - total // 2
        before.append(large if mode == "SAME_LOWER" else small)
        after.append(small if mode == "SAME_LOWER" else large)
    return (*before, *after)


def _shape(graph: Graph, node: Node, place: int) -> tuple[int, ...]:
    """The shape of an operand of `node`, which must be fixed."""
    name = node.inputs[place] if place < len(node.inputs) else ""
    value = graph.values.get(name)
    where = _where(graph, node)
    if value is None or value.shape is None:
        raise ModelError(
            f"{where}: the shape of its input {name!r} is unknown; an operator before it has no "
            "shape rule, so cut the model there or replace it"
        )
    fixed = tuple(extent for extent in value.shape if extent is not None)
    if len(fixed) != len(value.shape):
        shown = "x".join("?" if extent is None else str(extent) for extent in value.shape)
        raise ModelError(
            f"{where}: its input {name!r} has the dynamic shape {shown}; export the model with "
            "fixed shapes, or fix its inputs with --shape NAME=1x3x224x224"
        )
    return fixed


def _dtype(graph: Graph, node: Node) -> str:
    value = graph.values[node.inputs[0]]
    try:
        return dt.parse(value.dtype).name
    except UnsupportedError as error:
        raise UnsupportedError(f"{_where(graph, node)}: {error}") from error


def _where(graph: Graph, node: Node) -> str:
    return f"{graph.label}: node {node.name!r} ({node.operator})"


def _with_dtype(attrs: dict[str, AttrValue], dtype: str) -> Attrs:
    """`attrs` in order; the dtype is named when it is not float32."""
    return tuple((attrs if dtype == "float32" else attrs | {"dtype": dtype}).items())


_EXTRACTORS: Mapping[str, Callable[[Graph, Node], _Found | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
}

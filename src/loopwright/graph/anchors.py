"""Convolutions and matrix products of a graph, with what follows them, as operators by name.

An anchor is a node that a handcrafted template is for. Its chain is what runs in its epilogue:
elementwise nodes, each the only reader of the one before it. That of a depthwise convolution goes
on through the 1x1 convolution behind it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loopwright.graph.ir import Array, Graph, Node
from loopwright.ops import registry
from loopwright.ops.attributes import AttrValue, integer, integers, number
from loopwright.ops.epilogue import Epilogue, step, text_of
from loopwright.ops.opdef import StepOperand
from loopwright.te.workload import Workload

_SEPARABLE_CHANNELS = 16
"""Depthwise channels are whole vectors of every target."""


@dataclass(frozen=True, slots=True)
class Anchored:
    """An operator with the graph's values for its inputs, in the order of the workload's."""

    operator: str
    attrs: tuple[tuple[str, AttrValue], ...]
    workload: Workload
    inputs: tuple[str, ...]


@dataclass(slots=True)
class _Operator:
    """An operator in the making: `values` are the graph's values by input name."""

    name: str
    attrs: dict[str, AttrValue]
    values: dict[str, str]
    shape: tuple[int, ...]
    channel_dim: int
    steps: list[Epilogue] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)


def is_anchor(graph: Graph, node: Node) -> bool:
    """Whether a handcrafted template computes `node`."""
    output = graph.values[node.outputs[0]]
    if not output.dtype.is_float:
        return False
    match node.op:
        case "conv":
            return len(output.shape) == 4
        case "gemm":
            return _is_dense(graph, node)
        case "matmul":
            return _batches(graph, node) is not None
        case _:
            return False


def chain(
    graph: Graph, anchor: Node, readers: Mapping[str, tuple[Node, ...]], taken: set[str]
) -> list[Node]:
    """`anchor` and the nodes after it that its epilogue computes.

    A depthwise convolution takes in the 1x1 convolution that alone reads it, with its epilogue.
    """
    members = _with_epilogue(graph, anchor, readers, taken)
    pointwise = _pointwise_after(graph, members, readers)
    if pointwise is None:
        return members
    return [*members, *_with_epilogue(graph, pointwise, readers, taken)]


def _with_epilogue(
    graph: Graph, anchor: Node, readers: Mapping[str, tuple[Node, ...]], taken: set[str]
) -> list[Node]:
    members, whole = [anchor], 1
    while True:
        value = members[-1].outputs[0]
        after = readers.get(value, ())
        if value in graph.outputs or len(after) != 1 or after[0].name in taken:
            return members[:whole]
        if _step(graph, anchor, after[0], value) is not None:
            members.append(after[0])
            whole = len(members)
        elif _looks_through(graph, anchor, after[0]):
            members.append(after[0])
        else:
            return members[:whole]


def _looks_through(graph: Graph, anchor: Node, node: Node) -> bool:
    """Whether `node` reshapes rows of a product alone, so that an epilogue can go on behind it."""
    if node.op != "reshape" or anchor.op == "conv":
        return False
    before, after = (graph.values[name].shape for name in (node.inputs[0], node.outputs[0]))
    return bool(after) and before[-1] == after[-1]


def _pointwise_after(
    graph: Graph, members: Sequence[Node], readers: Mapping[str, tuple[Node, ...]]
) -> Node | None:
    """The 1x1 convolution that can be computed with the depthwise one in `members`, if any."""
    value = members[-1].outputs[0]
    after = readers.get(value, ())
    if members[0].op != "conv" or value in graph.outputs or len(after) != 1:
        return None
    pointwise = after[0]
    if pointwise.op != "conv" or pointwise.inputs[0] != value or not _is_1x1(graph, pointwise):
        return None
    depth = _chained(graph, _conv(graph, members[0]), members, dict(graph.constants))
    channels = depth.shape[1]
    one_each = (
        depth.values["weight"] in graph.constants and graph.values[value].shape[1] == channels
    )
    plain = depth.name == "depthwise_conv2d" and "dtype" not in depth.attrs and not depth.extras
    return pointwise if plain and one_each and channels % _SEPARABLE_CHANNELS == 0 else None


def _is_1x1(graph: Graph, node: Node) -> bool:
    """Whether a convolution with a constant weight reads one pixel for each it writes."""
    kernel_size = graph.values[node.inputs[1]].shape[2:]
    plain = kernel_size == (1, 1) and integer(node.attrs, "groups", 1) == 1
    unmoved = integers(node.attrs, "strides", (1, 1)) == (1, 1)
    unpadded = not any(integers(node.attrs, "pads", (0, 0, 0, 0)))
    return plain and unmoved and unpadded and node.inputs[1] in graph.constants


def kernel(graph: Graph, members: Sequence[Node], constants: dict[str, Array]) -> Anchored:
    """The operator of an anchor and its chain; constants that it needs changed are added."""
    anchor = members[0]
    second = next((n for n, node in enumerate(members) if n and node.op == "conv"), None)
    if second is not None:
        return _separable(graph, members[:second], members[second:], constants)
    match anchor.op:
        case "conv":
            made = _conv(graph, anchor)
        case "gemm":
            made = _gemm(graph, anchor, constants)
        case _:
            made = _matmul(graph, anchor)
    return _finished(_chained(graph, made, members, constants), constants)


def _separable(
    graph: Graph, first: Sequence[Node], second: Sequence[Node], constants: dict[str, Array]
) -> Anchored:
    """The operator of a depthwise convolution and the 1x1 convolution that reads it."""
    depth = _chained(graph, _conv(graph, first[0]), first, constants)
    made = _chained(graph, _conv(graph, second[0]), second, constants)
    depthwise: dict[str, AttrValue] = {
        "data": depth.attrs["data"],
        "depthwise": depth.attrs["weight"],
        "depthwise_bias": depth.attrs.get("bias", False),
        "depthwise_epilogue": text_of(depth.steps),
        **{name: depth.attrs[name] for name in ("strides", "padding", "dilation")},
    }
    made.attrs = depthwise | {k: v for k, v in made.attrs.items() if k in ("weight", "bias")}
    made.values |= {"data": depth.values["data"], "depthwise": depth.values["weight"]}
    if "bias" in depth.values:
        made.values["depthwise_bias"] = depth.values["bias"]
    made.name = "separable_conv2d"
    return _finished(made, constants)


def _chained(
    graph: Graph, made: _Operator, members: Sequence[Node], constants: dict[str, Array]
) -> _Operator:
    """`made` with the steps of the nodes that follow it in its chain."""
    for before, node in itertools.pairwise(members):
        found = _step(graph, members[0], node, before.outputs[0])
        if found is None:
            continue
        each, extra = found
        if each == _BIAS and not made.steps and not made.attrs.get("bias"):
            made.attrs["bias"] = True
            made.values["bias"] = _flat(constants, extra)
        else:
            made.steps.append(each)
            if extra:
                made.extras.append(extra)
    return made


def _finished(made: _Operator, constants: dict[str, Array]) -> Anchored:
    """The operator of what was collected; a last relu is said by an attribute."""
    if made.steps and made.steps[-1] == Epilogue("relu"):
        made.steps.pop()
        made.attrs["relu"] = True
    if made.steps:
        made.attrs["epilogue"] = text_of(made.steps)
    workload = registry.build(made.name, **made.attrs)
    extras = iter(made.extras)
    inputs = []
    for tensor in workload.inputs:
        value = made.values[tensor.name] if tensor.name in made.values else next(extras)
        if value in constants and constants[value].shape != tensor.shape:
            value = _reshaped(constants, value, tensor.shape)
        inputs.append(value)
    shown = tuple(made.attrs.items())
    return Anchored(made.name, shown, workload, tuple(inputs))


def _flat(constants: dict[str, Array], name: str) -> str:
    """The name of the constant or value `name` as a vector."""
    if name in constants and constants[name].ndim != 1:
        return _reshaped(constants, name, (constants[name].size,))
    return name


def _reshaped(constants: dict[str, Array], name: str, shape: tuple[int, ...]) -> str:
    changed = f"{name}@{'x'.join(map(str, shape))}"
    constants[changed] = np.ascontiguousarray(constants[name].reshape(shape))
    return changed


# what follows


_BIAS = Epilogue("add", operand=StepOperand.CHANNELS)
"""A constant for each channel that is added; the first one, before all steps, is the bias."""


def _step(graph: Graph, anchor: Node, node: Node, value: str) -> tuple[Epilogue, str] | None:
    """`node`, which reads `value`, as a step of an epilogue, and the other value that it reads."""
    if graph.values[node.outputs[0]] != graph.values[value]:
        return None
    others = [name for name in node.inputs if name != value]
    if len(node.inputs) == 2 and len(others) == 1:
        return _with_operand(graph, anchor, node, others[0])
    if len(node.inputs) != 1 or not _is_bounded(node):
        return None
    found = step(node.op, node.attrs)
    return None if found is None else (found, "")


def _is_bounded(node: Node) -> bool:
    """Whether a clip has both bounds."""
    low, high = (number(node.attrs, k, d) for k, d in (("min", -math.inf), ("max", math.inf)))
    return node.op != "clip" or math.isfinite(low + high)


def _with_operand(
    graph: Graph, anchor: Node, node: Node, other: str
) -> tuple[Epilogue, str] | None:
    """The step of a node, whose operands can be swapped, that reads `other` besides the value."""
    shape = graph.values[node.outputs[0]].shape
    whole, constant = step(node.op, {}, StepOperand.TENSOR), graph.constants.get(other)
    if whole is None:
        return None
    if constant is None:
        return (whole, other) if graph.values[other].shape == shape else None
    if constant.size == 1:
        number = step(node.op, {"value": float(constant.reshape(-1)[0])}, StepOperand.NUMBER)
        return None if number is None else (number, "")
    if not _is_channels(anchor, constant.shape, shape):
        return None
    channels = step(node.op, {}, StepOperand.CHANNELS)
    return None if channels is None else (channels, other)


def _is_channels(anchor: Node, shape: tuple[int, ...], output: tuple[int, ...]) -> bool:
    """Whether a constant of `shape` has one element for each channel of the output."""
    dim = 1 if anchor.op == "conv" else len(output) - 1
    aligned = (1,) * (len(output) - len(shape)) + shape
    wanted = tuple(e if d == dim else 1 for d, e in enumerate(output))
    return aligned == wanted


# anchors


def _conv(graph: Graph, node: Node) -> _Operator:
    data, weight = (graph.values[name].shape for name in node.inputs[:2])
    groups = integer(node.attrs, "groups", 1)
    attrs: dict[str, AttrValue] = {
        "data": data,
        "weight": weight,
        "strides": integers(node.attrs, "strides", (1, 1)),
        "padding": integers(node.attrs, "pads", (0, 0, 0, 0)),
        "dilation": integers(node.attrs, "dilations", (1, 1)),
    }
    depthwise = groups > 1 and groups == data[1] and weight[1] == 1
    if not depthwise:
        attrs["groups"] = groups
    values = {"data": node.inputs[0], "weight": node.inputs[1]}
    if len(node.inputs) > 2 and node.inputs[2]:
        attrs["bias"] = True
        values["bias"] = node.inputs[2]
    name = "depthwise_conv2d" if depthwise else "conv2d"
    return _with_dtype(graph, node, _Operator(name, attrs, values, data, 1))


def _is_dense(graph: Graph, node: Node) -> bool:
    a, b = (graph.values[name] for name in node.inputs[:2])
    plain = number(node.attrs, "alpha", 1.0) == 1.0 and not integer(node.attrs, "trans_a", 0)
    if not plain or len(a.shape) != 2 or node.inputs[1] not in graph.constants:
        return False
    if len(node.inputs) < 3 or not node.inputs[2]:
        return True
    columns = b.shape[0] if integer(node.attrs, "trans_b", 0) else b.shape[1]
    bias = node.inputs[2]
    is_vector = graph.values[bias].shape in ((columns,), (1, columns))
    return number(node.attrs, "beta", 1.0) == 1.0 and bias in graph.constants and is_vector


def _gemm(graph: Graph, node: Node, constants: dict[str, Array]) -> _Operator:
    a, weight = graph.values[node.inputs[0]].shape, node.inputs[1]
    if not integer(node.attrs, "trans_b", 0):
        transposed = f"{weight}@T"
        constants[transposed] = np.ascontiguousarray(constants[weight].T)
        weight = transposed
    attrs: dict[str, AttrValue] = {"data": a, "weight": constants[weight].shape}
    values = {"data": node.inputs[0], "weight": weight}
    if len(node.inputs) > 2 and node.inputs[2]:
        attrs["bias"] = True
        values["bias"] = _flat(constants, node.inputs[2])
    return _with_dtype(graph, node, _Operator("dense", attrs, values, a, 1))


def _batches(graph: Graph, node: Node) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """Batch, and the matrices of a matmul whose operands have the same leading dimensions."""
    a, b = (graph.values[name].shape for name in node.inputs[:2])
    if len(a) < 2 or len(b) < 2:
        return None
    if len(b) == 2:
        return 1, (math.prod(a[:-1]), a[-1]), b
    if a[:-2] != b[:-2]:
        return None
    return math.prod(a[:-2]), a[-2:], b[-2:]


def _matmul(graph: Graph, node: Node) -> _Operator:
    found = _batches(graph, node)
    batch, a, b = found if found is not None else (1, (1, 1), (1, 1))
    values = {"A": node.inputs[0], "B": node.inputs[1]}
    attrs: dict[str, AttrValue]
    if batch == 1:
        name, attrs = "matmul", {"a": a, "b": b}
    else:
        name, attrs = "batch_matmul", {"a": (batch, *a), "b": (batch, *b)}
    if node.inputs[1] in graph.constants:
        attrs["constant_b"] = True
    return _with_dtype(graph, node, _Operator(name, attrs, values, a, 1))


def _with_dtype(graph: Graph, node: Node, made: _Operator) -> _Operator:
    dtype = graph.values[node.inputs[0]].dtype.name
    if dtype != "float32":
        made.attrs["dtype"] = dtype
    return made

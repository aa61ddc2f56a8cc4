"""Reading ONNX files into plain data: nodes in order, the shape and dtype of each value.

Weights are not read, only their shapes, so a large model opens quickly.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from loopwright.errors import EnvironmentFailure, ModelError
from loopwright.runtime.model_file import is_model_file

if TYPE_CHECKING:
    import onnx

NodeAttr: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of a graph. `shape` is None when it is unknown; a dimension is None when dynamic."""

    shape: tuple[int | None, ...] | None
    dtype: str


@dataclass(frozen=True, slots=True)
class Node:
    """An operator of a graph; `inputs` are names, empty for one left out."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, NodeAttr]

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """The attribute `name`, a list of integers."""
        value = self.attrs.get(name, default)
        return tuple(int(v) for v in value) if isinstance(value, tuple) else default

    def number(self, name: str, default: float) -> float:
        """The attribute `name`, a number."""
        value = self.attrs.get(name, default)
        return float(value) if isinstance(value, int | float) else default


@dataclass(frozen=True, slots=True)
class Graph:
    """A model: `computed` are the values that nodes make, `users` the nodes that read a value."""

    label: str
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    outputs: tuple[str, ...]
    computed: frozenset[str]
    users: Mapping[str, tuple[Node, ...]]

    def only_user(self, value: str) -> Node | None:
        """The node that reads `value`, when there is just one and it is not an output."""
        users = self.users.get(value, ())
        return users[0] if len(users) == 1 and value not in self.outputs else None


def import_onnx() -> ModuleType:
    """The package onnx.

    Raises: EnvironmentFailure when it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise EnvironmentFailure(
            "reading a model needs the package onnx; pip install 'loopwright[onnx]'"
        ) from error


def read_graph(path: Path, shapes: Shapes | None = None) -> Graph:
    """The graph of the ONNX file `path`.

    Args:
        shapes: the shapes of inputs, for those whose shape the file leaves open.

    Raises: ModelError when the file cannot be read, is not a whole ONNX model, or an input's shape
        stays open.
    """
    onnx = import_onnx()
    label = path.name
    model = _load(path, label)
    set_shapes(model, label, shapes or {})
    model = _inferred(onnx, model, label)
    graph = model.graph
    nodes = tuple(_node(onnx, node, place) for place, node in enumerate(graph.node))
    users: defaultdict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        for name in node.inputs:
            users[name].append(node)
    return Graph(
        label=label,
        nodes=nodes,
        values=_values(onnx, graph),
        outputs=tuple(value.name for value in graph.output),
        computed=frozenset(name for node in nodes for name in node.outputs),
        users={name: tuple(found) for name, found in users.items()},
    )


def parse(path: Path) -> onnx.ModelProto:
    """The model in the file `path`, external data left where they are.

    Raises: ModelError when the file cannot be read or is not ONNX.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size == 0:
            raise ModelError(f"{path.name} is empty; get it again")
        if is_model_file(path):
            raise ModelError(f"{path.name} is tuned already; give the ONNX file it was made of")
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(
            f"{path.name} is not an ONNX model, or only part of one ({one_line(error)}); "
            "get it again"
        ) from error


def refuse_invalid(model: onnx.ModelProto, label: str) -> None:
    """Nothing, if `model` is a valid and whole model of operators that ONNX has.

    Raises: ModelError saying what is wrong.
    """
    onnx = import_onnx()
    copy = _without_weights(onnx, model)
    for value in copy.graph.output:  # what outputs are is computed; the checker wants it said
        kind = value.type.tensor_type
        if not value.type.WhichOneof("value") or not kind.HasField("shape"):
            kind.elem_type = kind.elem_type or onnx.TensorProto.FLOAT
            kind.shape.CopyFrom(onnx.TensorShapeProto())
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{label} is not a valid ONNX model: {one_line(error)}") from error
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in graph.input} | {t.name for t in graph.initializer}
    missing = [value.name for value in graph.output if value.name not in made]
    if missing or not graph.node:
        what = f"nothing computes its output {missing[0]!r}" if missing else "it has no operators"
        raise ModelError(f"{label} is not a whole ONNX model: {what}; get it again")


def _load(path: Path, label: str) -> onnx.ModelProto:
    model = parse(path)
    refuse_invalid(model, label)
    return model


def _without_weights(onnx: ModuleType, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose weights are inputs: neither the checker nor inference needs values.

    Small ones stay, since shapes are computed from them.
    """
    graph = model.graph
    kept = [t for t in graph.initializer if _count(t.dims) <= 64 and not t.external_data]
    inputs = {value.name for value in graph.input} | {t.name for t in kept}
    weights = [
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in graph.initializer
        if t.name not in inputs
    ]
    copy = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    copy.graph.CopyFrom(
        onnx.GraphProto(
            name=graph.name,
            node=graph.node,
            input=[*graph.input, *weights],
            output=graph.output,
            value_info=graph.value_info,
            initializer=kept,
            sparse_initializer=graph.sparse_initializer,
        )
    )
    return copy


def set_shapes(model: onnx.ModelProto, label: str, shapes: Shapes) -> None:
    """Write `shapes` into the inputs of `model`.

    Raises: ModelError for a shape that fits no input, and for an input that stays open.
    """
    inputs = {value.name: value.type.tensor_type.shape for value in model.graph.input}
    for name, wanted in shapes.items():
        if name not in inputs:
            known = ", ".join(list(inputs)[:4])
            raise ModelError(f"{label} has no input {name!r}; its inputs are {known}")
        if len(inputs[name].dim) not in (0, len(wanted)):
            raise ModelError(
                f"{label}: input {name!r} has {len(inputs[name].dim)} dimensions, "
                f"the shape {wanted} has {len(wanted)}"
            )
        del inputs[name].dim[:]
        for extent in wanted:
            inputs[name].dim.add().dim_value = extent
    for value in model.graph.input:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 1:
                what = repr(dim.dim_param) if dim.dim_param else f"of extent {dim.dim_value}"
                example = "x".join(str(d.dim_value or 1) for d in value.type.tensor_type.shape.dim)
                raise ModelError(
                    f"{label}: dimension {place} of input {value.name!r} is dynamic ({what}); "
                    f"fix the shape, as with --input-shape {value.name}:{example}"
                )


def _inferred(onnx: ModuleType, model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(
            _without_weights(onnx, model), strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"{label}: its shapes do not fit together: {one_line(error)}") from error


def _values(onnx: ModuleType, graph: onnx.GraphProto) -> dict[str, Value]:
    names = {
        number: name.lower() for name, number in onnx.TensorProto.DataType.items() if number
    } | {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}
    found = {
        tensor.name: Value(tuple(tensor.dims), names.get(tensor.data_type, "undefined"))
        for tensor in graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shape = (
            tuple(d.dim_value or None for d in kind.shape.dim) if kind.HasField("shape") else None
        )
        found[value.name] = Value(shape, names.get(kind.elem_type, "undefined"))
    return found


def _node(onnx: ModuleType, node: onnx.NodeProto, place: int) -> Node:
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    attrs: dict[str, NodeAttr] = {}
    for attr in node.attribute:
        value = onnx.helper.get_attribute_value(attr)
        if isinstance(value, bytes):
            attrs[attr.name] = value.decode(errors="replace")
        elif isinstance(value, int | float):
            attrs[attr.name] = value
        elif isinstance(value, Sequence) and all(isinstance(v, int | float) for v in value):
            attrs[attr.name] = tuple(value)
    return Node(
        name=node.name or f"{node.op_type}_{place}",
        operator=domain + node.op_type,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attrs=attrs,
    )


def _count(dims: Sequence[int]) -> int:
    total = 1
    for extent in dims:
        total *= extent
    return total


def one_line(error: Exception) -> str:
    """The first line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__

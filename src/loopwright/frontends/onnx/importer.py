"""ONNX models as graphs of the operators in `ops`.

Each ONNX operator has a rule (in `rules/`) that says it in operators of graphs. Whatever depends
on no input is computed on the way: the shape of everything is known, so what models compute from
shapes becomes constants.
"""

from __future__ import annotations

import importlib
from collections import ChainMap, defaultdict
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from loopwright.errors import ModelError, UnsupportedError
from loopwright.frontends.onnx.file import (
    Shapes,
    import_onnx,
    one_line,
    parse,
    refuse_invalid,
    set_shapes,
)
from loopwright.frontends.onnx.rules import (
    constants,
    contracting,
    control,
    elementwise,
    moving,
    quantized,
    recurrent,
    reducing,
    resizing,
    scattering,
    sums,
)
from loopwright.frontends.onnx.rules.call import Body, OnnxAttr, OnnxCall, Rule
from loopwright.frontends.onnx.rules.elementwise import ONNX_DTYPES
from loopwright.graph.builder import GraphBuilder
from loopwright.graph.ir import Array, Graph, Value
from loopwright.ir import dtype as dt

if TYPE_CHECKING:
    import onnx

RULES: Mapping[str, Rule] = {
    **constants.RULES,
    **contracting.RULES,
    **control.RULES,
    **elementwise.RULES,
    **moving.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **reducing.RULES,
    **resizing.RULES,
    **scattering.RULES,
    **sums.RULES,
}
"""The rule of each ONNX operator, by its name in the default domain."""
OLDEST_OPSET = 7
"""The oldest version of the operators that is read."""
_DOMAINS = ("", "ai.onnx")


def import_onnx_model(
    source: Path | onnx.ModelProto,
    shapes: Shapes | None = None,
    weights: Mapping[str, Array] | None = None,
) -> Graph:
    """The graph of an ONNX model, a file or one that is loaded.

    Args:
        shapes: the shapes of inputs, for those whose shape the model leaves open.
        weights: values for inputs that are weights, which then are not inputs of the graph.

    Raises: UnsupportedError naming all operators that are not supported, or which part of an
        operator is not; ModelError when the model cannot be read, is not valid, leaves an input's
        shape open, or has weights that are not numbers.
    """
    package = import_onnx()
    if isinstance(source, Path):
        label, folder = source.name, source.parent
        model = parse(source)
    else:
        label, folder = source.graph.name or "model", Path()
        model = package.ModelProto()
        model.CopyFrom(source)
    model = _expanded(model, label)
    refuse_invalid(model, label)
    set_shapes(model, label, shapes or {})
    name = Path(label).stem if isinstance(source, Path) else label
    return _Importer(model, label, folder, weights or {}).run(name)


def _opset(model: onnx.ModelProto, label: str) -> int:
    """The version of the default domain's operators. Raises: UnsupportedError outside our range."""
    versions = [o.version for o in model.opset_import if o.domain in _DOMAINS]
    newest = int(import_onnx().defs.onnx_opset_version())
    if not versions:
        raise ModelError(f"{label} does not say which opset it uses")
    if not OLDEST_OPSET <= versions[0] <= newest:
        raise UnsupportedError(
            f"{label} uses opset {versions[0]}; {OLDEST_OPSET} to {newest} are supported: convert "
            "it with onnx.version_converter"
        )
    return int(versions[0])


def _expanded(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """`model` with functions replaced by their bodies, so that each operator has a rule.

    Raises: UnsupportedError naming all operators that have neither rule nor body.
    """
    opset = _opset(model, label)
    if model.functions:
        model = _inliner().inline_local_functions(model)
    every = [node for graph in _graphs(model.graph) for node in graph.node]
    bodies = {
        op for domain, op in _without_rule(every) if domain in _DOMAINS and has_body(op, opset)
    }
    if bodies:
        model = _with_bodies(model, bodies)
    without = _without_rule(model.graph.node)  # a branch that is not taken may have what it likes
    if without:
        shown = "; ".join(
            f"{domain + '.' if domain not in _DOMAINS else ''}{op} in {len(names)} node"
            f"{'s' if len(names) > 1 else ''}, {'as ' if len(names) > 1 else ''}{names[0]!r}"
            for (domain, op), names in sorted(without.items())
        )
        raise UnsupportedError(f"{label}: operators that are not supported: {shown}")
    return model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all that its nodes have as attributes."""
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("g"):
                yield from _graphs(attr.g)


def _without_rule(nodes: Sequence[onnx.NodeProto]) -> dict[tuple[str, str], list[str]]:
    """The operators that have no rule, by domain and name, with the nodes that use them."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for place, node in enumerate(nodes):
        if _rule(node) is None:
            found[node.domain, node.op_type].append(_node_name(node, place))
    return dict(found)


def _rule(node: onnx.NodeProto) -> Rule | None:
    if node.domain == "com.microsoft":
        return elementwise.MICROSOFT_RULES.get(node.op_type)
    return RULES.get(node.op_type) if node.domain in _DOMAINS else None


def has_body(op: str, opset: int) -> bool:
    """Whether ONNX defines `op` by a graph of other operators."""
    defs = import_onnx().defs
    if not defs.has(op, opset):
        return False
    schema = defs.get_schema(op, opset, "")
    return bool(schema.has_function or schema.has_context_dependent_function)


def _with_bodies(model: onnx.ModelProto, ops: Collection[str]) -> onnx.ModelProto:
    """`model` with the nodes of `ops` replaced by what ONNX defines them to be."""
    package = import_onnx()
    typed = package.shape_inference.infer_shapes(model, data_prop=True)
    inputs = {value.name for value in model.graph.input}
    typed.graph.value_info.extend(
        package.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
        if tensor.name not in inputs
    )
    functions = [("", op) for op in sorted(ops)]
    try:
        return _inliner().inline_selected_functions(typed, functions, False, True)
    except RuntimeError:  # a body that depends on types which onnx cannot infer
        return model


def _inliner() -> ModuleType:
    """The part of onnx that inlines functions; it is not loaded with onnx."""
    return importlib.import_module("onnx.inliner")


def _node_name(node: onnx.NodeProto, place: int) -> str:
    return node.name or f"{node.op_type}_{place}"


class _Importer:
    """Goes through the nodes of a model once."""

    def __init__(
        self, model: onnx.ModelProto, label: str, folder: Path, given: Mapping[str, Array]
    ) -> None:
        self.given = given
        self.graph = model.graph
        self.label = label
        self.folder = folder
        self.opset = _opset(model, label)
        made = [name for node in self.graph.node for name in node.output]
        inputs = [value.name for value in self.graph.input]
        weights = [tensor.name for tensor in self.graph.initializer]
        self.builder = GraphBuilder(label, [*made, *inputs, *weights])
        self.read: set[str] = set()
        for graph in _graphs(self.graph):
            self.read.update(name for node in graph.node for name in node.input)
            self.read.update(value.name for value in graph.output)
        self.names: dict[str, str] = {"": ""}

    def run(self, name: str) -> Graph:
        self._weights()
        unread = {tensor.name for tensor in self.graph.initializer} - self.names.keys()
        for value in self.graph.input:
            if value.name in self.given:
                array = self.given[value.name]
                self.names[value.name] = self.builder.named_constant(value.name, array)
            elif value.name not in self.names and value.name not in unread:
                self.names[value.name] = self.builder.input(value.name, self._value(value))
        for place, node in enumerate(self.graph.node):
            self.builder.settle()
            results = self._node(node, place, self.names)
            for output, result in zip(node.output, results, strict=False):
                if output and result:
                    self.names[output] = self.builder.rename(result, output)
        outputs: list[str] = []
        for value in self.graph.output:
            outputs.append(self._output(value.name, outputs))
        return self.builder.graph(name, outputs)

    def _weights(self) -> None:
        """Make constants of the initializers that something reads."""
        if self.graph.sparse_initializer:
            raise UnsupportedError(f"{self.label}: sparse weights are not supported")
        for tensor in self.graph.initializer:
            if tensor.name in self.read:
                array = self._array(tensor)
                _refuse_nan(array, f"{self.label}: weight {tensor.name!r}")
                self.names[tensor.name] = self.builder.named_constant(tensor.name, array)

    def _array(self, tensor: onnx.TensorProto) -> Array:
        package = import_onnx()
        try:
            if package.external_data_helper.uses_external_data(tensor):
                package.external_data_helper.load_external_data_for_tensor(tensor, str(self.folder))
            found: Array = package.numpy_helper.to_array(tensor)
        except (OSError, ValueError, TypeError, package.checker.ValidationError) as error:
            raise ModelError(
                f"{self.label}: weight {tensor.name!r} cannot be read: {one_line(error)}"
            ) from error
        return found

    def _value(self, info: onnx.ValueInfoProto) -> Value:
        kind = info.type.tensor_type
        where = f"{self.label}: input {info.name!r}"
        if not info.type.HasField("tensor_type"):
            raise UnsupportedError(f"{where} is not a tensor")
        if kind.elem_type not in ONNX_DTYPES:
            name = import_onnx().TensorProto.DataType.Name(kind.elem_type).lower()
            raise UnsupportedError(f"{where}: the element type {name} is not supported")
        if not kind.HasField("shape"):
            raise ModelError(
                f"{where} has no shape; fix it, as with --input-shape {info.name}:1x3x224x224"
            )
        return Value(
            tuple(d.dim_value for d in kind.shape.dim), dt.parse(ONNX_DTYPES[kind.elem_type])
        )

    def _node(
        self, node: onnx.NodeProto, place: int, names: MutableMapping[str, str]
    ) -> Sequence[str]:
        """The values of a node's outputs; `names` has the value of each name that it sees."""
        name = _node_name(node, place)
        missing = [i for i in node.input if i not in names]
        if missing:
            raise ModelError(
                f"{self.label}: node {name!r} ({node.op_type}) reads {missing[0]!r}, which nothing "
                "before it computes"
            )
        call = OnnxCall(
            builder=self.builder,
            label=self.label,
            op=node.op_type,
            name=name,
            opset=self.opset,
            inputs=tuple(names[i] for i in node.input),
            attrs=_attributes(node),
            used=tuple(bool(o) and o in self.read for o in node.output),
            hint=next((o for o in node.output if o), name),
            bodies={a.name: self._body(a.g, names) for a in node.attribute if a.HasField("g")},
        )
        rule = _rule(node)
        if rule is None:
            raise call.refuse("the operator is not supported; export the model without it")
        return rule(call)

    def _body(self, graph: onnx.GraphProto, outer: MutableMapping[str, str]) -> Body:
        """`graph`, an attribute of a node, as a function of values to values."""
        constants: dict[str, str] = {}

        def run(inputs: Sequence[str]) -> tuple[str, ...]:
            if graph.initializer and not constants:
                for tensor in graph.initializer:
                    made = self.builder.constant(self._array(tensor), tensor.name)
                    constants[tensor.name] = made
            given = dict(zip((value.name for value in graph.input), inputs, strict=True))
            names = ChainMap({**constants, **given}, outer)
            for place, node in enumerate(graph.node):
                results = self._node(node, place, names)
                names.update((o, r) for o, r in zip(node.output, results, strict=False) if o)
            return tuple(names[value.name] for value in graph.output)

        return run

    def _output(self, name: str, others: Collection[str]) -> str:
        """The value `name`, made one if it is another value's, an input's or a constant's."""
        value = self.names.get(name)
        if value is None:
            raise ModelError(f"{self.label}: nothing computes the output {name!r}")
        if value == name and name not in others:
            return name
        self.builder.settle()
        (copy,) = self.builder.emit("identity", [value], name=f"{name}.copy")
        return self.builder.rename(copy, name)


def _attributes(node: onnx.NodeProto) -> Mapping[str, OnnxAttr]:
    """The attributes of a node that are numbers, strings and tensors."""
    package = import_onnx()
    found: dict[str, OnnxAttr] = {}
    for attr in node.attribute:
        value = package.helper.get_attribute_value(attr)
        if isinstance(value, bytes):
            found[attr.name] = value.decode(errors="replace")
        elif isinstance(value, package.TensorProto):
            found[attr.name] = package.numpy_helper.to_array(value)
        elif isinstance(value, int | float):
            found[attr.name] = value
        elif attr.type == package.AttributeProto.STRINGS:
            found[attr.name] = tuple(v.decode(errors="replace") for v in value)
        elif attr.type in (package.AttributeProto.INTS, package.AttributeProto.FLOATS):
            found[attr.name] = tuple(value)
    return found


def _refuse_nan(array: Array, what: str) -> None:
    """Check that no element is NaN; infinities are values like others."""
    if array.dtype.kind != "f" or not array.size:
        return
    with np.errstate(all="ignore"):
        if np.isfinite(np.add.reduce(array.reshape(-1), dtype=np.float64)):
            return
    wrong = np.isnan(array)
    if wrong.any():
        place = [int(i) for i in np.argwhere(wrong)[0]]
        raise ModelError(
            f"{what} is NaN at {place}, and {np.count_nonzero(wrong)} of its "
            f"{array.size} elements are not numbers; train or export the model again"
        )

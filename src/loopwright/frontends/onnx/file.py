"""Reading ONNX files: what can be wrong with one is said here, before any node is looked at."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from loopwright.errors import EnvironmentFailure, ModelError

if TYPE_CHECKING:
    import onnx

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


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


def parse(path: Path) -> onnx.ModelProto:
    """The model in the file `path`, external data left where it is.

    Raises: ModelError when the file cannot be read or is not ONNX.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size == 0:
            raise ModelError(f"{path.name} is empty; get it again")
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(
            f"{path.name} is not an ONNX model, or only part of one ({one_line(error)}); "
            "get it again"
        ) from error


def refuse_invalid(model: onnx.ModelProto, label: str) -> None:
    """Check that `model` is a valid and complete model of operators that ONNX has.

    Raises: ModelError saying what is wrong.
    """
    onnx = import_onnx()
    copy = _without_weights(onnx, model)
    for node in copy.graph.node:
        if node.op_type == "GroupNormalization" and not node.domain:
            # Of opsets 18 to 20 it is deprecated, and the checker refuses it; models have it.
            node.op_type = "InstanceNormalization"
            del node.attribute[:]
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


def _without_weights(onnx: ModuleType, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose weights are inputs: the checker does not need their values.

    Small ones stay, and are checked whole.
    """
    graph = model.graph
    kept = [t for t in graph.initializer if math.prod(t.dims) <= 64 and not t.external_data]
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
    """Write `shapes` into the inputs of `model`; a name that dimensions share is given once.

    Raises: ModelError for a shape that fits no input, for two extents of one name, and for an input
        that stays open.
    """
    inputs = {value.name: value.type.tensor_type.shape for value in model.graph.input}
    open_before = {name: [d.dim_param for d in shape.dim] for name, shape in inputs.items()}
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
    _share_names(model, label, open_before)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            _refuse_open(value, label)


def _share_names(
    model: onnx.ModelProto, label: str, open_before: Mapping[str, Sequence[str]]
) -> None:
    """Give a dimension that has a name the extent that this name has elsewhere.

    Args:
        open_before: for each input, the names of its dimensions before shapes were given.
    """
    extents: dict[str, tuple[int, str]] = {}
    for value in model.graph.input:
        for name, dim in zip(
            open_before[value.name], value.type.tensor_type.shape.dim, strict=False
        ):
            if not name or not dim.HasField("dim_value"):
                continue
            extent, first = extents.setdefault(name, (dim.dim_value, value.name))
            if extent != dim.dim_value:
                raise ModelError(
                    f"{label}: the dimension {name!r} is {extent} in input {first!r} and "
                    f"{dim.dim_value} in input {value.name!r}; give both the same extent"
                )
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in extents and not dim.HasField("dim_value"):
                dim.dim_value = extents[dim.dim_param][0]


def _refuse_open(value: onnx.ValueInfoProto, label: str) -> None:
    dims = value.type.tensor_type.shape.dim
    for place, dim in enumerate(dims):
        if dim.dim_value < 1:
            what = repr(dim.dim_param) if dim.dim_param else f"of extent {dim.dim_value}"
            example = "x".join(str(d.dim_value or 1) for d in dims)
            raise ModelError(
                f"{label}: dimension {place} of input {value.name!r} is dynamic ({what}); "
                f"fix the shape, as with --input-shape {value.name}:{example}"
            )


def one_line(error: Exception) -> str:
    """The first line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__

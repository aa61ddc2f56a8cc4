"""Inputs for a whole model: seeded, and such that every engine may compute with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loopwright.frontends.onnx.file import parse
from loopwright.ir import dtype as dt
from loopwright.layout import Array
from loopwright.runtime.model_file import Port

if TYPE_CHECKING:
    import onnx

_SAME_NUMBERS = frozenset(
    {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"}
)
"""Operators whose output holds numbers of their first input."""
_FLAGS = 2


def model_inputs(ports: Sequence[Port], rows: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """An array for each input: normal numbers, indices below what `rows` says, else 0 and 1.

    Args:
        rows: see `indexed_rows`; inputs that are not in it are masks or segments, where they are
            whole numbers.
    """
    found: dict[str, Array] = {}
    for place, port in enumerate(ports):
        rng = np.random.default_rng([seed, place])
        dtype = dt.parse(port.dtype)
        if dtype.is_float:
            found[port.name] = rng.standard_normal(port.shape).astype(dtype.numpy)
        else:
            below = rows.get(port.name, _FLAGS)
            found[port.name] = rng.integers(0, below, port.shape).astype(dtype.numpy)
    return found


def indexed_rows(path: Path) -> dict[str, int]:
    """How many rows the smallest table has that an input of the ONNX file `path` indexes.

    Inputs that index nothing are not in it. Raises: ModelError when the file cannot be read.
    """
    graph = parse(path).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        shapes.setdefault(value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim))
    origin = {value.name: value.name for value in graph.input}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _SAME_NUMBERS and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type in ("Gather", "GatherElements") and node.input[1] in origin:
            name, shape = origin[node.input[1]], shapes.get(node.input[0], ())
            axis = _axis(node)
            if -len(shape) <= axis < len(shape) and shape[axis] > 0:
                found[name] = int(min(found.get(name, math.inf), shape[axis]))
    return found


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attr.i) for attr in node.attribute if attr.name == "axis"), 0)

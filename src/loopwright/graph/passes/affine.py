"""Passes over scales and shifts by channel: into the weights before them, or plain arithmetic.

A normalisation whose statistics are constants is a scale and a shift. After a convolution or a
product both become part of its weight and bias; new weights are computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwright.graph.ir import Array, Graph, Node
from loopwright.graph.passes.rewrite import Rewriter, other, rewrite, wide
from loopwright.ops.attributes import integer, number

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Affine:
    """`x * scale + shift`; each has an element a channel, or one for all, or is absent.

    What is folded is decided by what is there, not by its value: a model without its weights has
    the same operators.
    """

    scale: Vector | None
    shift: Vector | None


def fold_affine(graph: Graph) -> Graph:
    """The graph with scales and shifts after convolutions and products in their weights and biases.

    Establishes: what is the only reader of a convolution with constant weights neither scales nor
    shifts it by constants of its channels.
    """
    return rewrite(graph, _folded)


def _folded(r: Rewriter, node: Node) -> Sequence[Node] | None:
    if node.op not in ("batch_norm", "mul", "add", "sub", "div"):
        return None
    for value in dict.fromkeys(node.inputs[: 1 if node.op == "batch_norm" else 2]):
        anchor = r.lone(value)
        if anchor is None or anchor.op not in _WEIGHTED or r.value(value) != _result(r, node):
            continue
        channels = _channels(r, anchor, value)
        found = None if channels is None else _affine(r, node, value, *channels)
        if found is not None:
            return _with(r, anchor, node, found)
    return None


def _result(r: Rewriter, node: Node) -> object:
    return r.value(node.outputs[0])


_WEIGHTED = ("conv", "conv_transpose", "gemm", "matmul")


def _channels(r: Rewriter, anchor: Node, value: str) -> tuple[int, int] | None:
    """The dimension of the channels of `anchor` and their number, if its weights are constant."""
    weight = r.constant(anchor.inputs[1])
    shape = r.value(value).shape
    if weight is None or weight.dtype.kind != "f":
        return None
    if len(anchor.inputs) > 2 and anchor.inputs[2] and r.constant(anchor.inputs[2]) is None:
        return None
    if anchor.op == "matmul" and weight.ndim != 2:
        return None
    if anchor.op == "gemm" and not _is_plain(r, anchor):
        return None
    dim = 1 if anchor.op.startswith("conv") else len(shape) - 1
    return dim, shape[dim]


def _is_plain(r: Rewriter, gemm: Node) -> bool:
    """Whether a product has factors of one, and a bias that is a vector of columns."""
    if number(gemm.attrs, "alpha", 1.0) != 1 or number(gemm.attrs, "beta", 1.0) != 1:
        return False
    bias = r.constant(gemm.inputs[2]) if len(gemm.inputs) > 2 and gemm.inputs[2] else None
    return bias is None or bias.ndim < 2 or bias.shape[0] == 1


def _affine(r: Rewriter, node: Node, value: str, dim: int, channels: int) -> _Affine | None:
    """What `node` does to `value`, channel by channel."""
    if node.op == "batch_norm":
        norm = _of_norm(r, node) if dim == 1 else None
        return None if norm is None else _Affine(*norm)
    beside = other(node, value)
    array = None if beside is None else r.constant(beside)
    if array is None:
        return None
    vector = _vector(array, len(r.value(value).shape), dim, channels)
    if vector is None:
        return None
    match node.op:
        case "mul":
            return _Affine(vector, None)
        case "add":
            return _Affine(None, vector)
        case "sub" if node.inputs[0] == value:
            return _Affine(None, -vector)
        case "div" if node.inputs[0] == value and np.all(vector != 0):
            return _Affine(1 / vector, None)
        case _:
            return None


def _of_norm(r: Rewriter, node: Node) -> tuple[Vector, Vector] | None:
    """The scale and shift that a normalisation is, if its statistics are constants."""
    scale, bias, mean, variance = (r.constant(name) for name in node.inputs[1:5])
    if scale is None or bias is None or mean is None or variance is None:
        return None
    factor = wide(scale) / np.sqrt(wide(variance) + number(node.attrs, "epsilon", 1e-5))
    return factor, wide(bias) - wide(mean) * factor


def _vector(array: Array, rank: int, dim: int, channels: int) -> Vector | None:
    """`array` as one element a channel, or as one element; None if it is neither."""
    if array.size == 1 and array.ndim <= rank:
        return wide(array).reshape(1)
    shape = (1,) * (rank - array.ndim) + array.shape
    wanted = tuple(channels if d == dim else 1 for d in range(rank))
    return wide(array).reshape(channels) if shape == wanted else None


def _with(r: Rewriter, anchor: Node, node: Node, found: _Affine) -> Sequence[Node] | None:
    """`anchor` with the scale and shift in its weights, in the place of `node`."""
    weight = r.constant(anchor.inputs[1])
    if weight is None or (anchor.op == "matmul" and found.shift is not None):
        return None
    channels = r.value(node.outputs[0]).shape[1 if anchor.op.startswith("conv") else -1]
    inputs = list(anchor.inputs[:2])
    scale = np.ones(channels) if found.scale is None else np.broadcast_to(found.scale, channels)
    if found.scale is not None:
        scaled = _rounded(wide(weight) * _spread(anchor, weight, scale), weight)
        if scaled is None:
            return None
        inputs[1] = r.keep(scaled, f"{anchor.inputs[1]}.scaled")
    named = anchor.inputs[2] if len(anchor.inputs) > 2 else ""
    old = r.constant(named) if named else None
    if old is not None or found.shift is not None:
        given = np.zeros(channels) if old is None else wide(old).reshape(-1) * scale
        bias = _rounded(given if found.shift is None else given + found.shift, weight)
        if bias is None:
            return None
        inputs.append(r.keep(bias, named or f"{anchor.name}.bias"))
    return [r.node(node, anchor.op, inputs, anchor.attrs)]


def _rounded(values: Vector, like: Array) -> Array | None:
    """`values` in the dtype of `like`; None if one of them is not finite then."""
    with np.errstate(over="ignore"):
        lowered = values.astype(like.dtype)
    return lowered if np.all(np.isfinite(lowered)) else None


def _spread(anchor: Node, weight: Array, scale: Vector) -> Vector:
    """`scale` in a shape that the weight's is broadcast with."""
    match anchor.op:
        case "conv":
            return scale.reshape(-1, *[1] * (weight.ndim - 1))
        case "conv_transpose":
            groups = integer(anchor.attrs, "groups", 1)
            rows = np.repeat(scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)
            return rows.reshape(weight.shape[:2] + (1,) * (weight.ndim - 2))
        case "gemm" if integer(anchor.attrs, "trans_b", 0):
            return scale.reshape(-1, 1)
        case _:
            return scale


def plain_norms(graph: Graph) -> Graph:
    """The graph with normalisations by constant statistics as a product and a sum.

    Requires: fold_affine ran. Establishes: the statistics of a batch_norm are computed.
    """
    return rewrite(graph, _plain_norm)


def _plain_norm(r: Rewriter, node: Node) -> Sequence[Node] | None:
    found = _of_norm(r, node) if node.op == "batch_norm" else None
    if found is None or not all(np.all(np.isfinite(part)) for part in found):
        return None
    value = r.value(node.inputs[0])
    shape = (-1, *[1] * (len(value.shape) - 2))
    scale, shift = (
        r.keep(part.reshape(shape).astype(value.dtype.numpy), f"{node.name}.{what}")
        for part, what in zip(found, ("scale", "shift"), strict=True)
    )
    product = r.node(node, "mul", [node.inputs[0], scale], {}, "scaled")
    return [product, r.node(node, "add", [product.outputs[0], shift], {})]

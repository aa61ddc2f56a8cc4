"""Norms and softmax: rows are folded to a few numbers, by which every element is then scaled.

Each fold is a stage of the rows alone, so that a schedule can run all stages row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loopwright.errors import ShapeError
from loopwright.ir.dtype import accumulator
from loopwright.ir.expr import Combiner, Expr, const
from loopwright.ops.attributes import NodeAttrs, integer, number
from loopwright.ops.opdef import (
    Channels,
    Define,
    Inputs,
    OpDef,
    OpKind,
    Outputs,
    broadcast,
    element,
    given,
    optional,
    read,
)
from loopwright.ops.padding import padded
from loopwright.ops.reduction import dimension, folded
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, reduce_axis


def _row(index: Sequence[Expr], axes: Sequence[int]) -> list[Expr]:
    """The index of the fold that element `index` belongs to."""
    return [const(0) if d in axes else i for d, i in enumerate(index)]


def _softmax(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    axes = (dimension(attrs, "axis", x.ndim, -1),)
    kept = accumulator(x.dtype)
    top = _top(x, axes, prefix)

    def body(*i: Expr) -> Expr:
        return te.exp(read(x, i).astype(kept) - read(top, _row(i, axes)).astype(kept))

    powers = compute(x.shape, body, f"{prefix}.exp")
    total = folded(
        x.shape, axes, Combiner.SUM, lambda i: read(powers, i), f"{prefix}.sum", keepdims=True
    )

    def share(*i: Expr) -> Expr:
        return (read(powers, i) / read(total, _row(i, axes))).astype(x.dtype)

    return (compute(x.shape, share, prefix),)


def _top(x: Tensor, axes: Sequence[int], prefix: str) -> Tensor:
    return folded(x.shape, axes, Combiner.MAX, lambda i: read(x, i), f"{prefix}.max", keepdims=True)


def _log_softmax(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    axes = (dimension(attrs, "axis", x.ndim, -1),)
    kept = accumulator(x.dtype)
    top = _top(x, axes, prefix)

    def shifted(i: Sequence[Expr]) -> Expr:
        return read(x, i).astype(kept) - read(top, _row(i, axes)).astype(kept)

    total = folded(
        x.shape,
        axes,
        Combiner.SUM,
        lambda i: te.exp(shifted(i)),
        f"{prefix}.sum",
        keepdims=True,
    )

    def body(*i: Expr) -> Expr:
        return (shifted(i) - te.log(read(total, _row(i, axes)))).astype(x.dtype)

    return (compute(x.shape, body, prefix),)


def _moments(x: Tensor, axes: Sequence[int], prefix: str) -> tuple[Tensor, Tensor]:
    """The mean and the variance over `axes`, which keep extent 1."""
    kept = accumulator(x.dtype)
    share = 1.0 / math.prod(x.shape[d] for d in axes)
    total = folded(
        x.shape,
        axes,
        Combiner.SUM,
        lambda i: read(x, i).astype(kept),
        f"{prefix}.sum",
        keepdims=True,
    )
    mean = compute(total.shape, lambda *i: read(total, i) * share, f"{prefix}.mean")

    def squared(i: tuple[Expr, ...]) -> Expr:
        off = read(x, i).astype(kept) - read(mean, _row(i, axes))
        return off * off

    squares = folded(x.shape, axes, Combiner.SUM, squared, f"{prefix}.squares", keepdims=True)
    return mean, squares


def _normalized(
    x: Tensor, axes: Sequence[int], epsilon: float, prefix: str
) -> tuple[Tensor, Tensor]:
    """The mean of each row, and what to multiply distances to it with."""
    mean, squares = _moments(x, axes, prefix)
    share = 1.0 / math.prod(x.shape[d] for d in axes)
    factor = compute(
        squares.shape,
        lambda *i: 1.0 / te.sqrt(read(squares, i) * share + epsilon),
        f"{prefix}.factor",
    )
    return mean, factor


def _layer_norm(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, scale, bias = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    axes = tuple(range(dimension(attrs, "axis", x.ndim, -1), x.ndim))
    for tensor in (scale, bias):
        if tensor is not None and broadcast((tensor.shape, x.shape)) != x.shape:
            raise ShapeError(f"{list(tensor.shape)} does not broadcast to {list(x.shape)}")
    mean, factor = _normalized(x, axes, number(attrs, "epsilon", 1e-5), prefix)
    kept = accumulator(x.dtype)

    def body(*i: Expr) -> Expr:
        row = _row(i, axes)
        value = (read(x, i).astype(kept) - read(mean, row)) * read(factor, row)
        value = value * element(scale, i, x.shape).astype(kept)
        if bias is not None:
            value = value + element(bias, i, x.shape).astype(kept)
        return value.astype(x.dtype)

    return (compute(x.shape, body, prefix),)


def _instance_norm(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, scale, bias = given(inputs, 0), given(inputs, 1), given(inputs, 2)
    if x.ndim < 3:
        raise ShapeError("the input needs at least 3 dimensions")
    _per_channel(x, scale, bias)
    axes = tuple(range(2, x.ndim))
    mean, factor = _normalized(x, axes, number(attrs, "epsilon", 1e-5), prefix)
    kept = accumulator(x.dtype)

    def body(*i: Expr) -> Expr:
        row = _row(i, axes)
        value = (read(x, i).astype(kept) - read(mean, row)) * read(factor, row)
        value = value * scale[i[1]].astype(kept) + bias[i[1]].astype(kept)
        return value.astype(x.dtype)

    return (compute(x.shape, body, prefix),)


def _per_channel(x: Tensor, *parameters: Tensor) -> None:
    if x.ndim < 2 or any(p.shape != x.shape[1:2] for p in parameters):
        raise ShapeError("every parameter needs one number for each channel of the input")


def _batch_norm(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, scale, bias, mean, var = (given(inputs, n) for n in range(5))
    _per_channel(x, scale, bias, mean, var)
    epsilon = number(attrs, "epsilon", 1e-5)
    kept = accumulator(x.dtype)

    def body(*i: Expr) -> Expr:
        c = i[1]
        factor = scale[c].astype(kept) / te.sqrt(var[c].astype(kept) + epsilon)
        value = (read(x, i).astype(kept) - mean[c].astype(kept)) * factor + bias[c].astype(kept)
        return value.astype(x.dtype)

    return (compute(x.shape, body, prefix),)


def _lrn(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, size = given(inputs), integer(attrs, "size")
    if size < 1 or x.ndim < 2:
        raise ShapeError(f"size={size} must be at least 1, and the input needs channels")
    alpha, beta = number(attrs, "alpha", 1e-4), number(attrs, "beta", 0.75)
    base = number(attrs, "bias", 1.0)
    kept = accumulator(x.dtype)
    before = (size - 1) // 2
    around = [(before, size - 1 - before), *((0, 0),) * (x.ndim - 2)]
    source = padded(x, around, 0, f"{prefix}.pad")
    k = reduce_axis(size, "k")

    def squares(*i: Expr) -> Expr:
        value = read(source, (i[0], i[1] + k, *i[2:])).astype(kept)
        return te.sum(value * value, axis=k)

    total = compute(x.shape, squares, f"{prefix}.squares")

    def body(*i: Expr) -> Expr:
        scale = te.power(read(total, i) * (alpha / size) + base, -beta)
        return (read(x, i).astype(kept) * scale).astype(x.dtype)

    return (compute(x.shape, body, prefix),)


def _norm(
    define: Define,
    names: tuple[str, str, str],
    attrs: frozenset[str],
    least: int = 1,
    most: int = 1,
) -> OpDef:
    """A row of the table; `names` are ours and those in ONNX and torch."""
    scales = names[0] == "batch_norm"  # by numbers that are known: nothing is folded
    return OpDef(
        name=names[0],
        kind=OpKind.ELEMENTWISE if scales else OpKind.REDUCTION,
        define=define,
        onnx=names[1],
        torch=names[2],
        channels=Channels.KEPT if scales else Channels.MIXED,
        least=least,
        most=most,
        attrs=attrs,
    )


_AXIS, _EPSILON = frozenset({"axis"}), frozenset({"epsilon"})
OPS: tuple[OpDef, ...] = (
    _norm(_softmax, ("softmax", "Softmax", "softmax"), _AXIS),
    _norm(_log_softmax, ("log_softmax", "LogSoftmax", "log_softmax"), _AXIS),
    _norm(_layer_norm, ("layer_norm", "LayerNormalization", "layer_norm"), _AXIS | _EPSILON, 2, 3),
    _norm(
        _instance_norm, ("instance_norm", "InstanceNormalization", "instance_norm"), _EPSILON, 3, 3
    ),
    _norm(_batch_norm, ("batch_norm", "BatchNormalization", "batch_norm"), _EPSILON, 5, 5),
    _norm(_lrn, ("lrn", "LRN", ""), frozenset({"size", "alpha", "beta", "bias"})),
)

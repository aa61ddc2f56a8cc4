"""ATen's operators that fold elements: sums, means, extremes, variances, softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from loopwright.frontends.torch.rules.call import Handler, NodeMaker, Ref, TorchCall
from loopwright.ir.dtype import BOOL, I32, I64


def _fold(op: str) -> Handler:
    """A reduction in the dtype of its result, over `dim` or all dimensions."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = make.operand(call, "self", call.dtype)
        return fold(make, call, op, x, call.axes("dim", x.rank))

    return handler


def fold(make: NodeMaker, call: TorchCall, op: str, x: Ref, axes: Sequence[int]) -> Ref:
    """`op` of `x` over `axes`, in the shape of the first result of `call`."""
    if not axes:  # a tensor without dimensions
        return x
    keep = call.integer("keepdim", 0)
    return make.reshape(make.node(op, [x], axes=tuple(axes), keepdims=keep), call.shape)


def _any(op: str) -> Handler:
    """Whether any (the maximum) or all (the minimum) of the elements are true."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = make.cast(make.cast(call.ref("self"), BOOL), I32)
        return make.cast(fold(make, call, op, x, call.axes("dim", x.rank)), BOOL)

    return handler


def _extreme(op: str, place: str) -> Handler:
    """The largest or smallest elements along `dim`, and where they are."""

    def handler(make: NodeMaker, call: TorchCall) -> tuple[Ref, ...]:
        x = call.ref("self")
        axis, keep = call.axis("dim", x.rank), call.integer("keepdim", 0)
        values = fold(make, call, op, x, (axis,))
        return values, make.node(place, [x], axis=axis, keepdims=keep, select_last=0)

    return handler


def _place(op: str) -> Handler:
    """Where the largest or smallest element is."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = call.ref("self")
        if not call.has("dim"):
            x = make.reshape(x, (math.prod(x.shape),))
        axis = call.axis("dim", x.rank, 0)
        found = make.node(op, [x], axis=axis, keepdims=0, select_last=0)
        return make.reshape(found, call.shape)

    return handler


def _spread(make: NodeMaker, call: TorchCall) -> tuple[Ref, Ref]:
    """The variance and the mean, in the shape of the result."""
    x = make.cast(call.ref("self"), call.dtype)
    axes = call.axes("dim", x.rank)
    count = math.prod(x.shape[a] for a in axes)
    mean = make.node("reduce_mean", [x], axes=axes, keepdims=1)
    centred = make.node("sub", [x, mean])
    squared = make.node("mul", [centred, centred])
    correction = call.number("correction", 1.0)
    if correction == 0.0:
        variance = fold(make, call, "reduce_mean", squared, axes)
    else:
        free = count - correction
        total = fold(make, call, "reduce_sum", squared, axes)
        scale = 1.0 / free if free > 0 else math.inf
        variance = make.node("mul", [total, make.scalar(scale, call.dtype)])
    return variance, make.reshape(mean, call.shape)


def _var(make: NodeMaker, call: TorchCall) -> Ref:
    return _spread(make, call)[0]


def _std(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("sqrt", [_spread(make, call)[0]])


def _norm(make: NodeMaker, call: TorchCall) -> Ref:
    x = make.cast(call.ref("self"), call.dtype)
    order = call.number("ord", 2.0)
    found = {1.0: "reduce_l1", 2.0: "reduce_l2", math.inf: "reduce_max", -math.inf: "reduce_min"}
    if order not in found:
        raise call.refuse(f"of the order {order:g}")
    if math.isinf(order):
        x = make.node("abs", [x])
    return fold(make, call, found[order], x, call.axes("dim", x.rank))


def _softmax(op: str) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = make.cast(call.ref("self"), call.dtype)
        if x.rank == 0:
            return make.full((), 1.0 if op == "softmax" else 0.0, x.dtype)
        return make.node(op, [x], axis=call.axis("dim", x.rank))

    return handler


def _safe_softmax(make: NodeMaker, call: TorchCall) -> Ref:
    """A softmax that is 0 where a whole row is minus infinity."""
    x = make.cast(call.ref("self"), call.dtype)
    soft = make.node("softmax", [x], axis=call.axis("dim", x.rank))
    hidden = make.node("equal", [x, make.scalar(-math.inf, x.dtype)])
    return make.node("where", [hidden, make.scalar(0.0, x.dtype), soft])


def _cumsum(make: NodeMaker, call: TorchCall) -> Ref:
    x = make.cast(call.ref("self"), call.dtype)
    if x.rank == 0:
        return x
    return make.node("cumsum", [x], axis=call.axis("dim", x.rank))


def _count_nonzero(make: NodeMaker, call: TorchCall) -> Ref:
    x = make.cast(make.cast(call.ref("self"), BOOL), I64)
    return fold(make, call, "reduce_sum", x, call.axes("dim", x.rank))


TABLE: Mapping[str, Handler] = {
    "aten.cumsum.default": _cumsum,
    "aten.mean.dim": _fold("reduce_mean"),
    "aten.mean.default": _fold("reduce_mean"),
    "aten.sum.dim_IntList": _fold("reduce_sum"),
    "aten.sum.default": _fold("reduce_sum"),
    "aten.prod.default": _fold("reduce_prod"),
    "aten.prod.dim_int": _fold("reduce_prod"),
    "aten.amax.default": _fold("reduce_max"),
    "aten.amin.default": _fold("reduce_min"),
    "aten.max.default": _fold("reduce_max"),
    "aten.min.default": _fold("reduce_min"),
    "aten.logsumexp.default": _fold("reduce_log_sum_exp"),
    "aten.linalg_vector_norm.default": _norm,
    "aten.any.default": _any("reduce_max"),
    "aten.any.dim": _any("reduce_max"),
    "aten.any.dims": _any("reduce_max"),
    "aten.all.default": _any("reduce_min"),
    "aten.all.dim": _any("reduce_min"),
    "aten.all.dims": _any("reduce_min"),
    "aten.count_nonzero.dim_IntList": _count_nonzero,
    "aten.count_nonzero.default": _count_nonzero,
    "aten.max.dim": _extreme("reduce_max", "argmax"),
    "aten.min.dim": _extreme("reduce_min", "argmin"),
    "aten.argmax.default": _place("argmax"),
    "aten.argmin.default": _place("argmin"),
    "aten.var.correction": _var,
    "aten.std.correction": _std,
    "aten.var_mean.correction": _spread,
    "aten._softmax.default": _softmax("softmax"),
    "aten.softmax.int": _softmax("softmax"),
    "aten._log_softmax.default": _softmax("log_softmax"),
    "aten.log_softmax.int": _softmax("log_softmax"),
    "aten._safe_softmax.default": _safe_softmax,
}
"""The function that translates each operator."""

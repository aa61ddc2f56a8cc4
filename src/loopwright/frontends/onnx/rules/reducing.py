"""ONNX operators that fold elements: reductions, pools, softmax and normalisations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule
from loopwright.frontends.onnx.rules.contracting import windows


def _reduce(op: str, alone: Sequence[str] = ()) -> Rule:
    """A reduction. `alone` are the functions that it is when there are no axes to fold."""

    def rule(call: OnnxCall) -> tuple[str]:
        rank = call.rank()
        given = call.known(1, "the list of axes") if call.has(1) else ()
        axes = given or call.integers("axes", ())
        if not axes and call.integer("noop_with_empty_axes", 0):
            value = call.x()
            for function in alone:
                value = call.emit(function, value)
            return (value,)
        folded = tuple(sorted(call.normal(axes, rank))) or tuple(range(rank))
        keepdims = call.integer("keepdims", 1)
        return (call.emit(op, call.x(), axes=folded, keepdims=keepdims),)

    return rule


def _arg(op: str) -> Rule:
    def rule(call: OnnxCall) -> tuple[str]:
        made = call.emit(
            op,
            call.x(),
            axis=call.axis(0, call.rank()),
            keepdims=call.integer("keepdims", 1),
            select_last=call.integer("select_last_index", 0),
        )
        return (made,)

    return rule


def _softmax(op: str) -> Rule:
    """Before opset 13, over all dimensions from the axis on."""

    def rule(call: OnnxCall) -> tuple[str]:
        rank = call.rank()
        if call.opset >= 13:
            return (call.emit(op, call.x(), axis=call.axis(-1, rank)),)
        axis = call.axis(1, rank)
        shape = call.shape()
        flat = call.reshape(call.x(), (math.prod(shape[:axis]), math.prod(shape[axis:])))
        return (call.reshape(call.emit(op, flat, axis=1), shape),)

    return rule


def _hardmax(call: OnnxCall) -> tuple[str]:
    rank, shape = call.rank(), call.shape()
    value = call.x()
    axis = call.axis(-1 if call.opset >= 13 else 1, rank)
    if call.opset < 13:
        value = call.reshape(value, (math.prod(shape[:axis]), math.prod(shape[axis:])))
        axis, rank = 1, 2
    best = call.emit("argmax", value, axis=axis, keepdims=1, select_last=0)
    extents = [1] * rank
    extents[axis] = call.shape_of(value)[axis]
    places = call.constant(np.arange(extents[axis], dtype=np.int64).reshape(extents))
    return (call.reshape(call.cast(call.emit("equal", places, best), call.dtype()), shape),)


def _max_pool(call: OnnxCall) -> tuple[str]:
    if len(call.used) > 1 and call.used[1]:
        raise call.refuse("the second output, the indices, is not supported")
    kernel = call.integers("kernel_shape")
    ceil_mode = call.integer("ceil_mode", 0)
    strides, pads, dilations = windows(call, kernel)
    made = call.emit(
        "max_pool",
        call.x(),
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        ceil_mode=ceil_mode,
    )
    return (made,)


def _average_pool(call: OnnxCall) -> tuple[str]:
    kernel = call.integers("kernel_shape")
    strides, pads, dilations = windows(call, kernel)
    made = call.emit(
        "average_pool",
        call.x(),
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        ceil_mode=call.integer("ceil_mode", 0),
        count_include_pad=call.integer("count_include_pad", 0),
    )
    return (made,)


def _lp_pool(call: OnnxCall) -> tuple[str]:
    """The p-th root of the sum of p-th powers, from the average with padding counted.

    There is padding wherever a window reaches, so that each average counts all of its window.
    """
    kernel = call.integers("kernel_shape")
    strides, pads, dilations = windows(call, kernel)
    if call.integer("ceil_mode", 0):
        pads = _reached(call.shape()[2:], kernel, strides, pads, dilations)
    powers = _powers(call)
    mean = call.emit(
        "average_pool",
        powers,
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        count_include_pad=1,
    )
    total = call.emit("mul", mean, call.constant(math.prod(kernel), call.dtype()))
    return (_root(call, total),)


def _reached(
    image: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Pads up to the end of the last window, when windows may reach beyond the pads there are.

    A window that would start behind the image is left out.   Source: ONNX, LpPool-22.
    """
    rank = len(kernel)
    begins, ends = tuple(pads[:rank]), list(pads[rank:])
    for d, (extent, size, step) in enumerate(zip(image, kernel, strides, strict=True)):
        room = extent + begins[d] + ends[d] - dilations[d] * (size - 1) - 1
        last = -(-room // step) * step
        if last < extent + begins[d]:
            ends[d] += max(0, last - room)
    return (*begins, *ends)


def _powers(call: OnnxCall) -> str:
    order = call.integer("p", 2)
    size = call.emit("abs", call.x())
    return size if order == 1 else call.emit("pow", size, call.constant(order, call.dtype()))


def _root(call: OnnxCall, value: str) -> str:
    order = call.integer("p", 2)
    if order == 1:
        return value
    if order == 2:
        return call.emit("sqrt", value)
    return call.emit("pow", value, call.constant(1 / order, call.dtype()))


def _spatial(call: OnnxCall) -> tuple[int, ...]:
    if call.rank() < 3:
        raise call.wrong(f"its input of shape {call.shape()} has no spatial dimensions")
    return tuple(range(2, call.rank()))


def _global_pool(op: str) -> Rule:
    return lambda call: (call.emit(op, call.x(), axes=_spatial(call), keepdims=1),)


def _global_lp_pool(call: OnnxCall) -> tuple[str]:
    total = call.emit("reduce_sum", _powers(call), axes=_spatial(call), keepdims=1)
    return (_root(call, total),)


def _lp_normalization(call: OnnxCall) -> tuple[str]:
    axis = call.axis(-1, call.rank())
    op = "reduce_l1" if call.integer("p", 2) == 1 else "reduce_l2"
    norm = call.emit(op, call.x(), axes=(axis,), keepdims=1)
    zero = call.constant(0, call.dtype())
    safe = call.emit("where", call.emit("equal", norm, zero), call.constant(1, call.dtype()), norm)
    return (call.emit("div", call.x(), safe),)


def _batch_norm(call: OnnxCall) -> tuple[str]:
    if call.integer("training_mode", 0):
        raise call.refuse("training mode is not supported; export the model for inference")
    operands = [call.x(place) for place in range(5)]
    return (call.emit("batch_norm", *operands, epsilon=call.number("epsilon", 1e-5)),)


def _layer_norm(call: OnnxCall) -> tuple[str, ...]:
    axis = call.axis(-1, call.rank())
    epsilon = call.number("epsilon", 1e-5)
    operands = [call.x(0), call.x(1), *([call.x(2)] if call.has(2) else [])]
    made = call.emit("layer_norm", *operands, axis=axis, epsilon=epsilon)
    if not any(call.used[1:]):
        return (made,)
    axes = tuple(range(axis, call.rank()))
    mean = call.emit("reduce_mean", call.x(), axes=axes, keepdims=1)
    return made, mean, _inverse_deviation(call, mean, axes, epsilon)


def _inverse_deviation(call: OnnxCall, mean: str, axes: tuple[int, ...], epsilon: float) -> str:
    off = call.emit("sub", call.x(), mean)
    variance = call.emit("reduce_mean", call.emit("mul", off, off), axes=axes, keepdims=1)
    shifted = call.emit("add", variance, call.constant(epsilon, call.dtype()))
    return call.emit("reciprocal", call.emit("sqrt", shifted))


def _rms_norm(call: OnnxCall) -> tuple[str]:
    axis = call.axis(-1, call.rank())
    axes = tuple(range(axis, call.rank()))
    square = call.emit("mul", call.x(), call.x())
    mean = call.emit("reduce_mean", square, axes=axes, keepdims=1)
    shifted = call.emit("add", mean, call.constant(call.number("epsilon", 1e-5), call.dtype()))
    scaled = call.emit("div", call.x(), call.emit("sqrt", shifted))
    return (call.emit("mul", scaled, call.x(1)),)


def _instance_norm(call: OnnxCall) -> tuple[str]:
    operands = [call.x(place) for place in range(3)]
    return (call.emit("instance_norm", *operands, epsilon=call.number("epsilon", 1e-5)),)


def _group_norm(call: OnnxCall) -> tuple[str]:
    """Instances of groups; scale and bias are a channel's, or a group's before opset 21."""
    shape, groups = call.shape(), call.integer("num_groups")
    channels = shape[1]
    if channels % groups:
        raise call.wrong(f"{channels} channels do not divide into {groups} groups")
    flat = call.reshape(call.x(), (shape[0], groups, math.prod(shape[1:]) // groups))
    one = call.constant(np.ones(groups, call.dtype().numpy))
    zero = call.constant(np.zeros(groups, call.dtype().numpy))
    normal = call.emit("instance_norm", flat, one, zero, epsilon=call.number("epsilon", 1e-5))
    value = call.reshape(normal, shape)
    for op, place in (("mul", 1), ("add", 2)):
        per_channel = call.x(place)
        if call.opset < 21:
            spread = call.reshape(per_channel, (groups, 1))
            spread = call.emit("expand", spread, shape=(groups, channels // groups))
            per_channel = call.reshape(spread, (channels,))
        broadcast = (channels, *([1] * (len(shape) - 2)))
        value = call.emit(op, value, call.reshape(per_channel, broadcast))
    return (value,)


def _mean_variance(call: OnnxCall) -> tuple[str]:
    axes = call.normal(call.integers("axes", (0, 2, 3)), call.rank())
    mean = call.emit("reduce_mean", call.x(), axes=tuple(sorted(axes)), keepdims=1)
    off = call.emit("sub", call.x(), mean)
    variance = call.emit(
        "reduce_mean", call.emit("mul", off, off), axes=tuple(sorted(axes)), keepdims=1
    )
    deviation = call.emit("add", call.emit("sqrt", variance), call.constant(1e-9, call.dtype()))
    return (call.emit("div", off, deviation),)


def _lrn(call: OnnxCall) -> tuple[str]:
    made = call.emit(
        "lrn",
        call.x(),
        size=call.integer("size"),
        alpha=call.number("alpha", 0.0001),
        beta=call.number("beta", 0.75),
        bias=call.number("bias", 1.0),
    )
    return (made,)


RULES: Mapping[str, Rule] = {
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "GlobalAveragePool": _global_pool("reduce_mean"),
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": _global_pool("reduce_max"),
    "GroupNormalization": _group_norm,
    "Hardmax": _hardmax,
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax("log_softmax"),
    "LpNormalization": _lp_normalization,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms_norm,
    "ReduceL1": _reduce("reduce_l1", ("abs",)),
    "ReduceL2": _reduce("reduce_l2", ("abs",)),
    "ReduceLogSum": _reduce("reduce_log_sum", ("log",)),
    "ReduceLogSumExp": _reduce("reduce_log_sum_exp"),
    "ReduceMax": _reduce("reduce_max"),
    "ReduceMean": _reduce("reduce_mean"),
    "ReduceMin": _reduce("reduce_min"),
    "ReduceProd": _reduce("reduce_prod"),
    "ReduceSum": _reduce("reduce_sum"),
    "ReduceSumSquare": _reduce("reduce_sum_square"),
    "Softmax": _softmax("softmax"),
}

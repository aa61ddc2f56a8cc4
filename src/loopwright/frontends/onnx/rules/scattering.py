"""ONNX operators that put elements in other places or in order, and gather by several indices."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule
from loopwright.frontends.onnx.rules.moving import counted
from loopwright.ir.dtype import BOOL, I64


def _flat_index(call: OnnxCall, extents: tuple[int, ...]) -> str:
    """Input 1, whose last dimension holds indices of `extents`, as indices of them flattened."""
    index = call.cast(call.x(1), I64)
    constant = call.builder.array(index)
    limits = np.asarray(extents, np.int64)
    known = limits[:0] if constant is None else constant.astype(np.int64)
    if known.size and not ((-limits <= known) & (known < limits)).all():
        raise call.wrong(f"an index is outside of {list(extents)}")
    steps = [math.prod(extents[d + 1 :]) for d in range(len(extents))]
    negative = call.emit("less", index, call.constant(0, I64))
    index = call.emit("where", negative, call.emit("add", index, call.constant(limits)), index)
    scaled = call.emit("mul", index, call.constant(np.asarray(steps, np.int64)))
    return call.emit("reduce_sum", scaled, axes=(call.rank(1) - 1,), keepdims=0)


def _gather_nd(call: OnnxCall) -> tuple[str]:
    """Indices of several dimensions become one, into those dimensions and the batch's flattened."""
    data, places = call.shape(0), call.shape(1)
    batch, end = call.integer("batch_dims", 0), call.integer("batch_dims", 0) + places[-1]
    if batch >= min(len(data), len(places)) or data[:batch] != places[:batch] or end > len(data):
        raise call.wrong(f"the indices {list(places)} do not fit the data {list(data)}")
    single = _flat_index(call, data[batch:end])
    if batch:
        starts = np.arange(math.prod(data[:batch])) * math.prod(data[batch:end])
        spread = starts.reshape(*data[:batch], *(1 for _ in places[batch:-1]))
        single = call.emit("add", single, call.constant(spread.astype(np.int64)))
    flat = call.reshape(call.x(), (math.prod(data[:end]), *data[end:]))
    return (call.emit("gather", flat, single, axis=0),)


def _reduction(call: OnnxCall) -> str:
    kind = call.text("reduction", "none")
    if call.dtype() == BOOL and kind != "none":
        raise call.refuse(f"the reduction {kind!r} of bools is not supported; cast them to int32")
    return kind


def _scatter(call: OnnxCall, data: str, indices: str, updates: str, axis: int) -> str:
    kind = _reduction(call)
    return call.emit("scatter", data, indices, updates, axis=axis, reduction=kind)


def _scatter_elements(call: OnnxCall) -> tuple[str]:
    if 0 in call.shape(1):
        return (call.x(),)
    axis = call.axis(0, call.rank())
    indices = counted(call, call.x(1), call.shape()[axis])
    return (_scatter(call, call.x(), indices, call.x(2), axis),)


def _scatter_nd(call: OnnxCall) -> tuple[str]:
    """As rows: the dimensions that indices say flattened, and the others."""
    data, places = call.shape(0), call.shape(1)
    depth = places[-1]
    if depth > len(data):
        raise call.wrong(f"the indices {list(places)} do not fit the data {list(data)}")
    if 0 in call.shape(2):
        return (call.x(),)
    count, width = math.prod(places[:-1]), math.prod(data[depth:])
    rows = call.reshape(call.x(), (math.prod(data[:depth]), width))
    single = call.reshape(_flat_index(call, data[:depth]), (count, 1))
    updates = call.reshape(call.x(2), (count, width))
    return (call.reshape(_scatter(call, rows, single, updates, 0), data),)


def _top_k(call: OnnxCall) -> tuple[str, str]:
    """Sorted whether asked for or not: then any order will do."""
    axis = call.axis(-1, call.rank())
    count = call.known(1, "the number k")[0] if call.opset >= 10 else call.integer("k")
    if not 0 <= count <= call.shape()[axis]:
        raise call.wrong(f"k is {count}, of {call.shape()[axis]} elements along axis {axis}")
    if not count:
        empty = [0 if d == axis else n for d, n in enumerate(call.shape())]
        return (
            call.constant(np.zeros(empty, call.dtype().numpy)),
            call.constant(np.zeros(empty, np.int64)),
        )
    largest = call.integer("largest", 1)
    places = call.emit("order", call.x(), axis=axis, count=count, largest=largest)
    return call.emit("gather_elements", call.x(), places, axis=axis), places


def _reverse_sequence(call: OnnxCall) -> tuple[str]:
    """Of each sequence, the first elements backwards, as many as its length."""
    shape = call.shape()
    batch, time = call.integer("batch_axis", 1), call.integer("time_axis", 0)
    if {batch, time} != {0, 1}:
        raise call.wrong(f"batch_axis {batch} and time_axis {time} are not 0 and 1")
    line, column = ([1] * len(shape) for _ in range(2))
    line[batch], column[time] = shape[batch], shape[time]
    lengths = call.reshape(call.cast(call.x(1), I64), line)
    places = call.constant(np.arange(shape[time], dtype=np.int64).reshape(column))
    last = call.emit("sub", lengths, call.constant(1, I64))
    within = call.emit("less", places, lengths)
    source = call.emit("where", within, call.emit("sub", last, places), places)
    source = call.emit("expand", source, shape=shape)
    return (call.emit("gather_elements", call.x(), source, axis=time),)


RULES: Mapping[str, Rule] = {
    "GatherND": _gather_nd,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}

"""ONNX operators that are constants, since shapes are fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule
from loopwright.frontends.onnx.rules.elementwise import element_type

_LARGE = 1 << 18
"""Elements of a filled tensor that are kept as they are; more are expanded from one."""


def _constant(call: OnnxCall) -> tuple[str]:
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64),
                        ("value_float", np.float32), ("value_floats", np.float32)):  # fmt: skip
        if name in call.attrs:
            return (call.constant(np.asarray(call.attrs[name], dtype)),)
    value = call.attrs.get("value")
    if not isinstance(value, np.ndarray):
        raise call.refuse("only constants that are dense tensors of numbers are supported")
    return (call.constant(value),)


def _shape(call: OnnxCall) -> tuple[str]:
    shape = call.shape()
    picked = shape[slice(call.integer("start", 0), call.integer("end", len(shape)))]
    return (call.constant(np.asarray(picked, np.int64)),)


def _size(call: OnnxCall) -> tuple[str]:
    return (call.constant(np.asarray(math.prod(call.shape()), np.int64)),)


def _constant_of_shape(call: OnnxCall) -> tuple[str]:
    shape = call.known(0, "the shape")
    value = call.attrs.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise call.wrong("its attribute value is not one number")
    if math.prod(shape) <= _LARGE:
        return (call.constant(np.full(shape, value.reshape(())[()], value.dtype)),)
    return (call.emit("expand", call.constant(value.reshape(())), shape=shape),)


def _range(call: OnnxCall) -> tuple[str]:
    start, limit, step = (
        call.array(place, what).reshape(())
        for place, what in enumerate(("the start", "the limit", "the step"))
    )
    count = max(math.ceil((float(limit) - float(start)) / float(step)), 0)
    wide = np.float64 if start.dtype.kind == "f" else np.int64
    values = np.asarray(start, wide) + np.arange(count) * np.asarray(step, wide)
    return (call.constant(values.astype(start.dtype)),)


def _eye_like(call: OnnxCall) -> tuple[str]:
    rows, columns = call.shape()
    dtype = call.dtype()
    if "dtype" in call.attrs:
        dtype = element_type(call, call.integer("dtype"))
    return (call.constant(np.eye(rows, columns, call.integer("k", 0)).astype(dtype.numpy)),)


def _non_zero(call: OnnxCall) -> tuple[str]:
    found = np.stack(np.nonzero(np.atleast_1d(call.array(0, "what it looks at"))))
    return (call.constant(found.astype(np.int64)),)


def _window(weights: Mapping[int, float]) -> Rule:
    """A sum of cosines over the places of a window."""

    def rule(call: OnnxCall) -> tuple[str]:
        size = call.known(0, "the size")[0]
        dtype = element_type(call, call.integer("output_datatype", 1))
        span = size if call.integer("periodic", 1) else size - 1
        phase = 2 * np.pi * np.arange(size) / max(span, 1)
        total = sum(w * np.cos(n * phase) for n, w in weights.items())
        return (call.constant(np.asarray(total).astype(dtype.numpy)),)

    return rule


def _one_hot(call: OnnxCall) -> tuple[str]:
    depth = call.known(1, "the depth")[0]
    rank = call.rank() + 1
    axis = call.axis(-1, rank)
    off, on = (call.slice(call.x(2), 0, n, 1) for n in (0, 1))
    shape = [1] * rank
    shape[axis] = depth
    indices = call.x()
    if call.dtype().is_float:
        indices = call.emit("cast", indices, to="int64")
    dtype = call.dtype_of(indices)
    zero, wrap = call.constant(0, dtype), call.constant(depth, dtype)
    negative = call.emit("less", indices, zero)
    indices = call.emit("where", negative, call.emit("add", indices, wrap), indices)
    spread = list(call.shape())
    spread.insert(axis, 1)
    places = call.constant(np.arange(depth).astype(dtype.numpy).reshape(shape))
    hit = call.emit("equal", call.reshape(indices, spread), places)
    return (call.emit("where", hit, call.reshape(on, ()), call.reshape(off, ())),)


_HAMMING = 25 / 46
RULES: Mapping[str, Rule] = {
    "BlackmanWindow": _window({0: 0.42, 1: -0.5, 2: 0.08}),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "EyeLike": _eye_like,
    "HammingWindow": _window({0: _HAMMING, 1: _HAMMING - 1}),
    "HannWindow": _window({0: 0.5, 1: -0.5}),
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Range": _range,
    "Shape": _shape,
    "Size": _size,
}

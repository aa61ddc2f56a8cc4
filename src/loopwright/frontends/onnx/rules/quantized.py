"""ONNX's conversions between floats and 8-bit integers, in float arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule
from loopwright.frontends.onnx.rules.elementwise import element_type
from loopwright.ir.bounds import dtype_range
from loopwright.ir.dtype import U8


def _spread(call: OnnxCall, value: str) -> str:
    """`value`, one number or one for each entry or block of the axis, in a shape that fits."""
    shape, rank = call.shape_of(value), call.rank()
    block = call.integer("block_size", 0)
    if block:
        axis = call.axis(1, rank)
        apart = call.reshape(value, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        wanted = (*shape[: axis + 1], block, *shape[axis + 1 :])
        return call.reshape(call.emit("expand", apart, shape=wanted), call.shape())
    if not shape:
        return value
    if shape == (1,):
        return call.reshape(value, ())
    axis = call.axis(1, rank)
    return call.reshape(value, [shape[0] if d == axis else 1 for d in range(rank)])


def _dequantize(call: OnnxCall) -> tuple[str]:
    scale = _spread(call, call.x(1))
    dtype = call.dtype(1)
    value = call.cast(call.x(), dtype)
    if call.has(2):
        value = call.emit("sub", value, call.cast(_spread(call, call.x(2)), dtype))
    return (call.emit("mul", value, scale),)


def _quantize(call: OnnxCall) -> tuple[str]:
    dtype = call.dtype()
    wanted = call.dtype(2) if call.has(2) else U8
    if call.integer("output_dtype", 0):
        wanted = element_type(call, call.integer("output_dtype"))
    limits = dtype_range(wanted)
    if limits is None:
        raise call.refuse(f"{wanted} is not supported")
    scale = call.cast(_spread(call, call.x(1)), dtype)
    value = call.emit("round", call.emit("div", call.x(), scale))
    if call.has(2):
        value = call.emit("add", value, call.cast(_spread(call, call.x(2)), dtype))
    low, high = limits
    bounded = call.emit("clip", value, min=float(low), max=float(high))
    return (call.cast(bounded, wanted),)


RULES: Mapping[str, Rule] = {"DequantizeLinear": _dequantize, "QuantizeLinear": _quantize}

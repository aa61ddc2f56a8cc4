"""ONNX operators on elements: functions, activations, arithmetic with broadcasting, casts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule
from loopwright.ir import dtype as dt
from loopwright.ops.elementwise import OPS

ONNX_DTYPES: Mapping[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
"""Element types by their number in ONNX, those that graphs have."""


def element_type(call: OnnxCall, number: int) -> dt.DType:
    """The dtype that ONNX calls `number`."""
    if number not in ONNX_DTYPES:
        raise call.refuse(f"the element type {number} is not supported")
    return dt.parse(ONNX_DTYPES[number])


def _same(op: str) -> Rule:
    """The operator `op` of graphs, on the same inputs."""
    return lambda call: (call.emit(op, *call.inputs),)


def _numbers(op: str, **defaults: float) -> Rule:
    """The operator `op` of graphs, with numbers as attributes."""

    def rule(call: OnnxCall) -> tuple[str]:
        attrs = {name: call.number(name, value) for name, value in defaults.items()}
        return (call.emit(op, call.x(), **attrs),)

    return rule


def _chain(op: str) -> Rule:
    """Any number of inputs, two at a time."""

    def rule(call: OnnxCall) -> tuple[str]:
        total = call.x(0)
        for place in range(1, len(call.inputs)):
            total = call.emit(op, total, call.x(place))
        return (total,)

    return rule


def _mean(call: OnnxCall) -> tuple[str]:
    (total,) = _chain("add")(call)
    return (call.emit("div", total, call.constant(len(call.inputs), call.dtype())),)


def _identity(call: OnnxCall) -> tuple[str]:
    return (call.x(),)


def _dropout(call: OnnxCall) -> tuple[str, ...]:
    if call.has(2) and call.scalar(2, "training_mode"):
        raise call.refuse("training mode is not supported; export the model for inference")
    if len(call.used) < 2 or not call.used[1]:
        return (call.x(),)
    return call.x(), call.constant(np.ones(call.shape(), np.bool_))


def _clip(call: OnnxCall) -> tuple[str]:
    """Before opset 11 the bounds are attributes."""
    value = call.x()
    bounds = {name: call.number(name) for name in ("min", "max") if name in call.attrs}
    for place, (name, op) in enumerate((("min", "max"), ("max", "min")), start=1):
        if not call.has(place):
            continue
        constant = call.builder.array(call.x(place))
        if constant is not None and constant.size == 1 and call.dtype().is_float:
            bounds[name] = call.scalar(place, name)
        else:
            value = call.emit(op, value, call.x(place))
    return (call.emit("clip", value, **bounds) if bounds else value,)


def _cast(call: OnnxCall) -> tuple[str]:
    return (call.cast(call.x(), element_type(call, call.integer("to"))),)


def _cast_like(call: OnnxCall) -> tuple[str]:
    return (call.cast(call.x(), call.dtype(1)),)


def _is_inf(call: OnnxCall) -> tuple[str]:
    found = call.emit("is_inf", call.x())
    zero = call.constant(0, call.dtype())
    positive, negative = call.integer("detect_positive", 1), call.integer("detect_negative", 1)
    if not positive and not negative:
        return (call.emit("and", found, call.emit("not", found)),)
    if not negative:
        found = call.emit("and", found, call.emit("greater", call.x(), zero))
    if not positive:
        found = call.emit("and", found, call.emit("less", call.x(), zero))
    return (found,)


def _gelu(call: OnnxCall) -> tuple[str]:
    return (call.emit("gelu", call.x(), approximate=call.text("approximate", "none")),)


def _swish(call: OnnxCall) -> tuple[str]:
    alpha = call.number("alpha", 1.0)
    if alpha == 1.0:
        return (call.emit("silu", call.x()),)
    scaled = call.emit("mul", call.x(), call.constant(alpha, call.dtype()))
    return (call.emit("mul", call.x(), call.emit("sigmoid", scaled)),)


def _mod(call: OnnxCall) -> tuple[str]:
    return (call.emit("mod", call.x(0), call.x(1), fmod=call.integer("fmod", 0)),)


def _shrink(call: OnnxCall) -> tuple[str]:
    x, dtype = call.x(), call.dtype()
    lambd, bias = call.number("lambd", 0.5), call.constant(call.number("bias", 0.0), dtype)
    low = call.emit("less", x, call.constant(-lambd, dtype))
    high = call.emit("greater", x, call.constant(lambd, dtype))
    inner = call.emit("where", high, call.emit("sub", x, bias), call.constant(0, dtype))
    return (call.emit("where", low, call.emit("add", x, bias), inner),)


def _bitwise_or(call: OnnxCall) -> tuple[str]:
    """What either has is their sum less what both have."""
    total = call.emit("add", call.x(0), call.x(1))
    return (call.emit("sub", total, call.emit("bitwise_and", call.x(0), call.x(1))),)


def _bitwise_xor(call: OnnxCall) -> tuple[str]:
    (either,) = _bitwise_or(call)
    return (call.emit("sub", either, call.emit("bitwise_and", call.x(0), call.x(1))),)


def _bitwise_not(call: OnnxCall) -> tuple[str]:
    """All bits on, less `x`: -1 in two's complement."""
    every = np.asarray(-1).astype(call.dtype().numpy)
    return (call.emit("sub", call.constant(every), call.x()),)


def _bit_shift(call: OnnxCall) -> tuple[str]:
    """A product with a power of two or a quotient by it, for bits that are known."""
    dtype = call.dtype()
    bits = call.array(1, "the number of bits").astype(np.int64)
    if call.rank(1) > call.rank() or dtype.kind is not dt.DTypeKind.UINT:
        raise call.refuse(f"a shift of {dtype} in another shape is not supported; shift uint8")
    within = (bits >= 0) & (bits < dtype.bits)
    power = call.constant(np.where(within, 2 ** np.where(within, bits, 0), 1).astype(dtype.numpy))
    op = "mul" if call.text("direction") == "LEFT" else "div"
    shifted = call.emit(op, call.x(), power)
    return (call.emit("where", call.constant(within), shifted, call.constant(0, dtype)),)


def _with_bias(call: OnnxCall) -> str:
    return call.emit("add", call.x(), call.x(1)) if call.has(1) else call.x()


def _bias_gelu(call: OnnxCall) -> tuple[str]:
    return (call.emit("gelu", _with_bias(call), approximate="none"),)


def _fast_gelu(call: OnnxCall) -> tuple[str]:
    return (call.emit("gelu", _with_bias(call), approximate="tanh"),)


def _quick_gelu(call: OnnxCall) -> tuple[str]:
    scaled = call.emit("mul", call.x(), call.constant(call.number("alpha", 1.702), call.dtype()))
    return (call.emit("mul", call.x(), call.emit("sigmoid", scaled)),)


_SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}

RULES: Mapping[str, Rule] = {
    **{row.onnx: _same(row.name) for row in OPS if row.onnx and not row.attrs},
    "BitShift": _bit_shift,
    "BitwiseNot": _bitwise_not,
    "BitwiseOr": _bitwise_or,
    "BitwiseXor": _bitwise_xor,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Celu": _numbers("celu", alpha=1.0),
    "Clip": _clip,
    "Dropout": _dropout,
    "Elu": _numbers("elu", alpha=1.0),
    "Gelu": _gelu,
    "HardSigmoid": _numbers("hard_sigmoid", alpha=0.2, beta=0.5),
    "Identity": _identity,
    "IsInf": _is_inf,
    "LeakyRelu": _numbers("leaky_relu", alpha=0.01),
    "Max": _chain("max"),
    "Mean": _mean,
    "Min": _chain("min"),
    "Mod": _mod,
    "Selu": _numbers("selu", **_SELU),
    "Shrink": _shrink,
    "Sum": _chain("add"),
    "Swish": _swish,
    "ThresholdedRelu": _numbers("thresholded_relu", alpha=1.0),
}
MICROSOFT_RULES: Mapping[str, Rule] = {
    "BiasGelu": _bias_gelu,
    "FastGelu": _fast_gelu,
    "Gelu": _bias_gelu,
    "QuickGelu": _quick_gelu,
}
"""Operators of the domain com.microsoft, which onnxruntime adds."""

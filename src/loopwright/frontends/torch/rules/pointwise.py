"""ATen's operators on single elements: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from loopwright.frontends.torch.rules.call import Handler, NodeMaker, Ref, TorchCall, common
from loopwright.ir.dtype import BOOL
from loopwright.ops.attributes import NodeAttr

_UNARY = (
    *("exp", "expm1", "log", "log1p", "sqrt", "reciprocal", "erf", "sigmoid", "silu"),
    *("sin", "cos", "tan", "sinh", "cosh", "tanh"),
    *("asin", "acos", "atan", "asinh", "acosh", "atanh"),
)
"""Functions of one float that are called the same in both vocabularies."""


def _unary(op: str) -> Handler:
    """`op` of the argument, in the dtype of the result: integers become floats."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        return make.node(op, [make.operand(call, "self", call.dtype)])

    return handler


def _same_dtype(op: str) -> Handler:
    """`op` of the argument, in its own dtype."""
    return lambda make, call: make.node(op, [call.ref("self")])


def _rounding(op: str) -> Handler:
    """A rounding, which leaves integers as they are."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = call.ref("self")
        return make.node(op, [x]) if x.dtype.is_float else x

    return handler


def _arithmetic(op: str, logical: str | None = None) -> Handler:
    """`self op other` in the dtype of the result; `alpha` scales the other one."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        a = make.operand(call, "self", call.dtype)
        b = make.operand(call, "other", call.dtype)
        if call.dtype.is_bool and logical is not None:
            return make.node(logical, [a, b])
        alpha = call.number("alpha", 1.0)
        if alpha != 1.0:
            b = make.node("mul", [b, make.scalar(alpha, call.dtype)])
        return make.node(op, [a, b])

    return handler


def _rsub(make: NodeMaker, call: TorchCall) -> Ref:
    a, b = make.operand(call, "self", call.dtype), make.operand(call, "other", call.dtype)
    alpha = call.number("alpha", 1.0)
    if alpha != 1.0:
        a = make.node("mul", [a, make.scalar(alpha, call.dtype)])
    return make.node("sub", [b, a])


def _div_mode(make: NodeMaker, call: TorchCall) -> Ref:
    a, b = make.operand(call, "self", call.dtype), make.operand(call, "other", call.dtype)
    mode = call.text("rounding_mode", "floor" if call.target.startswith("aten.floor_div") else "")
    if not call.dtype.is_float and mode == "floor":
        rest = make.node("mod", [a, b], fmod=0)
        return make.node("div", [make.node("sub", [a, rest]), b])
    quotient = make.node("div", [a, b])
    if mode == "floor":
        return make.node("floor", [quotient])
    return _truncated(make, quotient) if mode == "trunc" and call.dtype.is_float else quotient


def _truncated(make: NodeMaker, x: Ref) -> Ref:
    """`x` rounded to zero."""
    whole = make.node("floor", [make.node("abs", [x])])
    return make.node("mul", [make.node("sign", [x]), whole])


def _trunc(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    return _truncated(make, x) if x.dtype.is_float else x


def _remainder(fmod: int) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        a, b = make.operand(call, "self", call.dtype), make.operand(call, "other", call.dtype)
        return make.node("mod", [a, b], fmod=fmod)

    return handler


def _pow(make: NodeMaker, call: TorchCall) -> Ref:
    x = make.operand(call, "self", call.dtype)
    exponent = call.given.get("exponent")
    if exponent == 1:
        return x
    if exponent == 2:
        return make.node("mul", [x, x])
    if exponent == 3:
        return make.node("mul", [make.node("mul", [x, x]), x])
    if call.dtype.is_float and exponent in (0.5, -0.5):
        root = make.node("sqrt", [x])
        return root if exponent == 0.5 else make.node("reciprocal", [root])
    if call.dtype.is_float and exponent == -1:
        return make.node("reciprocal", [x])
    return make.node("pow", [x, make.operand(call, "exponent", call.dtype)])


def _rsqrt(make: NodeMaker, call: TorchCall) -> Ref:
    root = make.node("sqrt", [make.operand(call, "self", call.dtype)])
    return make.node("reciprocal", [root])


def _log_to(base: float) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        natural = make.node("log", [make.operand(call, "self", call.dtype)])
        return make.node("mul", [natural, make.scalar(1.0 / math.log(base), call.dtype)])

    return handler


def _exp2(make: NodeMaker, call: TorchCall) -> Ref:
    x = make.operand(call, "self", call.dtype)
    return make.node("exp", [make.node("mul", [x, make.scalar(math.log(2.0), call.dtype)])])


def _compare(op: str, *, negate: bool = False) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        dtype = common(call, "self", "other")
        a, b = make.operand(call, "self", dtype), make.operand(call, "other", dtype)
        found = make.node(op, [a, b])
        return make.node("not", [found]) if negate else found

    return handler


def _logical(op: str) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        given = [n for n in ("self", "other") if n in call.given]
        values = [make.operand(call, n, call.dtype) for n in given]
        return make.node(op, values) if call.dtype.is_bool else _bitwise(make, op, values)

    return handler


def _bitwise(make: NodeMaker, op: str, values: Sequence[Ref]) -> Ref:
    """A bitwise operator on integers: what either has is their sum less what both have."""
    if op == "not":
        return make.node("sub", [make.scalar(-1, values[0].dtype), values[0]])
    both = make.node("bitwise_and", values)
    if op == "and":
        return both
    either = make.node("sub", [make.node("add", values), both])
    return either if op == "or" else make.node("sub", [either, both])


def _where(make: NodeMaker, call: TorchCall) -> Ref:
    cond = make.cast(call.ref("condition"), BOOL)
    yes, no = make.operand(call, "self", call.dtype), make.operand(call, "other", call.dtype)
    return make.node("where", [cond, yes, no])


def _masked_fill(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    return make.node("where", [call.ref("mask"), make.operand(call, "value", x.dtype), x])


def _clamp(make: NodeMaker, call: TorchCall) -> Ref:
    x = make.cast(call.ref("self"), call.dtype)
    low, high = call.given.get("min"), call.given.get("max")
    if isinstance(low, Ref) or isinstance(high, Ref) or not call.dtype.is_float:
        for name, op in (("min", "max"), ("max", "min")):
            if call.has(name):
                x = make.node(op, [x, make.operand(call, name, call.dtype)])
        return x
    bounds: dict[str, NodeAttr] = {}
    for name in ("min", "max"):
        if call.has(name) and math.isfinite(call.number(name)):
            bounds[name] = call.number(name)
    return make.node("clip", [x], **bounds) if bounds else x


def _hardtanh(make: NodeMaker, call: TorchCall) -> Ref:
    low, high = call.number("min_val", -1.0), call.number("max_val", 1.0)
    return make.node("clip", [call.ref("self")], min=low, max=high)


def _relu6(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("clip", [call.ref("self")], min=0.0, max=6.0)


def _gelu(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("gelu", [call.ref("self")], approximate=call.text("approximate", "none"))


def _hard_sigmoid(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("hard_sigmoid", [call.ref("self")], alpha=1.0 / 6.0, beta=0.5)


def _leaky_relu(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("leaky_relu", [call.ref("self")], alpha=call.number("negative_slope", 0.01))


def _elu(make: NodeMaker, call: TorchCall) -> Ref:
    x, alpha, scale = call.ref("self"), call.number("alpha", 1.0), call.number("scale", 1.0)
    if call.number("input_scale", 1.0) != 1.0:
        raise call.refuse("with an input_scale other than 1")
    if scale == 1.0:
        return make.node("elu", [x], alpha=alpha)
    return make.node("selu", [x], alpha=alpha, gamma=scale)


def _selu(make: NodeMaker, call: TorchCall) -> Ref:
    alpha, gamma = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return make.node("selu", [call.ref("self")], alpha=alpha, gamma=gamma)


def _celu(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("celu", [call.ref("self")], alpha=call.number("alpha", 1.0))


def _softplus(make: NodeMaker, call: TorchCall) -> Ref:
    x, beta = call.ref("self"), call.number("beta", 1.0)
    if beta == 1.0:
        return make.node("softplus", [x])
    soft = make.node("softplus", [make.node("mul", [x, make.scalar(beta, x.dtype)])])
    return make.node("mul", [soft, make.scalar(1.0 / beta, x.dtype)])


def _log_sigmoid(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("neg", [make.node("softplus", [make.node("neg", [call.ref("self")])])])


def _log_sigmoid_forward(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
    return (_log_sigmoid(make, call), None)


def _threshold(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    above = make.node("greater", [x, make.operand(call, "threshold", x.dtype)])
    return make.node("where", [above, x, make.operand(call, "value", x.dtype)])


def _prelu(make: NodeMaker, call: TorchCall) -> Ref:
    x, slope = call.ref("self"), call.ref("weight")
    if slope.rank == 1 and x.rank > 1:
        slope = make.reshape(slope, (slope.shape[0], *(1 for _ in x.shape[2:])))
    return make.node("prelu", [x, slope])


def _addcmul(make: NodeMaker, call: TorchCall) -> Ref:
    first, second = call.ref("tensor1"), call.ref("tensor2")
    op = "div" if "addcdiv" in call.target else "mul"
    product = make.node(op, [make.cast(first, call.dtype), make.cast(second, call.dtype)])
    value = call.number("value", 1.0)
    if value != 1.0:
        product = make.node("mul", [product, make.scalar(value, call.dtype)])
    return make.node("add", [make.operand(call, "self", call.dtype), product])


def _lerp(make: NodeMaker, call: TorchCall) -> Ref:
    start, end = call.ref("self"), call.ref("end")
    weight = make.operand(call, "weight", call.dtype)
    step = make.node("mul", [weight, make.node("sub", [end, start])])
    return make.node("add", [start, step])


def _cast(make: NodeMaker, call: TorchCall) -> Ref:
    return make.cast(call.ref("self"), call.dtype)


def _same(make: NodeMaker, call: TorchCall) -> Ref:
    del make
    return call.ref("self")


def _dropout(make: NodeMaker, call: TorchCall) -> Ref:
    del make
    if call.integer("train", 0):
        raise call.refuse("in training; call eval() on the model first")
    return call.ref("input")


def _native_dropout(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
    return (_dropout(make, call), None)


def _table() -> dict[str, Handler]:
    table: dict[str, Handler] = {f"aten.{n}.default": _unary(n) for n in (*_UNARY, "mish")}
    table |= {f"aten.{n}.default": _rounding(n) for n in ("floor", "ceil", "round")}
    table |= {f"aten.{n}.default": _same_dtype(n) for n in ("neg", "abs", "relu", "sign")}
    for name, op, logical in (
        ("add", "add", "or"),
        ("sub", "sub", None),
        ("mul", "mul", "and"),
        ("div", "div", None),
    ):
        for overload in ("Tensor", "Scalar"):
            table[f"aten.{name}.{overload}"] = _arithmetic(op, logical)
    compared = {
        "eq": _compare("equal"),
        "ne": _compare("equal", negate=True),
        "lt": _compare("less"),
        "le": _compare("less_equal"),
        "gt": _compare("greater"),
        "ge": _compare("greater_equal"),
        "remainder": _remainder(0),
        "fmod": _remainder(1),
        "rsub": _rsub,
    }
    for name, handler in compared.items():
        table |= {f"aten.{name}.{overload}": handler for overload in ("Tensor", "Scalar")}
    for name in ("and", "or", "xor", "not"):
        table |= {f"aten.{kind}_{name}.default": _logical(name) for kind in ("logical", "bitwise")}
        table[f"aten.bitwise_{name}.Tensor"] = _logical(name)
        table[f"aten.bitwise_{name}.Scalar"] = _logical(name)
    return table


TABLE: Mapping[str, Handler] = _table() | {
    "aten.maximum.default": _arithmetic("max"),
    "aten.minimum.default": _arithmetic("min"),
    "aten.div.Tensor_mode": _div_mode,
    "aten.div.Scalar_mode": _div_mode,
    "aten.floor_divide.default": _div_mode,
    "aten.trunc.default": _trunc,
    "aten.pow.Tensor_Scalar": _pow,
    "aten.pow.Tensor_Tensor": _pow,
    "aten.pow.Scalar": _pow,
    "aten.rsqrt.default": _rsqrt,
    "aten.log2.default": _log_to(2.0),
    "aten.log10.default": _log_to(10.0),
    "aten.exp2.default": _exp2,
    "aten.isnan.default": _same_dtype("is_nan"),
    "aten.isinf.default": _same_dtype("is_inf"),
    "aten.where.self": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.ScalarSelf": _where,
    "aten.where.Scalar": _where,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.masked_fill.Tensor": _masked_fill,
    "aten.clamp.default": _clamp,
    "aten.clamp.Tensor": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": _clamp,
    "aten.clamp_min.Tensor": _clamp,
    "aten.clamp_max.Tensor": _clamp,
    "aten.hardtanh.default": _hardtanh,
    "aten.relu6.default": _relu6,
    "aten.gelu.default": _gelu,
    "aten.hardswish.default": _same_dtype("hard_swish"),
    "aten.hardsigmoid.default": _hard_sigmoid,
    "aten.leaky_relu.default": _leaky_relu,
    "aten.elu.default": _elu,
    "aten.selu.default": _selu,
    "aten.celu.default": _celu,
    "aten.softplus.default": _softplus,
    "aten.log_sigmoid.default": _log_sigmoid,
    "aten.log_sigmoid_forward.default": _log_sigmoid_forward,
    "aten.threshold.default": _threshold,
    "aten.prelu.default": _prelu,
    "aten._prelu_kernel.default": _prelu,
    "aten.addcmul.default": _addcmul,
    "aten.addcdiv.default": _addcmul,
    "aten.lerp.Scalar": _lerp,
    "aten.lerp.Tensor": _lerp,
    "aten.to.dtype": _cast,
    "aten.to.dtype_layout": _cast,
    "aten.to.device": _cast,
    "aten._to_copy.default": _cast,
    "aten.type_as.default": _cast,
    "aten.clone.default": _same,
    "aten.contiguous.default": _same,
    "aten.detach.default": _same,
    "aten.detach_.default": _same,
    "aten.alias.default": _same,
    "aten.lift_fresh_copy.default": _same,
    "aten.positive.default": _same,
    "aten.dropout.default": _dropout,
    "aten.feature_dropout.default": _dropout,
    "aten.alpha_dropout.default": _dropout,
    "aten.native_dropout.default": _native_dropout,
}
"""The function that translates each operator."""

"""Operators that compute each element from one element: functions, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable

from loopwright.errors import ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir.bounds import dtype_range
from loopwright.ir.expr import Binary, Call, Expr, Fn, Op, cast, const
from loopwright.ops.nodes.attributes import NodeAttrs, number, text
from loopwright.ops.nodes.node import Inputs, Kind, NodeDef, Outputs, given, read
from loopwright.te import functions as te
from loopwright.te.tensor import compute

Function = Callable[[Expr, NodeAttrs], Expr]


def trunc(x: Expr) -> Expr:
    """A float rounded to zero."""
    return te.if_then_else(x < 0, te.ceil(x), te.floor(x))


def softplus(x: Expr) -> Expr:
    """`log(1 + exp(x))`, which does not overflow."""
    return te.maximum(x, 0.0) + te.log(1.0 + te.exp(-te.abs(x)))


def _sign(x: Expr, _: NodeAttrs) -> Expr:
    return te.if_then_else(x > 0, const(1, x.dtype), te.if_then_else(x < 0, _minus_one(x), x))


def _minus_one(x: Expr) -> Expr:
    unsigned = x.dtype.kind is dt.DTypeKind.UINT
    return const(0 if unsigned else -1, x.dtype)


def _leaky_relu(x: Expr, attrs: NodeAttrs) -> Expr:
    return te.if_then_else(x < 0, x * number(attrs, "alpha"), x)


def _elu(x: Expr, attrs: NodeAttrs) -> Expr:
    return te.if_then_else(x > 0, x, number(attrs, "alpha") * (te.exp(x) - 1.0))


def _selu(x: Expr, attrs: NodeAttrs) -> Expr:
    return number(attrs, "gamma") * _elu(x, attrs)


def _celu(x: Expr, attrs: NodeAttrs) -> Expr:
    alpha = number(attrs, "alpha")
    return te.if_then_else(x > 0, x, alpha * (te.exp(x * (1.0 / alpha)) - 1.0))


def _hard_sigmoid(x: Expr, attrs: NodeAttrs) -> Expr:
    line = x * number(attrs, "alpha") + number(attrs, "beta")
    return te.maximum(te.minimum(line, 1.0), 0.0)


def _thresholded_relu(x: Expr, attrs: NodeAttrs) -> Expr:
    return te.if_then_else(x > number(attrs, "alpha"), x, 0.0)


def _hard_swish(x: Expr, _: NodeAttrs) -> Expr:
    return x * te.maximum(te.minimum(x * (1.0 / 6.0) + 0.5, 1.0), 0.0)


def _gelu(x: Expr, attrs: NodeAttrs) -> Expr:
    kind = text(attrs, "approximate", "none")
    if kind == "tanh":
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))
        return 0.5 * x * (1.0 + te.tanh(inner))
    if kind != "none":
        raise ShapeError(f"attribute approximate is {kind!r}; it is none or tanh")
    return 0.5 * x * (1.0 + te.erf(x * math.sqrt(0.5)))


def _clip(x: Expr, attrs: NodeAttrs) -> Expr:
    for name, bound in (("min", te.maximum), ("max", te.minimum)):
        if name in attrs:
            x = bound(x, _within(number(attrs, name), x.dtype))
    return x


def _within(value: float, dtype: dt.DType) -> Expr:
    """`value` as a constant; for an integer dtype, the nearest one that it has."""
    limits = dtype_range(dtype)
    if limits is None:
        return const(value, dtype)
    low, high = limits
    return const(low if value <= low else high if value >= high else int(value), dtype)


def _cast(x: Expr, attrs: NodeAttrs) -> Expr:
    wanted = dt.parse(text(attrs, "to"))
    if wanted.is_bool and not x.dtype.is_bool:
        return Binary(Op.NE, x, const(0, x.dtype))
    if wanted.is_int and wanted.bits < 32 and x.dtype.is_float:
        return cast(wanted, cast(dt.I32, x))  # what does not fit wraps, instead of anything
    return cast(wanted, x)


def _not(x: Expr, _: NodeAttrs) -> Expr:
    return Call(Fn.NOT, (x,))


def _is_nan(x: Expr, _: NodeAttrs) -> Expr:
    return Binary(Op.NE, x, x)


def _is_inf(x: Expr, _: NodeAttrs) -> Expr:
    return te.abs(x).equal(const(math.inf, x.dtype))


def _plain(function: Callable[[Expr], Expr]) -> Function:
    return lambda x, _: function(x)


def _any(name: str, function: Function, *attrs: str) -> NodeDef:
    """An operator on the dtypes that `function` takes."""

    def define(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
        x = given(inputs)
        return (compute(x.shape, lambda *i: function(read(x, i), attrs), prefix),)

    return NodeDef(name, Kind.ELEMENTWISE, define, attrs=frozenset(attrs))


def _float(name: str, function: Function, *attrs: str) -> NodeDef:
    """An operator on floats; those of 16 bits are rounded once, at the end."""

    def wide(x: Expr, attrs: NodeAttrs) -> Expr:
        if not x.dtype.is_float:
            raise ShapeError(f"the input is {x.dtype}, not a float; cast it first")
        return function(x.astype(dt.accumulator(x.dtype)), attrs).astype(x.dtype)

    return _any(name, wide, *attrs)


_FLOATS: dict[str, Callable[[Expr], Expr]] = {
    "exp": te.exp,
    "log": te.log,
    "sqrt": te.sqrt,
    "reciprocal": lambda x: 1.0 / x,
    "floor": te.floor,
    "ceil": te.ceil,
    "round": te.round,
    "sin": te.sin,
    "cos": te.cos,
    "tan": lambda x: te.sin(x) / te.cos(x),
    "tanh": te.tanh,
    "erf": te.erf,
    "sigmoid": te.sigmoid,
    "softplus": softplus,
    "softsign": lambda x: x / (1.0 + te.abs(x)),
    "mish": lambda x: x * te.tanh(softplus(x)),
    "silu": lambda x: x * te.sigmoid(x),
}

NODES: tuple[NodeDef, ...] = (
    *(_float(name, _plain(function)) for name, function in _FLOATS.items()),
    _float("hard_swish", _hard_swish),
    _float("leaky_relu", _leaky_relu, "alpha"),
    _float("elu", _elu, "alpha"),
    _float("selu", _selu, "alpha", "gamma"),
    _float("celu", _celu, "alpha"),
    _float("hard_sigmoid", _hard_sigmoid, "alpha", "beta"),
    _float("thresholded_relu", _thresholded_relu, "alpha"),
    _float("gelu", _gelu, "approximate"),
    _any("identity", _plain(lambda x: x)),
    _any("neg", _plain(lambda x: -x)),
    _any("abs", _plain(lambda x: x if x.dtype.kind is dt.DTypeKind.UINT else te.abs(x))),
    _any("relu", _plain(lambda x: te.maximum(x, const(0, x.dtype)))),
    _any("sign", _sign),
    _any("not", _not),
    _any("is_nan", _is_nan),
    _any("is_inf", _is_inf),
    _any("clip", _clip, "min", "max"),
    _any("cast", _cast, "to"),
)

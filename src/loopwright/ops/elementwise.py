"""Operators on single elements of tensors, which are broadcast as in NumPy.

Each has one meaning, `element`, for a node of a graph and for a step of an epilogue alike: ONNX's,
in which nothing but a comparison loses a NaN. A value used twice is one node, which code generation
computes once. What stands in an epilogue selects constants where it can: a load then never depends
on a condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from loopwright.errors import ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir.bounds import dtype_range
from loopwright.ir.expr import Binary, Call, Expr, Fn, Op, binary, cast, const
from loopwright.ops import inverse
from loopwright.ops.attributes import NodeAttrs, integer, number, text
from loopwright.ops.exponential import cosh, expm1, log1p, sinh, softplus
from loopwright.ops.opdef import (
    Channels,
    Element,
    EpilogueForm,
    Inputs,
    OpDef,
    OpKind,
    Outputs,
    StepOperand,
    broadcast,
    element,
    given,
)
from loopwright.te import functions as te
from loopwright.te.tensor import compute

Function = Callable[[Expr, NodeAttrs], Expr]
Pair = Callable[[Expr, Expr, NodeAttrs], Expr]


def trunc(x: Expr) -> Expr:
    """A float rounded to zero."""
    return te.if_then_else(x < 0, te.ceil(x), te.floor(x))


def _abs(x: Expr) -> Expr:
    return x if x.dtype.kind is dt.DTypeKind.UINT else te.abs(x)


def _sign(x: Expr) -> Expr:
    minus = const(0 if x.dtype.kind is dt.DTypeKind.UINT else -1, x.dtype)
    return te.if_then_else(x > 0, const(1, x.dtype), te.if_then_else(x < 0, minus, x))


def _leaky_relu(x: Expr, attrs: NodeAttrs) -> Expr:
    slope = number(attrs, "alpha")
    if 0 < slope <= 1:
        return te.maximum(x, x * slope)
    return x * te.if_then_else(x < 0, const(slope, x.dtype), const(1.0, x.dtype))


def _prelu(x: Expr, slope: Expr, _: NodeAttrs) -> Expr:
    return x * te.if_then_else(x < const(0, x.dtype), slope, const(1, x.dtype))


def _elu(x: Expr, attrs: NodeAttrs) -> Expr:
    below = expm1(te.minimum(x, 0.0))
    return te.maximum(x, 0.0) + below * number(attrs, "alpha")


def _selu(x: Expr, attrs: NodeAttrs) -> Expr:
    return number(attrs, "gamma") * _elu(x, attrs)


def _celu(x: Expr, attrs: NodeAttrs) -> Expr:
    alpha = number(attrs, "alpha")
    return te.if_then_else(x > 0, x, alpha * expm1(x / alpha))


def _bounded(x: Expr) -> Expr:
    return te.minimum(te.maximum(x, 0.0), 1.0)


def _hard_sigmoid(x: Expr, attrs: NodeAttrs) -> Expr:
    return _bounded(x * number(attrs, "alpha") + number(attrs, "beta"))


def _hard_swish(x: Expr) -> Expr:
    return x * _bounded(x * (1 / 6) + 0.5)


def _thresholded_relu(x: Expr, attrs: NodeAttrs) -> Expr:
    return te.if_then_else(x > number(attrs, "alpha"), x, 0.0)


def _gelu(x: Expr, attrs: NodeAttrs) -> Expr:
    kind = text(attrs, "approximate", "none")
    if kind == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return x * 0.5 * (te.tanh(inner) + 1.0)
    if kind != "none":
        raise ShapeError(f"attribute approximate is {kind!r}; it is none or tanh")
    return x * 0.5 * (te.erf(x * math.sqrt(0.5)) + 1.0)


def _clip(x: Expr, attrs: NodeAttrs) -> Expr:
    for name, bound in (("min", te.maximum), ("max", te.minimum)):
        if name in attrs and math.isfinite(number(attrs, name)):
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
        return cast(wanted, cast(dt.I32, x))  # what does not fit wraps; it is not undefined
    return cast(wanted, x)


def _operator(op: Op) -> Pair:
    return lambda a, b, _: binary(op, a, b)


def _pow(a: Expr, b: Expr, _: NodeAttrs) -> Expr:
    """The base's dtype; integers are raised as float64."""
    if a.dtype.is_float:
        kept = dt.accumulator(a.dtype)
        return te.power(a.astype(kept), b.astype(kept)).astype(a.dtype)
    raised = te.power(a.astype(dt.F64), b.astype(dt.F64))
    return (te.round(raised) if b.dtype.is_int else raised).astype(a.dtype)


def _mod(a: Expr, b: Expr, attrs: NodeAttrs) -> Expr:
    """The remainder: with `fmod` that of a quotient rounded to zero, without, to minus infinity."""
    if a.dtype != b.dtype:
        raise ShapeError(f"the dtypes {a.dtype} and {b.dtype} differ")
    truncated = integer(attrs, "fmod", 0)
    if a.dtype.is_int:
        return a - (a / b) * b if truncated and a.dtype.kind is dt.DTypeKind.INT else a % b
    wide, by = a.astype(dt.F64), b.astype(dt.F64)
    quotient = trunc(wide / by)
    # 0 * inf is not a number: what has no whole quotient is its own remainder.
    rest = te.if_then_else(quotient.equal(0.0), wide, wide - quotient * by)
    if not truncated:
        rest = te.if_then_else(rest * by < 0.0, rest + by, rest)
    return rest.astype(a.dtype)


def _logical(op: Op) -> Pair:
    def function(a: Expr, b: Expr, _: NodeAttrs) -> Expr:
        if not (a.dtype.is_bool and b.dtype.is_bool):
            raise ShapeError(f"the inputs are {a.dtype} and {b.dtype}, not bool")
        return Binary(op, a, b)

    return function


def _bitwise_and(a: Expr, b: Expr, _: NodeAttrs) -> Expr:
    """Of each bit the product; the one of the sign is on in what is less than 0."""
    if a.dtype != b.dtype or not a.dtype.is_int:
        raise ShapeError(f"the inputs are {a.dtype} and {b.dtype}, not integers of one dtype")
    signed = a.dtype.kind is dt.DTypeKind.INT
    total: Expr = const(0, a.dtype)
    for n in range(a.dtype.bits - signed):
        both = te.all(*(_bit(v, n).equal(1) for v in (a, b)))
        total = total + te.if_then_else(both, const(1 << n, a.dtype), const(0, a.dtype))
    if not signed:
        return total
    lowest = const(-(1 << (a.dtype.bits - 1)), a.dtype)
    both = te.all(a < 0, b < 0)
    return total + te.if_then_else(both, lowest, const(0, a.dtype))


def _bit(value: Expr, n: int) -> Expr:
    return (value // (1 << n) if n else value) % 2


def _row(
    name: str,
    function: Element,
    onnx: str,
    torch: str,
    *,
    inputs: int = 1,
    fuses: bool = False,
    epilogues: tuple[EpilogueForm, ...] = (),
    **attrs: float | str,
) -> OpDef:
    """A row of the table; `attrs` have the defaults of steps, which it has if it `fuses`."""
    if fuses:
        numbers = tuple((n, value) for n, value in attrs.items() if not isinstance(value, str))
        epilogues = (EpilogueForm(name, numbers=numbers),)

    def define(operands: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
        tensors = [given(operands, place) for place in range(inputs)]
        shape = broadcast([tensor.shape for tensor in tensors])
        if name == "prelu" and shape != tensors[0].shape:
            slope, x = (list(tensor.shape) for tensor in reversed(tensors))
            raise ShapeError(f"the slope {slope} does not broadcast to {x}")

        def body(*i: Expr) -> Expr:
            return function([element(tensor, i, shape) for tensor in tensors], attrs)

        return (compute(shape, body, prefix),)

    return OpDef(
        name=name,
        kind=OpKind.ELEMENTWISE,
        define=define,
        onnx=onnx,
        torch=torch,
        channels=Channels.KEPT,
        least=inputs,
        most=inputs,
        attrs=frozenset(attrs),
        element=function,
        epilogues=epilogues,
    )


def _any(function: Function) -> Element:
    """A function of one element of any dtype."""
    return lambda values, attrs: function(values[0], attrs)


def _plain(function: Callable[[Expr], Expr]) -> Element:
    return lambda values, _: function(values[0])


def _pair(function: Pair) -> Element:
    """A function of two elements."""
    return lambda values, attrs: function(values[0], values[1], attrs)


def _float(function: Function) -> Element:
    """A function of a float; one of 16 bits is rounded once, at the end."""

    def wide(values: Sequence[Expr], attrs: NodeAttrs) -> Expr:
        (x,) = values
        if not x.dtype.is_float:
            raise ShapeError(f"the input is {x.dtype}, not a float; cast it first")
        return function(x.astype(dt.accumulator(x.dtype)), attrs).astype(x.dtype)

    return wide


def _function(function: Callable[[Expr], Expr]) -> Element:
    """A function of a float that has no attributes."""
    return _float(lambda x, _: function(x))


def _with_input(kind: str, number: str, channels: str) -> tuple[EpilogueForm, ...]:
    """The forms of an operator of two operands: a residual, a number, and one for each channel."""
    return (
        EpilogueForm(kind, StepOperand.TENSOR, input="residual"),
        EpilogueForm(number, StepOperand.NUMBER, numbers=(("value", 0.0),)),
        EpilogueForm(channels, StepOperand.CHANNELS, input=channels),
    )


_GELU = (
    EpilogueForm("gelu", fixed=(("approximate", "none"),)),
    EpilogueForm("gelu_tanh", fixed=(("approximate", "tanh"),)),
)

_ADD, _MUL = _with_input("add", "addc", "shift"), _with_input("mul", "mulc", "scale")
_PRELU = (EpilogueForm("prelu", StepOperand.CHANNELS, input="slope"),)

OPS: tuple[OpDef, ...] = (
    _row("exp", _function(te.exp), "Exp", "exp"),
    _row("log", _function(te.log), "Log", "log"),
    _row("sqrt", _function(te.sqrt), "Sqrt", "sqrt"),
    _row("reciprocal", _function(lambda x: 1.0 / x), "Reciprocal", "reciprocal"),
    _row("floor", _function(te.floor), "Floor", "floor"),
    _row("ceil", _function(te.ceil), "Ceil", "ceil"),
    _row("round", _function(te.round), "Round", "round"),
    _row("sin", _function(te.sin), "Sin", "sin"),
    _row("cos", _function(te.cos), "Cos", "cos"),
    _row("asin", _function(inverse.asin), "Asin", "asin"),
    _row("acos", _function(inverse.acos), "Acos", "acos"),
    _row("atan", _function(inverse.atan), "Atan", "atan"),
    _row("asinh", _function(inverse.asinh), "Asinh", "asinh"),
    _row("acosh", _function(inverse.acosh), "Acosh", "acosh"),
    _row("atanh", _function(inverse.atanh), "Atanh", "atanh"),
    _row("sinh", _function(sinh), "Sinh", "sinh"),
    _row("cosh", _function(cosh), "Cosh", "cosh"),
    _row("expm1", _function(expm1), "", "expm1"),
    _row("log1p", _function(log1p), "", "log1p"),
    _row("tan", _function(lambda x: te.sin(x) / te.cos(x)), "Tan", "tan"),
    _row("tanh", _function(te.tanh), "Tanh", "tanh", fuses=True),
    _row("erf", _function(te.erf), "Erf", "erf", fuses=True),
    _row("sigmoid", _function(te.sigmoid), "Sigmoid", "sigmoid", fuses=True),
    _row("softplus", _function(softplus), "Softplus", "softplus", fuses=True),
    _row("softsign", _function(lambda x: x / (1.0 + te.abs(x))), "Softsign", ""),
    _row("mish", _function(lambda x: x * te.tanh(softplus(x))), "Mish", "mish", fuses=True),
    _row("silu", _function(lambda x: x / (te.exp(-x) + 1.0)), "Swish", "silu", fuses=True),
    _row("hard_swish", _function(_hard_swish), "HardSwish", "hardswish", fuses=True),
    _row("leaky_relu", _float(_leaky_relu), "LeakyRelu", "leaky_relu", fuses=True, alpha=0.01),
    _row("elu", _float(_elu), "Elu", "elu", fuses=True, alpha=1.0),
    _row("selu", _float(_selu), "Selu", "selu", alpha=1.6732632, gamma=1.0507010),
    _row("celu", _float(_celu), "Celu", "celu", alpha=1.0),
    _row(
        *("hard_sigmoid", _float(_hard_sigmoid), "HardSigmoid", "hardsigmoid"),
        fuses=True,
        alpha=0.2,
        beta=0.5,
    ),
    _row("thresholded_relu", _float(_thresholded_relu), "ThresholdedRelu", "threshold", alpha=1.0),
    _row("gelu", _float(_gelu), "Gelu", "gelu", epilogues=_GELU, approximate="none"),
    _row("identity", _plain(lambda x: x), "Identity", "alias"),
    _row("neg", _plain(lambda x: -x), "Neg", "neg"),
    _row("abs", _plain(_abs), "Abs", "abs"),
    _row("relu", _plain(lambda x: te.maximum(x, const(0, x.dtype))), "Relu", "relu", fuses=True),
    _row("sign", _plain(_sign), "Sign", "sign"),
    _row("not", _plain(lambda x: Call(Fn.NOT, (x,))), "Not", "logical_not"),
    _row("is_nan", _plain(lambda x: Binary(Op.NE, x, x)), "IsNaN", "isnan"),
    _row("is_inf", _plain(lambda x: te.abs(x).equal(const(math.inf, x.dtype))), "IsInf", "isinf"),
    _row("clip", _any(_clip), "Clip", "clamp", fuses=True, min=-math.inf, max=math.inf),
    _row("cast", _any(_cast), "Cast", "_to_copy", to="float32"),
    _row("add", _pair(_operator(Op.ADD)), "Add", "add", inputs=2, epilogues=_ADD),
    _row("sub", _pair(_operator(Op.SUB)), "Sub", "sub", inputs=2),
    _row("mul", _pair(_operator(Op.MUL)), "Mul", "mul", inputs=2, epilogues=_MUL),
    _row("div", _pair(_operator(Op.DIV)), "Div", "div", inputs=2),
    _row("min", _pair(_operator(Op.MIN)), "Min", "minimum", inputs=2),
    _row("max", _pair(_operator(Op.MAX)), "Max", "maximum", inputs=2),
    _row("equal", _pair(_operator(Op.EQ)), "Equal", "eq", inputs=2),
    _row("less", _pair(_operator(Op.LT)), "Less", "lt", inputs=2),
    _row("less_equal", _pair(_operator(Op.LE)), "LessOrEqual", "le", inputs=2),
    _row("greater", _pair(_operator(Op.GT)), "Greater", "gt", inputs=2),
    _row("greater_equal", _pair(_operator(Op.GE)), "GreaterOrEqual", "ge", inputs=2),
    _row("and", _pair(_logical(Op.AND)), "And", "logical_and", inputs=2),
    _row("or", _pair(_logical(Op.OR)), "Or", "logical_or", inputs=2),
    _row("xor", _pair(_logical(Op.NE)), "Xor", "logical_xor", inputs=2),
    _row("bitwise_and", _pair(_bitwise_and), "BitwiseAnd", "bitwise_and", inputs=2),
    _row("pow", _pair(_pow), "Pow", "pow", inputs=2),
    _row("mod", _pair(_mod), "Mod", "remainder", inputs=2, fmod=0),
    _row("prelu", _pair(_prelu), "PRelu", "prelu", inputs=2, epilogues=_PRELU),
    _row("where", lambda values, _: te.if_then_else(*values), "Where", "where", inputs=3),
)

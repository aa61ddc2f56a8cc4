"""Operators on elements of several tensors, broadcast as in NumPy.

Minimum and maximum are those of `ir.expr`: of a NaN and a number, the number.
"""

from __future__ import annotations

from collections.abc import Callable

from loopwright.errors import ShapeError
from loopwright.ir.dtype import F64, DTypeKind, accumulator
from loopwright.ir.expr import Binary, Expr, Op, binary, const
from loopwright.ops.nodes.attributes import NodeAttrs, integer
from loopwright.ops.nodes.node import (
    Inputs,
    Kind,
    NodeDef,
    Outputs,
    broadcast,
    element,
    given,
)
from loopwright.ops.nodes.unary import trunc
from loopwright.te import functions as te
from loopwright.te.tensor import compute

Function = Callable[[Expr, Expr, NodeAttrs], Expr]


def _operator(op: Op) -> Function:
    return lambda a, b, _: binary(op, a, b)


def _pow(a: Expr, b: Expr, _: NodeAttrs) -> Expr:
    """The base's dtype; integers are raised as float64."""
    if a.dtype.is_float:
        kept = accumulator(a.dtype)
        return te.power(a.astype(kept), b.astype(kept)).astype(a.dtype)
    raised = te.power(a.astype(F64), b.astype(F64))
    return (te.round(raised) if b.dtype.is_int else raised).astype(a.dtype)


def _mod(a: Expr, b: Expr, attrs: NodeAttrs) -> Expr:
    """The remainder: with `fmod` that of a quotient rounded to zero, without, to minus infinity."""
    if a.dtype != b.dtype:
        raise ShapeError(f"the dtypes {a.dtype} and {b.dtype} differ")
    truncated = integer(attrs, "fmod", 0)
    if a.dtype.is_int:
        return a - (a / b) * b if truncated and a.dtype.kind is DTypeKind.INT else a % b
    wide, by = a.astype(F64), b.astype(F64)
    quotient = trunc(wide / by)
    # 0 * inf is no number: what has no whole quotient is its own remainder.
    rest = te.if_then_else(quotient.equal(0.0), wide, wide - quotient * by)
    if not truncated:
        rest = te.if_then_else(rest * by < 0.0, rest + by, rest)
    return rest.astype(a.dtype)


def _logical(op: Op) -> Function:
    def function(a: Expr, b: Expr, _: NodeAttrs) -> Expr:
        if not (a.dtype.is_bool and b.dtype.is_bool):
            raise ShapeError(f"the inputs are {a.dtype} and {b.dtype}, not bool")
        return Binary(op, a, b)

    return function


def _pairwise(name: str, function: Function, *attrs: str) -> NodeDef:
    def define(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
        a, b = given(inputs, 0), given(inputs, 1)
        shape = broadcast((a.shape, b.shape))

        def body(*i: Expr) -> Expr:
            return function(element(a, i, shape), element(b, i, shape), attrs)

        return (compute(shape, body, prefix),)

    return NodeDef(name, Kind.ELEMENTWISE, define, least=2, most=2, attrs=frozenset(attrs))


def _prelu(inputs: Inputs, _: NodeAttrs, prefix: str) -> Outputs:
    x, slope = given(inputs, 0), given(inputs, 1)
    if broadcast((x.shape, slope.shape)) != x.shape:
        raise ShapeError(f"the slope {list(slope.shape)} does not broadcast to {list(x.shape)}")

    def body(*i: Expr) -> Expr:
        value = element(x, i, x.shape)
        below = value < const(0, value.dtype)
        return te.if_then_else(below, value * element(slope, i, x.shape), value)

    return (compute(x.shape, body, prefix),)


def _where(inputs: Inputs, _: NodeAttrs, prefix: str) -> Outputs:
    cond, yes, no = given(inputs, 0), given(inputs, 1), given(inputs, 2)
    shape = broadcast((cond.shape, yes.shape, no.shape))

    def body(*i: Expr) -> Expr:
        chosen, other = element(yes, i, shape), element(no, i, shape)
        return te.if_then_else(element(cond, i, shape), chosen, other)

    return (compute(shape, body, prefix),)


NODES: tuple[NodeDef, ...] = (
    _pairwise("add", _operator(Op.ADD)),
    _pairwise("sub", _operator(Op.SUB)),
    _pairwise("mul", _operator(Op.MUL)),
    _pairwise("div", _operator(Op.DIV)),
    _pairwise("min", _operator(Op.MIN)),
    _pairwise("max", _operator(Op.MAX)),
    _pairwise("equal", _operator(Op.EQ)),
    _pairwise("less", _operator(Op.LT)),
    _pairwise("less_equal", _operator(Op.LE)),
    _pairwise("greater", _operator(Op.GT)),
    _pairwise("greater_equal", _operator(Op.GE)),
    _pairwise("and", _logical(Op.AND)),
    _pairwise("or", _logical(Op.OR)),
    _pairwise("xor", _logical(Op.NE)),
    _pairwise("pow", _pow),
    _pairwise("mod", _mod, "fmod"),
    NodeDef("prelu", Kind.ELEMENTWISE, _prelu, least=2, most=2),
    NodeDef("where", Kind.ELEMENTWISE, _where, least=3, most=3),
)

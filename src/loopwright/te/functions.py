"""The functions that bodies of tensor expressions use: reductions, intrinsics, conditions.

Some names (`sum`, `max`, `abs`, ...) shadow Python's builtins on purpose: this module is used
as `te.sum(...)`, and calls none of those builtins itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from loopwright.errors import ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir.dtype import DType
from loopwright.ir.expr import (
    Arithmetic,
    Call,
    Combiner,
    Expr,
    ExprLike,
    Fn,
    Op,
    Reduce,
    ReduceAxis,
    Select,
    Var,
    binary,
    const,
    wrap,
)

Axis: TypeAlias = Var | ReduceAxis


class Reduction(Protocol):
    """A reduction: `te.sum(expr, axis=k)`."""

    def __call__(self, expr: ExprLike, axis: Axis | Sequence[Axis]) -> Expr:
        """Fold `expr` over `axis`, one reduce_axis or several."""


def _reduction(combiner: Combiner) -> Reduction:
    def reduce(expr: ExprLike, axis: Axis | Sequence[Axis]) -> Expr:
        body = wrap(expr)
        axes = (axis,) if isinstance(axis, Arithmetic) else tuple(axis)
        kept = tuple(a for a in axes if isinstance(a, ReduceAxis))
        if not axes or len(kept) != len(axes):
            raise ShapeError(f"te.{combiner.value}: axis must be one or more te.reduce_axis")
        return Reduce(combiner, body, kept)

    reduce.__doc__ = f"Fold `expr` over `axis` (one reduce_axis or several) with {combiner.value}."
    reduce.__name__ = combiner.value
    return reduce


sum = _reduction(Combiner.SUM)  # noqa: A001  # the field's name for it
prod = _reduction(Combiner.PROD)
min = _reduction(Combiner.MIN)  # noqa: A001
max = _reduction(Combiner.MAX)  # noqa: A001


def _intrinsic(fn: Fn) -> Callable[[ExprLike], Expr]:
    def call(x: ExprLike) -> Expr:
        expr = wrap(x)
        if not expr.dtype.is_float and not (fn is Fn.ABS and expr.dtype.is_int):
            raise ShapeError(f"te.{fn.value} takes a float, got {expr.dtype}; cast it first")
        return Call(fn, (expr,))

    call.__doc__ = f"`{fn.value}(x)`, elementwise."
    call.__name__ = fn.value
    return call


abs = _intrinsic(Fn.ABS)  # noqa: A001
exp = _intrinsic(Fn.EXP)
log = _intrinsic(Fn.LOG)
sqrt = _intrinsic(Fn.SQRT)
rsqrt = _intrinsic(Fn.RSQRT)
sin = _intrinsic(Fn.SIN)
cos = _intrinsic(Fn.COS)
tanh = _intrinsic(Fn.TANH)
erf = _intrinsic(Fn.ERF)
floor = _intrinsic(Fn.FLOOR)
ceil = _intrinsic(Fn.CEIL)
round = _intrinsic(Fn.ROUND)  # noqa: A001


def sigmoid(x: ExprLike) -> Expr:
    """`1 / (1 + exp(-x))`, elementwise."""
    return 1.0 / (1.0 + exp(-wrap(x)))


def power(x: ExprLike, y: ExprLike) -> Expr:
    """`x ** y` of floats, elementwise."""
    base = wrap(x) if isinstance(x, Arithmetic) else wrap(x, wrap(y).dtype)
    exponent = wrap(y, base.dtype)
    if not base.dtype.is_float or exponent.dtype != base.dtype:
        raise ShapeError(
            f"te.power takes floats of one dtype, got {base.dtype} and {exponent.dtype}; cast first"
        )
    return Call(Fn.POW, (base, exponent))


def minimum(a: ExprLike, b: ExprLike) -> Expr:
    """The smaller of two values, elementwise."""
    return binary(Op.MIN, a, b)


def maximum(a: ExprLike, b: ExprLike) -> Expr:
    """The larger of two values, elementwise."""
    return binary(Op.MAX, a, b)


def all(*conditions: ExprLike) -> Expr:  # noqa: A001
    """True where every condition holds."""
    return _chain(Op.AND, conditions, empty=True)


def any(*conditions: ExprLike) -> Expr:  # noqa: A001
    """True where at least one condition holds."""
    return _chain(Op.OR, conditions, empty=False)


def _chain(op: Op, conditions: Sequence[ExprLike], *, empty: bool) -> Expr:
    result: Expr | None = None
    for condition in conditions:
        expr = wrap(condition)
        if not expr.dtype.is_bool:
            raise ShapeError(f"te.{op.value}: a condition is {expr.dtype}, not bool")
        result = expr if result is None else binary(op, result, expr)
    return const(empty, dt.BOOL) if result is None else result


def if_then_else(cond: ExprLike, yes: ExprLike, no: ExprLike) -> Expr:
    """`yes` where `cond` holds, else `no`; reads on the other side are not performed."""
    chosen = wrap(yes) if isinstance(yes, Arithmetic) else wrap(yes, wrap(no).dtype)
    other = wrap(no, chosen.dtype)
    if chosen.dtype != other.dtype:
        raise ShapeError(f"te.if_then_else: the sides are {chosen.dtype} and {other.dtype}")
    condition = wrap(cond)
    if not condition.dtype.is_bool:
        raise ShapeError(f"te.if_then_else: the condition is {condition.dtype}, not bool")
    return Select(condition, chosen, other)


def float_min(dtype: str | DType = "float32") -> Expr:
    """Minus infinity of `dtype`, a float."""
    kept = dt.parse(dtype)
    if not kept.is_float:
        raise ShapeError(f"te.float_min: {kept} is not a float")
    return const(-math.inf, kept)

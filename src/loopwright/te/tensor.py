"""Tensor expressions: say what each element of a tensor is, and nothing of how it is computed.

    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda y, x: te.sum(A[k, y] * B[k, x], axis=k), name="C")

A body may read other tensors at any index expression; `if_then_else` guards reads that would be out of
bounds. Shapes are fixed. Axis variables are unique by tensor: axis `y` of `C` is the variable `C.y`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from loopwright.errors import ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir import walk
from loopwright.ir.dtype import DType
from loopwright.ir.expr import (
    Arithmetic,
    Buffer,
    Call,
    Combiner,
    Expr,
    ExprLike,
    Fn,
    Load,
    Op,
    Reduce,
    ReduceAxis,
    Select,
    Var,
    binary,
    cast,
    const,
    wrap,
)

Axis: TypeAlias = Var | ReduceAxis


@dataclass(frozen=True, slots=True, eq=False)
class Placeholder:
    """An input."""


@dataclass(frozen=True, slots=True, eq=False)
class Compute:
    """One element for every point of `axes`. `body` holds a Reduce at the top, or none at all."""

    axes: tuple[Var, ...]
    body: Expr

    @property
    def reduce_axes(self) -> tuple[ReduceAxis, ...]:
        """The axes reduced over, in the order they were given."""
        return self.body.axes if isinstance(self.body, Reduce) else ()


@dataclass(frozen=True, slots=True, eq=False)
class Tensor(Buffer):
    """A buffer that knows how it comes about. `T[i, j]` reads an element."""

    op: Placeholder | Compute = field(default_factory=Placeholder)

    @property
    def buffer(self) -> Buffer:
        """What a `Load` of this tensor refers to: the tensor itself."""
        return self

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the body reads, in the order they are met."""
        if not isinstance(self.op, Compute):
            return ()
        found = {load.buffer.name: load.buffer for load in walk.loads(self.op.body)}
        return tuple(t for t in found.values() if isinstance(t, Tensor))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def axis(self) -> tuple[Var, ...]:
        """The axes, to name them in a schedule."""
        return self.op.axes if isinstance(self.op, Compute) else ()

    @property
    def reduce_axis(self) -> tuple[ReduceAxis, ...]:
        """The axes reduced over."""
        return self.op.reduce_axes if isinstance(self.op, Compute) else ()

    def __getitem__(self, index: ExprLike | tuple[ExprLike, ...]) -> Expr:
        indices = index if isinstance(index, tuple) else (index,)
        if len(indices) != self.ndim:
            raise ShapeError(
                f"{self.name} has {self.ndim} dimensions {self.shape}, read with {len(indices)} indices"
            )
        exprs = tuple(wrap(i) for i in indices)
        for position, expr in enumerate(exprs):
            if not expr.dtype.is_int:
                raise ShapeError(f"{self.name}: index {position} is {expr.dtype}, not an integer")
        return Load(self, tuple(cast(dt.I64, e) for e in exprs))


def placeholder(shape: Sequence[int], dtype: str | DType = "float32", name: str = "input") -> Tensor:
    """An input tensor of `shape`.

    Raises: ShapeError for an extent that is not a positive integer; UnsupportedError for the dtype.
    """
    return Tensor(name, dt.parse(dtype), _shape(name, shape))


def reduce_axis(domain: int | tuple[int, int], name: str = "k") -> ReduceAxis:
    """An axis to reduce over; `domain` is its extent or `(0, extent)`."""
    low, high = (0, domain) if isinstance(domain, int) else domain
    if low != 0 or not isinstance(high, int) or high < 1:
        raise ShapeError(f"reduce_axis {name}: the domain {domain} is not (0, n) with n >= 1")
    return ReduceAxis(Var(name), high)


def compute(shape: Sequence[int], fn: Callable[..., ExprLike], name: str = "compute") -> Tensor:
    """The tensor of `shape` whose element at (i, j, ...) is `fn(i, j, ...)`.

    Raises: ShapeError when `fn` takes another number of indices, or a reduction is not at the top.
    """
    extents = _shape(name, shape)
    parameters = list(inspect.signature(fn).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        names = [f"i{d}" for d in range(len(extents))]
    else:
        names = [p.name for p in parameters]
    if len(names) != len(extents):
        raise ShapeError(f"{name}: the shape {extents} has {len(extents)} dimensions, fn takes {len(names)}")
    axes = tuple(Var(f"{name}.{n}") for n in names)
    body = wrap(fn(*axes))
    if isinstance(body, Reduce):
        _refuse_repeated_axes(name, body)
    _refuse_inner_reduce(name, body)
    result = Tensor(name, body.dtype, extents, op=Compute(axes, body))
    if any(read.name == name for read in result.inputs):
        raise ShapeError(f"{name} reads a tensor of the same name; give them different names")
    return result


def _refuse_repeated_axes(name: str, body: Reduce) -> None:
    names = [a.var.name for a in body.axes]
    if len(set(names)) != len(names):
        raise ShapeError(f"{name}: two reduce axes are called the same: {', '.join(names)}")


def _refuse_inner_reduce(name: str, body: Expr) -> None:
    pending: list[Expr] = [body.body] if isinstance(body, Reduce) else [body]
    while pending:
        match pending.pop():
            case Reduce():
                raise ShapeError(
                    f"{name}: a reduction must be the whole body; give it a te.compute of its own"
                )
            case expr:
                pending.extend(walk.children(expr))


def _shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    for extent in shape:
        if isinstance(extent, bool) or not isinstance(extent, int) or extent < 1:
            raise ShapeError(
                f"{name}: the shape {tuple(shape)} has the extent {extent!r}; "
                "every extent must be a positive integer (dynamic shapes are not supported)"
            )
    return tuple(shape)


def _reduction(combiner: Combiner) -> Callable[[ExprLike, Axis | Sequence[Axis]], Expr]:
    def reduce(expr: ExprLike, axis: Axis | Sequence[Axis]) -> Expr:
        body = wrap(expr)
        axes = (axis,) if isinstance(axis, Arithmetic) else tuple(axis)
        if not axes or not all(isinstance(a, ReduceAxis) for a in axes):
            raise ShapeError(f"te.{combiner.value}: axis must be one or more te.reduce_axis")
        return Reduce(combiner, body, tuple(a for a in axes if isinstance(a, ReduceAxis)))

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
        if not expr.dtype.is_float and fn not in (Fn.ABS, Fn.NEG):
            raise ShapeError(f"te.{fn.value} takes a float, got {expr.dtype}; cast it first")
        return Call(fn, (expr,))

    call.__doc__ = f"`{fn.value}(x)`, by element."
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
    """`1 / (1 + exp(-x))`, by element."""
    return 1.0 / (1.0 + exp(-wrap(x)))


def power(x: ExprLike, y: ExprLike) -> Expr:
    """`x ** y` of floats, by element."""
    base = wrap(x)
    return Call(Fn.POW, (base, wrap(y, base.dtype)))


def minimum(a: ExprLike, b: ExprLike) -> Expr:
    """The smaller of two elements."""
    return binary(Op.MIN, a, b)


def maximum(a: ExprLike, b: ExprLike) -> Expr:
    """The larger of two elements."""
    return binary(Op.MAX, a, b)


def all(*conditions: ExprLike) -> Expr:  # noqa: A001
    """True where every condition holds."""
    return _chain(Op.AND, conditions, empty=True)


def any(*conditions: ExprLike) -> Expr:  # noqa: A001
    """True where a condition holds."""
    return _chain(Op.OR, conditions, empty=False)


def _chain(op: Op, conditions: Sequence[ExprLike], *, empty: bool) -> Expr:
    result: Expr | None = None
    for condition in conditions:
        expr = wrap(condition)
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
    """Minus infinity of `dtype`."""
    return const(-math.inf, dt.parse(dtype))

"""Operators that put elements in other places, or in order, defined by what each result reads.

A result looks through all that could be meant for it: a scatter costs results times indices along
its axis, an order the square of the extent. Both are right for the few that models move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loopwright.errors import ShapeError
from loopwright.ir.bounds import dtype_range
from loopwright.ir.dtype import BOOL, I32, I64, DType, accumulator
from loopwright.ir.expr import Binary, Combiner, Expr, Op, binary, const
from loopwright.ops.attributes import NodeAttrs, integer, text
from loopwright.ops.opdef import Channels, Inputs, OpDef, OpKind, Outputs, given, read
from loopwright.ops.reduction import dimension
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, reduce_axis

_COMBINERS = {
    "add": (Combiner.SUM, te.sum, Op.ADD),
    "mul": (Combiner.PROD, te.prod, Op.MUL),
    "max": (Combiner.MAX, te.max, Op.MAX),
    "min": (Combiner.MIN, te.min, Op.MIN),
}


def _scatter(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    """`data` with each update in the place along `axis` that its index says.

    Indices are counted from the end below 0, and those that are out of bounds write nothing. Of two
    updates for one place the last counts, or with a `reduction` all do. Indices of extent 1 hold
    for all updates of a dimension.
    """
    data, indices, updates = (given(inputs, n) for n in range(3))
    axis = dimension(attrs, "axis", data.ndim, 0)
    _check(data, indices, updates, axis)
    kind = text(attrs, "reduction", "none")
    if kind == "none":
        return (_replaced(data, indices, updates, axis, prefix),)
    if kind not in _COMBINERS:
        raise ShapeError(f"reduction={kind!r}; it is none, {', '.join(_COMBINERS)}")
    return (_combined(data, indices, updates, axis, prefix, kind=kind),)


def _check(data: Tensor, indices: Tensor, updates: Tensor, axis: int) -> None:
    if not indices.dtype.is_int:
        raise ShapeError(f"the indices are {indices.dtype}, not integers")
    if data.dtype != updates.dtype:
        raise ShapeError(f"the updates are {updates.dtype}, the data {data.dtype}")
    if not data.ndim == indices.ndim == updates.ndim:
        raise ShapeError("data, indices and updates differ in their number of dimensions")
    for d, (n, m, k) in enumerate(zip(data.shape, updates.shape, indices.shape, strict=True)):
        if k not in ((m,) if d == axis else (m, 1)) or (d != axis and m > n):
            raise ShapeError(f"dimension {d} of the indices or of the updates does not fit")


def _hit(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, i: Sequence[Expr], k: Expr
) -> Expr:
    """Whether update `k` along the axis is for the element `i`."""
    at = [k if d == axis else const(0) if indices.shape[d] == 1 else i[d] for d in range(data.ndim)]
    found = read(indices, at).astype(I64)
    counted = te.if_then_else(found < 0, found + data.shape[axis], found)
    return te.if_then_else(_inside(data, updates, axis, i), counted.equal(i[axis]), const(0, BOOL))


def _inside(data: Tensor, updates: Tensor, axis: int, i: Sequence[Expr]) -> Expr:
    """Whether there are updates for the element `i` but for the axis."""
    return te.all(
        *(
            i[d] < updates.shape[d]
            for d in range(data.ndim)
            if d != axis and updates.shape[d] < data.shape[d]
        )
    )


def _replaced(data: Tensor, indices: Tensor, updates: Tensor, axis: int, prefix: str) -> Tensor:
    k = reduce_axis(indices.shape[axis], "k")
    shared = [d != axis and indices.shape[d] == 1 for d in range(data.ndim)]
    shared = [s and m == n for s, m, n in zip(shared, updates.shape, data.shape, strict=True)]
    shape = [1 if s else n for s, n in zip(shared, data.shape, strict=True)]

    def place(*i: Expr) -> Expr:
        hit = _hit(data, indices, updates, axis, i, k.var)
        return te.max(te.if_then_else(hit, k.var, const(-1, I64)), axis=k)

    last = compute(shape, place, f"{prefix}.last")

    def body(*i: Expr) -> Expr:
        found = read(last, [const(0) if s else v for s, v in zip(shared, i, strict=True)])
        new = read(updates, (*i[:axis], te.maximum(found, 0), *i[axis + 1 :]))
        return te.if_then_else(found >= 0, new, read(data, i))

    return compute(data.shape, body, prefix)


def _combined(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, prefix: str, *, kind: str
) -> Tensor:
    combiner, fold, op = _COMBINERS[kind]
    kept = data.dtype if kind in ("max", "min") else accumulator(data.dtype)
    k = reduce_axis(indices.shape[axis], "k")
    nothing = _neutral(combiner, kept)

    def folded(*i: Expr) -> Expr:
        hit = _hit(data, indices, updates, axis, i, k.var)
        new = read(updates, (*i[:axis], k.var, *i[axis + 1 :])).astype(kept)
        return fold(te.if_then_else(hit, new, nothing), axis=k)

    total = compute(data.shape, folded, f"{prefix}.fold")

    def body(*i: Expr) -> Expr:
        return binary(op, read(data, i).astype(kept), read(total, i)).astype(data.dtype)

    return compute(data.shape, body, prefix)


def _neutral(combiner: Combiner, dtype: DType) -> Expr:
    if combiner in (Combiner.SUM, Combiner.PROD):
        return const(0 if combiner is Combiner.SUM else 1, dtype)
    limits = dtype_range(dtype) or (-math.inf, math.inf)
    return const(limits[0] if combiner is Combiner.MAX else limits[1], dtype)


def _order(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    """The places of the `count` largest elements along `axis`, or smallest, in order.

    Equal ones stay in the order that they have; NaN is larger than all numbers. Each element counts
    those before it, which is its own place.
    """
    x = given(inputs)
    axis = dimension(attrs, "axis", x.ndim, 0)
    extent, count = x.shape[axis], integer(attrs, "count")
    largest = bool(integer(attrs, "largest", 1))
    if not 1 <= count <= extent:
        raise ShapeError(f"count={count} is not one of 1 to {extent}")
    k = reduce_axis(extent, "k")

    def rank(*i: Expr) -> Expr:
        other = read(x, (*i[:axis], k.var, *i[axis + 1 :]))
        same, before = _compared(other, read(x, i), largest=largest)
        earlier = te.any(before, te.all(same, k.var < i[axis]))
        return te.sum(te.if_then_else(earlier, const(1, I32), const(0, I32)), axis=k)

    ranks = compute(x.shape, rank, f"{prefix}.rank")
    j = reduce_axis(extent, "j")

    def place(*i: Expr) -> Expr:
        own = read(ranks, (*i[:axis], j.var, *i[axis + 1 :])).astype(I64)
        return te.max(te.if_then_else(own.equal(i[axis]), j.var, const(0, I64)), axis=j)

    return (compute((*x.shape[:axis], count, *x.shape[axis + 1 :]), place, prefix),)


def _compared(a: Expr, b: Expr, *, largest: bool) -> tuple[Expr, Expr]:
    """Whether `a` and `b` are equal in the order, and whether `a` comes before `b`."""
    above, below = (a, b) if largest else (b, a)
    if not a.dtype.is_float:
        return a.equal(b), above > below
    odd_above, odd_below = (Binary(Op.NE, v, v) for v in (above, below))
    same = te.any(a.equal(b), te.all(odd_above, odd_below))
    return same, te.any(above > below, te.all(odd_above, below.equal(below)))


OPS: tuple[OpDef, ...] = (
    OpDef(
        name="scatter",
        kind=OpKind.MOVE,
        define=_scatter,
        onnx="ScatterElements",
        torch="scatter",
        channels=Channels.MIXED,
        least=3,
        most=3,
        attrs=frozenset({"axis", "reduction"}),
    ),
    OpDef(
        name="order",
        kind=OpKind.REDUCTION,
        define=_order,
        onnx="TopK",
        torch="argsort",
        channels=Channels.MIXED,
        attrs=frozenset({"axis", "count", "largest"}),
    ),
)

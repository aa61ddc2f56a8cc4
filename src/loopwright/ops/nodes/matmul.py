"""Matrix products, with the stages that `ops.dense` gives them."""

from __future__ import annotations

from collections.abc import Sequence

from loopwright.errors import ShapeError
from loopwright.ir.dtype import accumulator
from loopwright.ir.expr import Expr
from loopwright.ops.nodes.attributes import NodeAttrs, integer, number
from loopwright.ops.nodes.node import (
    Inputs,
    Kind,
    NodeDef,
    Outputs,
    broadcast,
    element,
    given,
    optional,
    read,
)
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, reduce_axis


def _matmul(inputs: Inputs, _: NodeAttrs, prefix: str) -> Outputs:
    a, b = given(inputs, 0), given(inputs, 1)
    depth = a.shape[-1] if a.shape else 0
    if not a.shape or not b.shape or b.shape[-2:][0] != depth:
        raise ShapeError("the last dimension of a must be the last but one of b")
    batch = broadcast((a.shape[:-2], b.shape[:-2]))
    shape = (*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ()))
    k = reduce_axis(depth, "k")
    kept = accumulator(a.dtype)

    def body(*index: Expr) -> Expr:
        lead, own = index[: len(batch)], index[len(batch) :]
        row = own[:1] if a.ndim > 1 else ()
        column = own[-1:] if b.ndim > 1 else ()
        left = read(a, (*_lead(a, lead, batch), *row, k))
        right = read(b, (*_lead(b, lead, batch), k, *column))
        return te.sum(left.astype(kept) * right.astype(kept), axis=k)

    if kept == a.dtype:
        return (compute(shape, body, prefix),)
    product = compute(shape, body, f"{prefix}.product")
    return (compute(shape, lambda *i: read(product, i).astype(a.dtype), prefix),)


def _lead(tensor: Tensor, index: Sequence[Expr], batch: Sequence[int]) -> list[Expr | int]:
    """The indices of the batch dimensions of `tensor`, which is broadcast to `batch`."""
    own = tensor.shape[:-2]
    skipped = len(batch) - len(own)
    return [
        0 if mine == 1 and extent > 1 else i
        for i, mine, extent in zip(index[skipped:], own, batch[skipped:], strict=True)
    ]


def _gemm(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    a, b, c = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    alpha, beta = number(attrs, "alpha", 1.0), number(attrs, "beta", 1.0)
    flip_a, flip_b = bool(integer(attrs, "trans_a", 0)), bool(integer(attrs, "trans_b", 0))
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError("a and b must be matrices")
    m, depth = a.shape[::-1] if flip_a else a.shape
    other, n = b.shape[::-1] if flip_b else b.shape
    if depth != other:
        raise ShapeError(f"a sums over {depth} elements, b over {other}")
    k = reduce_axis(depth, "k")
    kept = accumulator(a.dtype)

    def product_of(i: Expr, j: Expr) -> Expr:
        left = read(a, (k, i) if flip_a else (i, k)).astype(kept)
        right = read(b, (j, k) if flip_b else (k, j)).astype(kept)
        return te.sum(left * right, axis=k)

    if c is None and alpha == 1 and kept == a.dtype:
        return (compute((m, n), product_of, prefix),)
    if c is not None and broadcast((c.shape, (m, n))) != (m, n):
        raise ShapeError(f"c {list(c.shape)} does not broadcast to {[m, n]}")
    product = compute((m, n), product_of, f"{prefix}.product")

    def body(*i: Expr) -> Expr:
        value = _scaled(product[i], alpha)
        if c is not None and beta:
            value = value + _scaled(element(c, i, (m, n)).astype(kept), beta)
        return value.astype(a.dtype)

    return (compute((m, n), body, prefix),)


def _scaled(value: Expr, factor: float) -> Expr:
    if factor == 1:
        return value
    return value * (factor if value.dtype.is_float else int(factor))


NODES: tuple[NodeDef, ...] = (
    NodeDef("matmul", Kind.CONTRACTION, _matmul, 2, 2),
    NodeDef(
        "gemm",
        Kind.CONTRACTION,
        _gemm,
        2,
        3,
        frozenset({"alpha", "beta", "trans_a", "trans_b"}),
    ),
)

"""Operators that read at places which other tensors hold."""

from __future__ import annotations

from loopwright.errors import ShapeError
from loopwright.ir.dtype import I64
from loopwright.ir.expr import Expr
from loopwright.ops.nodes.attributes import NodeAttrs
from loopwright.ops.nodes.node import Inputs, Kind, NodeDef, Outputs, given, read
from loopwright.ops.nodes.reduce import dimension
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute


def _place(indices: Tensor, at: tuple[Expr, ...], extent: int) -> Expr:
    """The index that `indices` holds, counted from the end below 0.

    One that is out of bounds reads the nearest element: nothing outside of the tensor is touched.
    """
    found = read(indices, at).astype(I64)
    counted = te.if_then_else(found < 0, found + extent, found)
    return te.maximum(te.minimum(counted, extent - 1), 0)


def _check(indices: Tensor) -> None:
    if not indices.dtype.is_int:
        raise ShapeError(f"the indices are {indices.dtype}, not integers")


def _gather(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, indices = given(inputs, 0), given(inputs, 1)
    _check(indices)
    axis = dimension(attrs, "axis", x.ndim, 0)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    behind = axis + indices.ndim

    def body(*i: Expr) -> Expr:
        place = _place(indices, i[axis:behind], x.shape[axis])
        return read(x, (*i[:axis], place, *i[behind:]))

    return (compute(shape, body, prefix),)


def _gather_elements(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, indices = given(inputs, 0), given(inputs, 1)
    _check(indices)
    axis = dimension(attrs, "axis", x.ndim, 0)
    if indices.ndim != x.ndim or any(
        n > m for d, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)) if d != axis
    ):
        raise ShapeError("the indices must fit into the input, but for the axis")

    def body(*i: Expr) -> Expr:
        place = _place(indices, i, x.shape[axis])
        return read(x, (*i[:axis], place, *i[axis + 1 :]))

    return (compute(indices.shape, body, prefix),)


NODES: tuple[NodeDef, ...] = (
    NodeDef("gather", Kind.INJECTIVE, _gather, 2, 2, frozenset({"axis"})),
    NodeDef("gather_elements", Kind.INJECTIVE, _gather_elements, 2, 2, frozenset({"axis"})),
)

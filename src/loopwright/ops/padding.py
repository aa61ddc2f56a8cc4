"""Padded copies of tensors, as stages of their own: reads of what pads need no guard."""

from __future__ import annotations

from collections.abc import Sequence

from loopwright.errors import ShapeError
from loopwright.ir.expr import Expr, const
from loopwright.ops.opdef import read
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute

Pair = tuple[int, int]


def pairs(pads: Sequence[int], rank: int) -> tuple[Pair, ...]:
    """(before, after) of each dimension, from all begins and then all ends; zeros when empty."""
    if not pads:
        return ((0, 0),) * rank
    if len(pads) != 2 * rank:
        raise ShapeError(f"pads {tuple(pads)} needs {2 * rank} numbers")
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def padded(
    data: Tensor,
    around: Sequence[Pair],
    value: float,
    name: str,
    axes: Sequence[str] = (),
) -> Tensor:
    """`data` with `value` around its last dimensions; itself when nothing is added or cut off.

    Args:
        around: (before, after) of the last dimensions; less than 0 cuts off.
        axes: the names of the dimensions. Where they are given, nothing is left out of what is
            subtracted, not even 0 in padded dimensions: the keys of records have it so.
    """
    if not any(before or after for before, after in around):
        return data
    skipped = data.ndim - len(around)
    every = ((0, 0),) * skipped + tuple(around)
    shape = [n + b + a for n, (b, a) in zip(data.shape, every, strict=True)]
    fill = const(value, data.dtype)

    def body(*index: Expr) -> Expr:
        inside: list[Expr] = []
        source: list[Expr] = []
        for i, extent, (before, after) in zip(index, data.shape, every, strict=True):
            if before > 0:
                inside.append(i >= before)
            if after > 0:
                inside.append(i < before + extent)
            source.append(i - before if before or (axes and len(source) >= skipped) else i)
        element = read(data, source)
        return te.if_then_else(te.all(*inside), element, fill) if inside else element

    return compute(shape, body, name, axes)

"""A reduction in parts: what `SplitReductionStep` makes of a stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import replace

from loopwright.errors import InternalError
from loopwright.ir import walk
from loopwright.ir.expr import (
    COMBINER_OP,
    Binary,
    Const,
    Expr,
    Load,
    Op,
    Reduce,
    ReduceAxis,
    Select,
    Var,
    const,
    identity,
)
from loopwright.te.tensor import Compute, Tensor


def parts(tensor: Tensor, lanes: int, name: str) -> Tensor:
    """The stage `name` that folds every `lanes`-th value, one part for each index of a last axis.

    Requires: `tensor` is a reduction.
    """
    op, reduce = _reduction(tensor)
    total = math.prod(axis.extent for axis in reduce.axes)
    axes = tuple(Var(f"{name}.{v.name.rpartition('.')[2]}") for v in op.axes)
    taken = {axis.name for axis in axes}  # one of them may be the lanes of an earlier split
    lane, fold = (_unlike(taken, f"{name}.{word}") for word in ("lane", "fold"))
    flat = Binary(Op.ADD, Binary(Op.MUL, fold, const(lanes)), lane)
    mapping: dict[str, Expr] = {v.name: a for v, a in zip(op.axes, axes, strict=True)}
    mapping |= _unflattened(reduce.axes, flat)
    value: Expr = walk.substitute(reduce.body, mapping)
    if total % lanes:
        within = Binary(Op.LT, flat, const(total))
        value = Select(within, value, identity(reduce.combiner, reduce.dtype))
    body = Reduce(reduce.combiner, value, (ReduceAxis(fold, -(-total // lanes)),))
    shape = (*tensor.shape, lanes)
    return Tensor(name, tensor.dtype, shape, op=Compute((*axes, lane), body))


def folded(tensor: Tensor, source: Tensor) -> Tensor:
    """`tensor` as the fold of the parts in `source`, pairwise by halves."""
    op, reduce = _reduction(tensor)
    values: list[Expr] = [Load(source, (*op.axes, const(n))) for n in range(source.shape[-1])]
    combine = COMBINER_OP[reduce.combiner]
    while len(values) > 1:
        half = (len(values) + 1) // 2
        pairs = zip(values[:half], values[half:], strict=False)
        joined: list[Expr] = [Binary(combine, a, b) for a, b in pairs]
        values = [*joined, *values[len(joined) : half]]
    return replace(tensor, op=Compute(op.axes, values[0]))


def _reduction(tensor: Tensor) -> tuple[Compute, Reduce]:
    op = tensor.op
    if not isinstance(op, Compute) or not isinstance(op.body, Reduce):
        raise InternalError(f"{tensor.name} is not a reduction")
    return op, op.body


def _unlike(taken: Collection[str], name: str) -> Var:
    """A variable called `name`, with a number appended where that name is taken."""
    numbers = (f"{name}{number}" for number in itertools.count(2))
    return Var(next(other for other in itertools.chain((name,), numbers) if other not in taken))


def _unflattened(axes: tuple[ReduceAxis, ...], flat: Expr) -> dict[str, Expr]:
    """Each of `axes` in terms of their flattened index, the last innermost."""
    found: dict[str, Expr] = {}
    inner = 1
    for place, axis in enumerate(reversed(axes)):
        value = flat if inner == 1 else Binary(Op.FLOORDIV, flat, const(inner))
        if place != len(axes) - 1:
            value = Binary(Op.FLOORMOD, value, const(axis.extent))
        found[axis.var.name] = Const(0, flat.dtype) if axis.extent == 1 else value
        inner *= axis.extent
    return found

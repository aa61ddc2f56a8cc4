"""The fast way to evaluate sums of products: views with the axes as dimensions, and one einsum.

It covers convolutions and matrix products: a SUM whose body is a product of reads at affine, in-bounds
indices. The windows of a convolution are strides, so nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.ir.expr import Binary, Cast, Combiner, Expr, Load, Op, Reduce
from loopwright.te.affine import affine

Array: TypeAlias = npt.NDArray[Any]


def contract(
    body: Reduce, extents: Mapping[str, int], known: Mapping[str, Array]
) -> Array | None:
    """The reduction in float64, or None where this way does not apply.

    Args:
        extents: of the spatial axes, in the order of the result's dimensions.
        known: float64 arrays by tensor name.
    """
    factors = _factors(body.body)
    if body.combiner is not Combiner.SUM or not body.dtype.is_float or len(factors) < 2:
        return None
    sizes = {**extents, **{a.var.name: a.extent for a in body.axes}}
    number = {name: position for position, name in enumerate(sizes)}
    operands: list[object] = []
    seen: set[str] = set()
    for factor in factors:
        view = _view(factor, sizes, known) if isinstance(factor, Load) else None
        if view is None:
            return None
        array, names = view
        operands += [array, [number[n] for n in names]]
        seen |= set(names)
    if seen != set(sizes):
        return None  # an axis that no factor depends on would have to be multiplied in
    return np.asarray(np.einsum(*operands, [number[n] for n in extents], optimize=True))


def _factors(expr: Expr) -> list[Expr]:
    match expr:
        case Binary(op=Op.MUL, lhs=lhs, rhs=rhs):
            return [*_factors(lhs), *_factors(rhs)]
        case Cast(value=value) if expr.dtype.is_float and value.dtype.is_float:
            return _factors(value)
        case _:
            return [expr]


def _view(
    load: Load, sizes: Mapping[str, int], known: Mapping[str, Array]
) -> tuple[Array, list[str]] | None:
    """The array with one dimension for each axis that the read moves with."""
    array = known[load.buffer.name]
    strides: dict[str, int] = {}
    offset: list[int] = []
    for dim, index in enumerate(load.indices):
        form = affine(index)
        if form is None:
            return None
        coeffs, start = form
        low = start + sum(min(0, c * (sizes[n] - 1)) for n, c in coeffs.items())
        high = start + sum(max(0, c * (sizes[n] - 1)) for n, c in coeffs.items())
        if low < 0 or high >= array.shape[dim]:
            return None
        offset.append(start)
        for name, coeff in coeffs.items():
            strides[name] = strides.get(name, 0) + coeff * array.strides[dim]
    names = list(strides)
    begin = array[tuple(slice(o, None) for o in offset)] if offset else array
    shape = [sizes[n] for n in names]
    view = np.lib.stride_tricks.as_strided(begin, shape, list(strides.values()), writeable=False)
    return view, names


"""Weights that a kernel takes in another form than the caller's: named transforms, in NumPy.

A transform is identified by its name alone, so that it can be stored and sent: `""` leaves an array
as it is; `winograd2`, `winograd4` and `winograd6` turn the weight (O, C, 3, 3) of a convolution
into (a, a, O, C) with a = m + 2, one matrix for each position of a transformed tile. The transform
is applied before the parameter is laid out.

Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2016; the tables
are those of Cook and Toom for the points 0, 1, -1, 2, -2, 1/2, -1/2 (the first m of them and
infinity), which keep the entries small.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import ConfigError

Array: TypeAlias = npt.NDArray[np.generic]
Table: TypeAlias = tuple[tuple[float, ...], ...]
"""A small matrix, row by row."""

TAPS = 3
"""The width of the kernels that are transformed."""
SIZES = (2, 4, 6)
"""The widths m of output tiles that have transforms."""
_POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))
_NAMES = {f"winograd{m}": m for m in SIZES}


@dataclass(frozen=True, slots=True)
class Winograd:
    """`output [m] = inverse @ ((kernel @ g) * (data @ d))` for taps g [3] and data d [m + 2].

    The rows of `data` belong to the points 0, infinity, then pairs p and -p.
    """

    inverse: Table
    kernel: Table
    data: Table


@functools.cache
def winograd(m: int) -> Winograd:
    """The tables for output tiles of width `m`. Requires: `m` is one of SIZES."""
    points = _POINTS[: m + TAPS - 2]
    others = [[q for q in points if q != p] for p in points]
    scales = [
        math.prod((p - q for q in rest), start=Fraction(1))
        for p, rest in zip(points, others, strict=True)
    ]
    columns = [[p**i for i in range(m)] for p in points]
    columns.insert(1, [Fraction(i == m - 1) for i in range(m)])
    inverse = list(zip(*columns, strict=True))
    kernel = [[p**i / s for i in range(TAPS)] for p, s in zip(points, scales, strict=True)]
    kernel.insert(1, [Fraction(i == TAPS - 1) for i in range(TAPS)])
    data = [[*_polynomial(rest), Fraction(0)] for rest in others]
    data.insert(1, _polynomial(points))
    return Winograd(_table(inverse), _table(kernel), _table(data))


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of `prod(x - root)`, the constant first."""
    result = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *result]
        result = [a - root * b for a, b in zip(shifted, [*result, Fraction(0)], strict=True)]
    return result


def _table(rows: Sequence[Sequence[Fraction]]) -> Table:
    return tuple(tuple(float(value) for value in row) for row in rows)


def stored_shape(transform: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape after `transform` of an array of `shape`.

    Raises: ConfigError for an unknown transform, or a shape that it does not apply to.
    """
    if not transform:
        return tuple(shape)
    width = _size(transform) + TAPS - 1
    if len(shape) != 4 or tuple(shape[2:]) != (TAPS, TAPS):
        raise ConfigError(f"{transform} is for weights (O, C, {TAPS}, {TAPS}), not {tuple(shape)}")
    return (width, width, shape[0], shape[1])


def plain_shape(transform: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape before `transform` of an array that has `shape` after it."""
    if not transform:
        return tuple(shape)
    _size(transform)
    return (shape[2], shape[3], TAPS, TAPS)


def apply(transform: str, array: Array) -> Array:
    """`array` after `transform`, computed in float64, in its own dtype.

    Raises: ConfigError for an unknown transform, or an array that it does not apply to.
    """
    if not transform:
        return array
    shape = stored_shape(transform, array.shape)
    kernel = np.array(winograd(_size(transform)).kernel)
    both = np.kron(kernel, kernel)  # [a*a, 9]
    taps = array.reshape(-1, TAPS * TAPS).astype(np.float64)
    return (both @ taps.T).astype(array.dtype).reshape(shape)


def _size(transform: str) -> int:
    if transform not in _NAMES:
        raise ConfigError(f"no transform {transform!r} of weights; there are {', '.join(_NAMES)}")
    return _NAMES[transform]

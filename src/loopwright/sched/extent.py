"""Extents that are one integer, or one integer for each of N candidates.

A template body runs once for all candidates of one structure; there a tile size is a `Size`.
Arithmetic works as on integers; anything that needs a single value (`if`, comparison, `range`) is
refused, because a template may branch on categorical knobs only.
"""

from __future__ import annotations

import operator
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import ScheduleError, TemplateError

IntArray: TypeAlias = npt.NDArray[np.int64]
Extent: TypeAlias = int | IntArray
"""What the nest computes with: an int, or int64 [N]."""


class Size:
    """int64 [N], one tile size per candidate; the template's view of a split in a batch."""

    __slots__ = ("values",)

    def __init__(self, values: IntArray) -> None:
        self.values = values

    def __add__(self, other: SizeLike) -> Size:
        return Size(self.values + extent(other))

    def __sub__(self, other: SizeLike) -> Size:
        return Size(self.values - extent(other))

    def __rsub__(self, other: SizeLike) -> Size:
        return Size(extent(other) - self.values)

    def __mul__(self, other: SizeLike) -> Size:
        return Size(self.values * extent(other))

    def __floordiv__(self, other: SizeLike) -> Size:
        return Size(self.values // extent(other))

    def __rfloordiv__(self, other: SizeLike) -> Size:
        return Size(extent(other) // self.values)

    def __mod__(self, other: SizeLike) -> Size:
        return Size(self.values % extent(other))

    def __rmod__(self, other: SizeLike) -> Size:
        return Size(extent(other) % self.values)

    def __neg__(self) -> Size:
        return Size(-self.values)

    __radd__ = __add__
    __rmul__ = __mul__

    def _refuse(self, *_: object) -> NoReturn:
        raise TemplateError(
            "the template branched on a tile size (if, comparison, range or int() of a split's "
            "size); branch on a Choice, Reorder or Annotate knob, or make it a constraint"
        )

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __int__ = __index__ = __float__ = __hash__ = _refuse

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.values[:4].tolist()))
        return f"Size([{shown}{', ...' if self.values.size > 4 else ''}])"


SizeLike: TypeAlias = int | Size


def extent(size: SizeLike) -> Extent:
    """The int or array behind a template's size.

    Raises: ScheduleError for a number that is not an integer.
    """
    if isinstance(size, Size):
        return size.values
    try:
        return operator.index(size)
    except TypeError as error:
        raise ScheduleError(f"the size {size!r} is not an integer; round it first") from error


def size_of(value: Extent) -> SizeLike:
    """A template's view of an extent: the int, or a Size."""
    return Size(value) if isinstance(value, np.ndarray) else value


def ceildiv(a: Extent, b: Extent) -> Extent:
    """`a / b` rounded up, elementwise."""
    return -(-a // b)

"""Extents that are one integer, or one integer for each of N candidates.

A template body runs once for all candidates of one structure; there a tile size is a `Size`. Arithmetic
works as on integers; whatever would need *the* value (`if`, comparison, `range`) is refused, because a
template may branch on a categorical knob only.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import TemplateError

IntArray: TypeAlias = npt.NDArray[np.int64]
Extent: TypeAlias = int | IntArray
"""What the nest computes with: an int, or int64 [N]."""


class Size:
    """int64 [N], one tile size a candidate; the template's view of a split in a batch."""

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

    __radd__ = __add__
    __rmul__ = __mul__

    def _refuse(self, *_: object) -> bool:
        raise TemplateError(
            "a template branched on a tile size (if, comparison, range or int() of a split's size); "
            "branch on a Choice, Reorder or Annotate knob instead, or express it as a constraint"
        )

    __bool__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def __int__(self) -> int:
        self._refuse()
        return 0

    __index__ = __int__

    def __repr__(self) -> str:
        return f"Size({self.values.tolist()[:4]}...)" if self.values.size > 4 else f"Size({self.values.tolist()})"


SizeLike: TypeAlias = int | Size


def extent(size: SizeLike) -> Extent:
    """The int or array behind a template's size."""
    return size.values if isinstance(size, Size) else int(size)


def ceildiv(a: Extent, b: Extent) -> Extent:
    """`a / b` rounded up, by element."""
    return -(-a // b)

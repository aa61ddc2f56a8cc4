"""Layouts: how the dimensions of a tensor are ordered and blocked in memory.

A layout is a permutation of dimensions, each split any number of times: `Layout.parse("NCHW16c",
"NCHW")` stores element (n, c, h, w) at [n][c // 16][h][w][c % 16]. A blocked extent is rounded up,
so memory may hold elements that the tensor does not have; they are padding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwright.errors import ConfigError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Part:
    """One physical dimension: `(index[dim] // stride) % extent`; the outermost part of a dim has
    extent 0.

    `stride` and `extent` count logical elements of `dim`. Extent 0 means "the rest".
    """

    dim: int
    stride: int = 1
    extent: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Physical dimensions, outermost first."""

    parts: tuple[Part, ...]

    @staticmethod
    def plain(ndim: int) -> Layout:
        """Row-major, nothing blocked."""
        return Layout(tuple(Part(d) for d in range(ndim)))

    @staticmethod
    def blocked(ndim: int, order: Sequence[int | tuple[int, int]]) -> Layout:
        """A layout from `order`, outermost first: `d` is what is left of dim d, `(d, b)` a block of
        b of it.

        `blocked(4, [0, 1, 2, 3, (1, 16)])` is NCHW16c. Of several blocks of a dim, the last is
        innermost.
        Raises: ConfigError when a dimension is missing or repeated.
        """
        outer = [o for o in order if isinstance(o, int)]
        if sorted(outer) != list(range(ndim)):
            raise ConfigError(
                f"layout {list(order)}: each of {ndim} dimensions must appear once unblocked"
            )
        seen: set[int] = set()
        for item in order:
            if not isinstance(item, int) and item[0] not in seen:
                raise ConfigError(
                    f"layout {list(order)}: put the block {item} behind dimension {item[0]}"
                )
            seen.add(item if isinstance(item, int) else item[0])
        parts: list[Part] = []
        inner = [1] * ndim  # product of the inner blocks of each dim
        for item in reversed(list(order)):
            if isinstance(item, int):
                parts.append(Part(item, inner[item], 0))
            else:
                dim, size = item
                parts.append(Part(dim, inner[dim], size))
                inner[dim] *= size
        return Layout(tuple(reversed(parts)))

    @staticmethod
    def parse(text: str, names: str) -> Layout:
        """The layout `text` (as `NCHW16c`) over the dimensions called `names` (as `NCHW`).

        Raises: ConfigError when `text` does not fit `names`.
        """
        order: list[int | tuple[int, int]] = []
        tokens = re.findall(r"[A-Z]|\d+[a-z]", text)
        if "".join(tokens) != text:
            raise ConfigError(
                f"layout {text!r}: write capitals for dimensions and 16c for a block of C"
            )
        for token in tokens:
            dim = names.find(token[-1].upper())
            if dim < 0:
                raise ConfigError(f"layout {text!r}: no dimension {token[-1].upper()} in {names}")
            order.append(dim if len(token) == 1 else (dim, int(token[:-1])))
        return Layout.blocked(len(names), order)

    @property
    def ndim(self) -> int:
        """Number of logical dimensions."""
        return 1 + max((p.dim for p in self.parts), default=-1)

    @property
    def is_plain(self) -> bool:
        """True when memory is row-major in the logical dimensions."""
        return self == Layout.plain(len(self.parts))

    @property
    def order(self) -> list[int | tuple[int, int]]:
        """The `order` from which `blocked` makes this layout."""
        return [(part.dim, part.extent) if part.extent else part.dim for part in self.parts]

    def is_row_major(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of `shape` lies in memory as in a plain layout."""
        return self.same_memory(Layout.plain(len(shape)), shape)

    def same_memory(self, other: Layout, shape: Sequence[int]) -> bool:
        """Whether a tensor of `shape` has the same bytes in `other`."""
        return self._walk(shape) == other._walk(shape)

    def _walk(self, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """Dimension, stride and extent of the physical dimensions longer than 1.

        Parts of one dimension that follow each other are one.
        """
        found: list[tuple[int, int, int]] = []
        for part, extent in zip(self.parts, self.physical_shape(shape), strict=True):
            if extent == 1:
                continue
            if found and found[-1][0] == part.dim and found[-1][1] == part.stride * extent:
                found[-1] = (part.dim, part.stride, found[-1][2] * extent)
            else:
                found.append((part.dim, part.stride, extent))
        return found

    def physical_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The extents of the memory for a tensor of `shape`."""
        return tuple(p.extent if p.extent else -(-shape[p.dim] // p.stride) for p in self.parts)

    def pack(self, array: Array) -> Array:
        """`array` (plain) laid out in memory; padding is zero. The result is contiguous."""
        if self.is_plain:
            return np.ascontiguousarray(array)
        tail = self._padded(array.shape)
        widths = [(0, t - s) for s, t in zip(array.shape, tail, strict=True)]
        padded = np.pad(array, widths) if any(w for _, w in widths) else array
        split, order = self._split(padded.shape)
        return np.ascontiguousarray(padded.reshape(split).transpose(order))

    def unpack(self, memory: Array, shape: Sequence[int]) -> Array:
        """The plain array of `shape` that `memory` (of `physical_shape(shape)`) holds."""
        if self.is_plain:
            return memory.reshape(tuple(shape))
        padded = self._padded(shape)
        _, order = self._split(padded)
        inverse = np.argsort(order)
        full = memory.reshape(self.physical_shape(shape)).transpose(inverse).reshape(padded)
        return np.ascontiguousarray(full[tuple(slice(0, s) for s in shape)])

    def __str__(self) -> str:
        letters = "abcdefghijkl"
        return "".join(
            letters[p.dim].upper() if p.extent == 0 else f"{p.extent}{letters[p.dim]}"
            for p in self.parts
        )

    def _padded(self, shape: Sequence[int]) -> tuple[int, ...]:
        physical = self.physical_shape(shape)
        total = [1] * len(shape)
        for part, extent in zip(self.parts, physical, strict=True):
            total[part.dim] *= extent
        return tuple(total)

    def _split(self, padded: Sequence[int]) -> tuple[list[int], list[int]]:
        """The reshape that splits every dim (outermost block first) and the transpose after it."""
        by_dim = sorted(
            range(len(self.parts)), key=lambda i: (self.parts[i].dim, -self.parts[i].stride)
        )
        physical = self.physical_shape(padded)
        place = {index: position for position, index in enumerate(by_dim)}
        return [physical[i] for i in by_dim], [place[i] for i in range(len(self.parts))]

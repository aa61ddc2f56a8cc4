"""Tensor expressions: what each element of a tensor is, not how it is computed.

    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda y, x: te.sum(A[k, y] * B[k, x], axis=k), name="C")

A body may read other tensors at any index expression; `if_then_else` guards reads that would be out
of bounds. Shapes are fixed. Axis variables are named by their tensor: axis `y` of
`C` is `C.y`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from loopwright.errors import ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir import walk
from loopwright.ir.dtype import DType
from loopwright.ir.expr import (
    Buffer,
    Expr,
    ExprLike,
    Load,
    Reduce,
    ReduceAxis,
    Var,
    cast,
    wrap,
)
from loopwright.te.check import reason_against


@dataclass(frozen=True, slots=True, eq=False)
class Placeholder:
    """An input."""


@dataclass(frozen=True, slots=True, eq=False)
class Compute:
    """One element for every point of `axes`. `body` may hold a Reduce only at the top."""

    axes: tuple[Var, ...]
    body: Expr

    @property
    def reduce_axes(self) -> tuple[ReduceAxis, ...]:
        """The axes reduced over, in the order they were given."""
        return self.body.axes if isinstance(self.body, Reduce) else ()


@dataclass(frozen=True, slots=True, eq=False)
class Tensor(Buffer):
    """A buffer that knows how it is computed. `T[i, j]` reads an element."""

    op: Placeholder | Compute = field(default_factory=Placeholder)

    def __repr__(self) -> str:
        return f"Tensor({self.name}: {self.dtype}{list(self.shape)})"

    @property
    def buffer(self) -> Buffer:
        """What a `Load` of this tensor refers to: the tensor itself."""
        return self

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the body reads, in the order of first use."""
        if not isinstance(self.op, Compute):
            return ()
        found = {load.buffer.name: load.buffer for load in walk.loads(self.op.body)}
        return tuple(t for t in found.values() if isinstance(t, Tensor))

    @property
    def is_reduction(self) -> bool:
        """True when its elements are folded over reduce axes."""
        return isinstance(self.op, Compute) and isinstance(self.op.body, Reduce)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def axis(self) -> tuple[Var, ...]:
        """The axes, to name them in a schedule."""
        return self.op.axes if isinstance(self.op, Compute) else ()

    @property
    def reduce_axis(self) -> tuple[ReduceAxis, ...]:
        """The axes reduced over."""
        return self.op.reduce_axes if isinstance(self.op, Compute) else ()

    def __getitem__(self, index: ExprLike | tuple[ExprLike, ...]) -> Expr:
        indices = index if isinstance(index, tuple) else (index,)
        if len(indices) != self.ndim:
            raise ShapeError(
                f"{self.name} has {self.ndim} dimensions {self.shape}, "
                f"read with {len(indices)} indices"
            )
        exprs = tuple(wrap(i) for i in indices)
        for position, expr in enumerate(exprs):
            if not expr.dtype.is_int:
                raise ShapeError(f"{self.name}: index {position} is {expr.dtype}, not an integer")
        return Load(self, tuple(cast(dt.I64, e) for e in exprs))


def placeholder(
    shape: Sequence[int], dtype: str | DType = "float32", name: str = "input"
) -> Tensor:
    """An input tensor of `shape`.

    Raises: ShapeError for an extent that is not a positive integer; UnsupportedError for the dtype.
    """
    return Tensor(name, dt.parse(dtype), _shape(name, shape))


def reduce_axis(domain: int | tuple[int, int], name: str = "k") -> ReduceAxis:
    """An axis to reduce over; `domain` is its extent or `(0, extent)`."""
    low, *rest = domain if isinstance(domain, tuple) else (0, domain)
    if low != 0 or len(rest) != 1 or not isinstance(rest[0], int | np.integer) or rest[0] < 1:
        raise ShapeError(f"reduce_axis {name}: the domain {domain} is not (0, n) with n >= 1")
    return ReduceAxis(Var(name), int(rest[0]))


def compute(
    shape: Sequence[int],
    fn: Callable[..., ExprLike],
    name: str = "compute",
    axes: Sequence[str] = (),
) -> Tensor:
    """The tensor of `shape` whose element at (i, j, ...) is `fn(i, j, ...)`.

    Args:
        axes: the names of the dimensions, if they are not those of `fn`'s parameters.

    Raises: ShapeError when `fn` takes another number of indices, or its body is not valid: a
        nested reduction, an operator on a dtype it does not take, a read out of bounds.
    """
    extents = _shape(name, shape)
    parameters = list(inspect.signature(fn).parameters.values())
    if axes:
        names = list(axes)
    elif any(p.kind is p.VAR_POSITIONAL for p in parameters):
        names = [f"i{d}" for d in range(len(extents))]
    else:
        names = [p.name for p in parameters]
    if len(names) != len(extents):
        raise ShapeError(
            f"{name}: the shape {extents} has {len(extents)} dimensions, fn takes {len(names)}"
        )
    indices = tuple(Var(f"{name}.{n}") for n in names)
    body = wrap(fn(*indices))
    sizes = {var.name: extent for var, extent in zip(indices, extents, strict=True)}
    reason = reason_against(body, sizes)
    if reason is not None:
        raise ShapeError(f"{name}: {reason}")
    result = Tensor(name, body.dtype, extents, op=Compute(indices, body))
    if any(read.name == name for read in result.inputs):
        raise ShapeError(f"{name} reads a tensor of the same name; give them different names")
    return result


def _shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(_extent(name, shape, extent) for extent in shape)


def _extent(name: str, shape: Sequence[int], extent: object) -> int:
    number = int(extent) if isinstance(extent, int | np.integer) else 0
    if isinstance(extent, bool) or number < 1:
        raise ShapeError(
            f"{name}: the shape {tuple(shape)} has the extent {extent!r}; "
            "every extent must be a positive integer (dynamic shapes are not supported)"
        )
    return number

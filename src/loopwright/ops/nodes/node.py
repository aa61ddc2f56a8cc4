"""What an operator of a graph is, and what its definitions share."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from loopwright.errors import ShapeError
from loopwright.ir.expr import Const, Expr, ExprLike
from loopwright.ops.nodes.attributes import NodeAttrs
from loopwright.te.tensor import Tensor

Inputs: TypeAlias = Sequence[Tensor | None]
Outputs: TypeAlias = tuple[Tensor, ...]
Define: TypeAlias = Callable[[Inputs, NodeAttrs, str], Outputs]


class Kind(enum.Enum):
    """How the elements of an operator's outputs depend on those of its inputs."""

    ELEMENTWISE = "elementwise"
    """Each element reads the same element of every input, which may be broadcast."""
    INJECTIVE = "injective"
    """Elements are moved: transposed, sliced, gathered."""
    REDUCTION = "reduction"
    """Elements are folded: pools, norms, softmax."""
    CONTRACTION = "contraction"
    """Sums of products: convolutions, matrix products."""


@dataclass(frozen=True, slots=True)
class NodeDef:
    """An operator: `define(inputs, attrs, prefix)` gives its outputs as tensor expressions.

    It takes `least` to `most` inputs, of which the first `least` must be there, and the attributes
    called `attrs`.
    """

    name: str
    kind: Kind
    define: Define
    least: int = 1
    most: int = 1
    attrs: frozenset[str] = frozenset()


def given(inputs: Inputs, place: int = 0) -> Tensor:
    """The input at `place`. Raises: ShapeError when it is left out."""
    found = optional(inputs, place)
    if found is None:
        raise ShapeError(f"input {place} is missing")
    return found


def optional(inputs: Inputs, place: int) -> Tensor | None:
    """The input at `place`, None when it is left out."""
    return inputs[place] if place < len(inputs) else None


def broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that all of `shapes` broadcast to. Raises: ShapeError when there is none."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        shown = " and ".join(str(list(s)) for s in shapes)
        raise ShapeError(f"the shapes {shown} do not broadcast") from error


def element(tensor: Tensor, index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """The element of `tensor` that is broadcast to `index` of `shape`."""
    skipped = len(shape) - tensor.ndim
    return read(
        tensor,
        [
            Const(0, i.dtype) if own == 1 and extent > 1 else i
            for i, own, extent in zip(index[skipped:], tensor.shape, shape[skipped:], strict=True)
        ],
    )


def read(tensor: Tensor, index: Sequence[ExprLike]) -> Expr:
    """`tensor[index]`, of any number of dimensions, none as well."""
    return tensor[tuple(index)]

"""What an operator is: one row of the table in `ops.registry`, and what definitions share."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from loopwright.errors import ShapeError
from loopwright.ir.expr import Const, Expr, ExprLike
from loopwright.ops.attributes import Attr, Attrs, NodeAttrs
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload

Inputs: TypeAlias = Sequence[Tensor | None]
Outputs: TypeAlias = tuple[Tensor, ...]
Define: TypeAlias = Callable[[Inputs, NodeAttrs, str], Outputs]
Element: TypeAlias = Callable[[Sequence[Expr], NodeAttrs], Expr]


class OpKind(enum.Enum):
    """How the elements of an operator's outputs depend on those of its inputs."""

    ELEMENTWISE = "elementwise"
    """Each element reads the same element of every input, which may be broadcast."""
    MOVE = "move"
    """Elements are moved: transposed, sliced, gathered."""
    REDUCTION = "reduction"
    """Elements are folded: pools, norms, softmax."""
    CONTRACTION = "contraction"
    """Sums of products: convolutions, matrix products."""


class Channels(enum.Enum):
    """Whether channel c of a 4-D output depends on channel c of the inputs alone."""

    KEPT = "kept"
    """Always, so that both may be blocked by channels in memory."""
    JOINED = "joined"
    """Channels are put together along dimension 1."""
    UNFOLDED = "unfolded"
    """Where only rows and columns are folded, and stay as dimensions."""
    UNMOVED = "unmoved"
    """Where the extents of the first two dimensions stay."""
    MIXED = "mixed"


class StepOperand(enum.Enum):
    """What a step of an epilogue combines a value with."""

    NOTHING = "nothing"
    TENSOR = "tensor"
    """An input of the output's shape."""
    CHANNELS = "channels"
    """A constant with one number a channel."""
    NUMBER = "number"
    """A number that is known when the kernel is made."""


@dataclass(frozen=True, slots=True)
class EpilogueForm:
    """A way in which an operator is a step of an epilogue; `text` is how that is written.

    `numbers` are the attributes written in parentheses, with their defaults. A step has no other
    attributes than these and `fixed`. `input` is how the input that it reads is called.
    """

    text: str
    operand: StepOperand = StepOperand.NOTHING
    numbers: tuple[tuple[str, float], ...] = ()
    fixed: tuple[tuple[str, str], ...] = ()
    input: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskForm:
    """A contraction with shapes as attributes and an epilogue: what `lw.task` takes by name.

    `onnx` and `torch` are the node and the function that a peer computes it with, "" if it cannot.
    """

    name: str
    attrs: tuple[Attr, ...]
    build: Callable[[Attrs], Workload]
    summary: str
    onnx: str
    torch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpDef:
    """One operator: `define(inputs, attrs, prefix)` gives its outputs as tensor expressions.

    It takes `least` to `most` inputs, of which the first `least` must be there, and the attributes
    called `attrs`. `element` is what `define` does to one element, in the dtype of its inputs.
    `epilogues` are the ways to write it as a step after a contraction, `forms` the ways to ask for
    it by name; nothing after it is computed in its kernel if it stands `alone`. `onnx` and `torch`
    are its names there, "" in torch where no single operator is the same.
    """

    name: str
    kind: OpKind
    define: Define
    onnx: str
    torch: str
    channels: Channels
    alone: bool = False
    least: int = 1
    most: int = 1
    attrs: frozenset[str] = frozenset()
    element: Element | None = None
    epilogues: tuple[EpilogueForm, ...] = ()
    forms: tuple[TaskForm, ...] = ()


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

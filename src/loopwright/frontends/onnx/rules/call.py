"""A node of an ONNX model on its way into a graph: what a rule sees of it, and emits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from loopwright.errors import ModelError, UnsupportedError
from loopwright.graph.builder import GraphBuilder
from loopwright.graph.ir import Array
from loopwright.ir.dtype import DType
from loopwright.ops.attributes import NodeAttr

OnnxAttr: TypeAlias = NodeAttr | tuple[str, ...] | Array
Body: TypeAlias = Callable[[Sequence[str]], tuple[str, ...]]
"""A graph within a node: emits it for the values of its inputs, gives those of its outputs."""


@dataclass(frozen=True, slots=True)
class OnnxCall:
    """`op` of an ONNX model, in the meaning of `opset`, on values of the graph that is built.

    `inputs` are names in that graph, "" for one left out. `used` says which outputs are read.
    """

    builder: GraphBuilder
    label: str
    op: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    attrs: Mapping[str, OnnxAttr]
    used: tuple[bool, ...]
    hint: str
    bodies: Mapping[str, Body] = field(default_factory=dict)

    # inputs

    def has(self, place: int) -> bool:
        """Whether the input at `place` is given."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def x(self, place: int = 0) -> str:
        """The value at input `place`. Raises: ModelError when it is left out."""
        if not self.has(place):
            raise self.wrong(f"its input {place} is missing")
        return self.inputs[place]

    def shape(self, place: int = 0) -> tuple[int, ...]:
        """The shape of input `place`."""
        return self.shape_of(self.x(place))

    def rank(self, place: int = 0) -> int:
        """The number of dimensions of input `place`."""
        return len(self.shape(place))

    def dtype(self, place: int = 0) -> DType:
        """The dtype of input `place`."""
        return self.dtype_of(self.x(place))

    def shape_of(self, value: str) -> tuple[int, ...]:
        """The shape of a value of the graph."""
        return self.builder.value(value).shape

    def dtype_of(self, value: str) -> DType:
        """The dtype of a value of the graph."""
        return self.builder.value(value).dtype

    def array(self, place: int, what: str) -> Array:
        """The constant at input `place`, which is `what`.

        Raises: UnsupportedError when it is computed from what the model is given.
        """
        found = self.builder.array(self.x(place))
        if found is None:
            raise self.refuse(
                f"{what} (input {self.inputs[place]!r}) depends on the model's inputs; "
                "it must be a constant"
            )
        return found

    def known(self, place: int, what: str) -> tuple[int, ...]:
        """The integers at input `place`, which must be constant, as `array` says."""
        return tuple(int(v) for v in self.array(place, what).reshape(-1))

    def scalar(self, place: int, what: str) -> float:
        """The one number at input `place`, which must be constant, as `array` says.

        One of an integer dtype stays an integer.
        """
        found = self.array(place, what)
        if found.size != 1:
            raise self.wrong(f"{what} has {found.size} elements instead of one")
        one = found.reshape(-1)[0]
        return int(one) if found.dtype.kind in "biu" else float(one)

    # attributes

    def integer(self, name: str, default: int | None = None) -> int:
        """The attribute `name`, an integer."""
        value = self.attrs.get(name, default)
        if not isinstance(value, int):
            raise self.wrong(f"its attribute {name} is {value!r}, not an integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """The attribute `name`, a number."""
        value = self.attrs.get(name, default)
        if not isinstance(value, int | float):
            raise self.wrong(f"its attribute {name} is {value!r}, not a number")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """The attribute `name`, a string."""
        value = self.attrs.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(f"its attribute {name} is {value!r}, not a string")
        return value

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """The attribute `name`, integers."""
        value = self.attrs.get(name, default)
        if not isinstance(value, tuple):
            raise self.wrong(f"its attribute {name} is {value!r}, not a list of integers")
        found = tuple(v for v in value if isinstance(v, int))
        if len(found) != len(value):
            raise self.wrong(f"its attribute {name} is {value!r}, not a list of integers")
        return found

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """The attribute `name` as an axis of a tensor of `rank` dimensions, not negative."""
        return self.normal((self.integer(name, default),), rank)[0]

    def normal(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """`axes` of a tensor of `rank` dimensions, not negative. Raises: ModelError outside."""
        for axis in axes:
            if not -rank <= axis < max(rank, 1):
                raise self.wrong(f"the axis {axis} is not there: it has {rank} dimensions")
        return tuple(axis % max(rank, 1) for axis in axes)

    def body(self, name: str) -> Body:
        """The attribute `name`, a graph."""
        if name not in self.bodies:
            raise self.wrong(f"its attribute {name} is missing")
        return self.bodies[name]

    # what is made of it

    def emit(self, op: str, *inputs: str, **attrs: NodeAttr) -> str:
        """The output of a new node; its inputs are broadcast as the operator says."""
        return self.builder.emit(op, inputs, attrs, name=self.name, hint=self.hint)[0]

    def constant(self, array: Array | float, dtype: DType | None = None) -> str:
        """A constant; a number is a scalar of `dtype`."""
        made = np.asarray(array, None if dtype is None else dtype.numpy)
        return self.builder.constant(made, self.hint)

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """`value` in another shape, itself if it has that shape."""
        wanted = tuple(shape)
        if self.shape_of(value) == wanted:
            return value
        return self.emit("reshape", value, shape=wanted)

    def transpose(self, value: str, perm: Sequence[int]) -> str:
        """`value` with its dimensions permuted, itself if none moves."""
        order = tuple(perm)
        if order == tuple(range(len(order))):
            return value
        return self.emit("transpose", value, perm=order)

    def cast(self, value: str, dtype: DType) -> str:
        """`value` in another dtype, itself if it has that one."""
        return value if self.dtype_of(value) == dtype else self.emit("cast", value, to=dtype.name)

    def slice(self, value: str, axis: int, start: int, size: int) -> str:
        """`size` entries of `value` along `axis`, itself if that is all."""
        shape = self.shape_of(value)
        if (start, size) == (0, shape[axis]):
            return value
        starts, sizes = [0] * len(shape), list(shape)
        starts[axis], sizes[axis] = start, size
        if not size:
            return self.constant(np.zeros(sizes, self.dtype_of(value).numpy))
        return self.emit(
            "slice", value, starts=tuple(starts), steps=(1,) * len(shape), sizes=tuple(sizes)
        )

    # refusals

    def wrong(self, why: str) -> ModelError:
        """The error that the model is wrong here."""
        return ModelError(f"{self.label}: node {self.name!r} ({self.op}): {why}")

    def refuse(self, why: str) -> UnsupportedError:
        """The error that this is not supported."""
        return UnsupportedError(f"{self.label}: node {self.name!r} ({self.op}): {why}")


Rule: TypeAlias = Callable[[OnnxCall], Sequence[str]]
"""The values of a node's outputs in the graph; those that nothing reads may be left out."""

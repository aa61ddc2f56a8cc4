"""One call of an ATen operator, and the nodes of a graph that are made for it.

An operator is translated by a function `(make, call) -> results`: it reads the arguments of `call`
by the names of the operator's schema and makes nodes with `make`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from loopwright.errors import InternalError, UnsupportedError
from loopwright.graph.ir import Array, Node, Value, infer
from loopwright.ir import dtype as dt
from loopwright.ir.dtype import BOOL, F32, I64, DType
from loopwright.ops.attributes import NodeAttr


@dataclass(frozen=True, slots=True)
class Ref:
    """A value of the graph: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def rank(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)


Given: TypeAlias = "Ref | DType | int | float | str | tuple[Given, ...] | None"
"""An argument of a call: a tensor, a dtype, a number, a text, or several of them."""

Results: TypeAlias = "Ref | tuple[Ref | None, ...]"
"""What a call gives; None is a result that is not translated."""


@dataclass(frozen=True, slots=True)
class TorchCall:
    """A call of `target` (`aten.add.Tensor`): arguments by name, and what it returns."""

    name: str
    target: str
    given: Mapping[str, Given]
    results: tuple[Value | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self._first.shape

    @property
    def dtype(self) -> DType:
        """The dtype of the first result."""
        return self._first.dtype

    @property
    def _first(self) -> Value:
        first = self.results[0] if self.results else None
        if first is None:
            raise InternalError(f"{self.target}: its first result is not a tensor")
        return first

    def has(self, name: str) -> bool:
        """Whether the argument is there and is not None."""
        return self.given.get(name) is not None

    def ref(self, name: str) -> Ref:
        """The argument `name`, a tensor."""
        found = self.given.get(name)
        if not isinstance(found, Ref):
            raise self.refuse(f"{name}={found!r} is not a tensor")
        return found

    def maybe_ref(self, name: str) -> Ref | None:
        """The argument `name`, a tensor or None."""
        return self.ref(name) if self.has(name) else None

    def refs(self, name: str) -> tuple[Ref | None, ...]:
        """The argument `name`, several tensors."""
        found = self.given.get(name)
        if not isinstance(found, tuple):
            raise self.refuse(f"{name}={found!r} are not tensors")
        return tuple(f if isinstance(f, Ref) else None for f in found)

    def integer(self, name: str, default: int | None = None) -> int:
        """The argument `name`, an integer or a bool."""
        found = self.given.get(name)
        if found is None and default is not None:
            return default
        if not isinstance(found, int):
            raise self.refuse(f"{name}={found!r} is not an integer")
        return int(found)

    def number(self, name: str, default: float | None = None) -> float:
        """The argument `name`, a number."""
        found = self.given.get(name)
        if found is None and default is not None:
            return default
        if not isinstance(found, int | float):
            raise self.refuse(f"{name}={found!r} is not a number")
        return float(found)

    def text(self, name: str, default: str) -> str:
        """The argument `name`, a text."""
        found = self.given.get(name)
        return found if isinstance(found, str) else default

    def ints(self, name: str) -> tuple[int, ...]:
        """The argument `name`, integers: one counts as a list of one, None as none."""
        found = self.given.get(name)
        found = () if found is None else found if isinstance(found, tuple) else (found,)
        if not all(isinstance(f, int) for f in found):
            raise self.refuse(f"{name}={found!r} are not integers")
        return tuple(int(f) for f in found if isinstance(f, int))

    def numbers(self, name: str) -> tuple[float, ...]:
        """The argument `name`, numbers; None counts as none of them."""
        found = self.given.get(name)
        found = found if isinstance(found, tuple) else ()
        return tuple(float(f) for f in found if isinstance(f, int | float))

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """The argument `name`, a dimension of `rank`, counted from the first."""
        return self.integer(name, default) % max(rank, 1)

    def axes(self, name: str, rank: int) -> tuple[int, ...]:
        """The argument `name`, dimensions in rising order; none given are all."""
        found = {a % max(rank, 1) for a in self.ints(name)} if rank else set()
        return tuple(sorted(found)) if self.ints(name) else tuple(range(rank))

    def refuse(self, why: str) -> UnsupportedError:
        """The error that this call cannot be translated, to be raised."""
        return UnsupportedError(why)


Handler: TypeAlias = "Callable[[NodeMaker, TorchCall], Results]"


@dataclass(slots=True)
class NodeMaker:
    """Makes the nodes and constants of a graph; values are named after the call in hand."""

    graph: str
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    prefix: str = ""
    _made: int = 0

    def begin(self, name: str) -> None:
        """Name what follows after `name`."""
        self.prefix, self._made = name, 0

    def _next(self) -> str:
        self._made += 1
        return self.prefix if self._made == 1 else f"{self.prefix}/{self._made - 1}"

    def node(self, op: str, inputs: Sequence[Ref | None], **attrs: NodeAttr) -> Ref:
        """The result of a new node.

        Raises: ModelError or UnsupportedError when the operator does not take that.
        """
        name = self._next()
        plain = {k: int(v) if isinstance(v, bool) else v for k, v in attrs.items()}
        names = tuple("" if ref is None else ref.name for ref in inputs)
        made = Node(op, name, names, (name,), plain)
        values = {ref.name: Value(ref.shape, ref.dtype) for ref in inputs if ref is not None}
        (value,) = infer(self.graph, made, values)
        self.nodes.append(made)
        return Ref(name, value.shape, value.dtype)

    def constant(self, array: Array, name: str) -> Ref:
        """A constant called `name`, or the existing one of that name."""
        kept = self.constants.setdefault(name, np.ascontiguousarray(array).reshape(array.shape))
        return Ref(name, kept.shape, dt.parse(kept.dtype.name))

    def new_constant(self, array: Array) -> Ref:
        """A constant that belongs to the call in hand."""
        return self.constant(array, self._next())

    def scalar(self, value: float, dtype: DType) -> Ref:
        """A number as a constant without dimensions, shared by all who need it."""
        return self.constant(np.array(value).astype(dtype.numpy), f"{value!r}/{dtype}")

    def full(self, shape: tuple[int, ...], value: float, dtype: DType) -> Ref:
        """A tensor of one value: a small one is a constant, a large one an expanded number."""
        if int(np.prod(shape)) <= _SMALL:
            return self.new_constant(np.full(shape, value, dtype.numpy))
        return self.node("expand", [self.scalar(value, dtype)], shape=shape)

    def cast(self, ref: Ref, dtype: DType) -> Ref:
        """`ref` in another dtype."""
        if ref.dtype == dtype:
            return ref
        known = self.constants.get(ref.name)
        if known is not None:
            return self.constant(known.astype(dtype.numpy), f"{ref.name}/{dtype}")
        return self.node("cast", [ref], to=dtype.name)

    def reshape(self, ref: Ref, shape: Sequence[int]) -> Ref:
        """`ref` in another shape of as many elements."""
        if ref.shape == tuple(shape):
            return ref
        known = self.constants.get(ref.name)
        if known is not None:
            return self.new_constant(known.reshape(shape))
        return self.node("reshape", [ref], shape=tuple(shape))

    def transpose(self, ref: Ref, perm: Sequence[int]) -> Ref:
        """`ref` with its dimensions in the order `perm`; a constant is moved now."""
        if tuple(perm) == tuple(range(ref.rank)):
            return ref
        known = self.constants.get(ref.name)
        if known is not None:
            name = f"{ref.name}/transposed_{'_'.join(map(str, perm))}"
            return self.constant(np.transpose(known, perm), name)
        return self.node("transpose", [ref], perm=tuple(perm))

    def operand(self, call: TorchCall, name: str, dtype: DType) -> Ref:
        """The argument `name`, a tensor or a number, in `dtype`."""
        given = call.given.get(name)
        if isinstance(given, Ref):
            return self.cast(given, dtype)
        return self.scalar(scalar_of(call, name), dtype)


_SMALL = 1 << 14
"""Elements of a constant of one value that is kept whole."""


def scalar_of(call: TorchCall, name: str) -> float:
    """The argument `name`, a number that stays an integer if it is one."""
    given = call.given.get(name)
    return given if isinstance(given, int) else call.number(name)


def common(call: TorchCall, *names: str) -> DType:
    """The dtype that PyTorch compares or combines the arguments `names` in.

    A float comes before an integer and that before a bool; among equals a tensor with dimensions
    comes before one without, and that before a number; then the wider.
    """
    ranked = []
    for name in names:
        given = call.given.get(name)
        if isinstance(given, Ref):
            ranked.append((_family(given.dtype), 2 if given.shape else 1, given.dtype))
        else:
            kind = F32 if isinstance(given, float) else BOOL if isinstance(given, bool) else I64
            ranked.append((_family(kind), 0, kind))
    family = max(r[0] for r in ranked)
    weight = max(r[1] for r in ranked if r[0] == family)
    return max((r[2] for r in ranked if r[:2] == (family, weight)), key=lambda d: d.bits)


def _family(dtype: DType) -> int:
    return 2 if dtype.is_float else 1 if dtype.is_int else 0

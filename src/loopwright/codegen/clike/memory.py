"""Loads and stores as C-like text, and register buffers as variables, one per vector."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.codegen.affine import Idx
from loopwright.codegen.clike.index import ClikeConditions, ClikeIndices, LaneIndex, moved
from loopwright.codegen.clike.operations import ClikeOperations, EmitState
from loopwright.codegen.clike.prelude import storage_key
from loopwright.codegen.conditions import Cond
from loopwright.codegen.indexing import IndexExpressions
from loopwright.codegen.storage import Storage
from loopwright.codegen.values import CodeValue
from loopwright.errors import CodegenError
from loopwright.ir.expr import Buffer, Expr, Load
from loopwright.ir.stmt import Store


class ClikeMemory:
    """Emits loads and stores at the current point; `mask` says which lanes are active.

    `names` are the pointers and arrays of the buffers in the function being written.
    """

    def __init__(
        self,
        state: EmitState,
        indices: ClikeIndices,
        index: IndexExpressions[LaneIndex],
        ops: ClikeOperations,
        conditions: ClikeConditions,
        storage: Storage,
    ) -> None:
        self._state = state
        self._indices = indices
        self._index = index
        self._ops = ops
        self._conditions = conditions
        self._storage = storage
        self.mask: Cond | None = None
        self.names: Mapping[Buffer, str] = {}
        self._registers: dict[Buffer, dict[int, CodeValue]] = {}
        self._literals: dict[tuple[Buffer, int], CodeValue] = {}
        self._versions: dict[Buffer, int] = {}

    def declare(self, buffer: Buffer, most_lanes: int) -> None:
        """Begin the life of a register buffer: a variable for each vector of each slot."""
        place = self._storage.places[buffer]
        size = buffer.size * max(1, place.expand)
        parts: dict[int, CodeValue] = {}
        for slot in range(0, size, place.lanes):
            for start, lanes in pieces(place.lanes, most_lanes):
                name = self._state.body.fresh("r")
                kind = self._ops.kind(buffer.dtype, lanes)
                self._state.body.line(f"{kind} {name};")
                parts[slot + start] = CodeValue(name, buffer.dtype, lanes)
        self._registers[buffer] = parts

    def forget(self, buffer: Buffer) -> None:
        """End the life of a register buffer."""
        del self._registers[buffer]
        self.assume(self._literals, frozenset({buffer}))

    @property
    def literals(self) -> dict[tuple[Buffer, int], CodeValue]:
        """The variables of register buffers that hold a literal here: arithmetic folds it."""
        return dict(self._literals)

    def assume(
        self,
        literals: Mapping[tuple[Buffer, int], CodeValue],
        changed: frozenset[Buffer] = frozenset(),
        *,
        wide: bool = False,
    ) -> None:
        """Continue with `literals`, less those of buffers in `changed` (`wide`: only vectors)."""
        places = self._storage.places
        self._literals = {
            (buffer, start): value
            for (buffer, start), value in literals.items()
            if buffer not in changed or (wide and places[buffer].lanes == 1)
        }

    def load(self, node: Load) -> CodeValue:
        """The value of `node`; in a masked place only active lanes are read."""
        buffer = node.buffer
        at = self._located(buffer, node.indices[0])
        if buffer in self._registers:
            return self._literals.get((buffer, _start(at)), self._register(buffer, at))
        if isinstance(at, Idx) and not at.lane:
            text, lanes = f"{self.names[buffer]}[{self._indices.scalar(at)}]", 1
        else:
            text, lanes = self._lanes(buffer, at), self._state.lanes
        mask = "" if self.mask is None or lanes == 1 else self.mask.text
        key = ("load", buffer, text, mask, self._versions.get(buffer, 0))
        kind = self._state.prelude.type(storage_key(buffer.dtype), lanes)
        loaded = self._state.body.remembered(key, kind, text)
        return self._ops.from_memory(loaded, buffer.dtype, lanes)

    def store(self, node: Store, value: CodeValue) -> None:
        """Store `value`; in a masked place only active lanes are written."""
        buffer, body = node.buffer, self._state.body
        at = self._located(buffer, node.indices[0])
        if buffer in self._registers:
            self._assign((buffer, _start(at)), self._register(buffer, at), value)
            return
        self._versions[buffer] = self._versions.get(buffer, 0) + 1
        name, key = self.names[buffer], storage_key(buffer.dtype)
        if isinstance(at, Idx) and not at.lane and value.lanes == 1 and self.mask is None:
            stored = self._ops.to_memory(value, 1)
            body.line(f"{name}[{self._indices.scalar(at)}] = {stored};")
        elif isinstance(at, Idx) and at.lane == 1:
            self._store_dense(key, f"{name} + {self._indices.scalar(moved(at, at.const))}", value)
        else:
            self._scatter(name, at, value)

    def _store_dense(self, key: str, first: str, value: CodeValue) -> None:
        """Store to consecutive elements from the address `first` on."""
        lanes, prelude = self._state.lanes, self._state.prelude
        stored = self._ops.to_memory(value, lanes)
        if self.mask is None:
            text = f"*({prelude.loaded(key, lanes)} *)({first}) = {stored};"
        else:
            text = f"{prelude.masked_store(key, lanes)}({first}, {self.mask.text}, {stored});"
        self._state.body.line(text)

    def _scatter(self, name: str, at: LaneIndex, value: CodeValue) -> None:
        body, lanes = self._state.body, self._state.lanes
        if value.lanes == 1:
            stored = [self._ops.to_memory(value, 1)] * lanes
        else:
            kind = self._state.prelude.type(storage_key(value.dtype), lanes)
            held = body.op(kind, self._ops.to_memory(value, lanes))
            stored = [f"{held}[{i}]" for i in range(lanes)]
        for lane, (one, text) in enumerate(zip(self._indices.lanes_of(at), stored, strict=True)):
            guard = "" if self.mask is None else f"if ({self.mask.text}[{lane}]) "
            body.line(f"{guard}{name}[{self._indices.scalar(one)}] = {text};")

    def _lanes(self, buffer: Buffer, at: LaneIndex) -> str:
        """The text of a load of one element per lane."""
        name, key, lanes = self.names[buffer], storage_key(buffer.dtype), self._state.lanes
        prelude = self._state.prelude
        if isinstance(at, Idx) and at.lane == 1:
            first = f"{name} + {self._indices.scalar(moved(at, at.const))}"
            if self.mask is None:
                return f"*(const {prelude.loaded(key, lanes)} *)({first})"
            return f"{prelude.masked_load(key, lanes)}({first}, {self.mask.text})"
        texts = [f"{name}[{self._indices.scalar(one)}]" for one in self._indices.lanes_of(at)]
        if self.mask is not None:
            texts = [f"{self.mask.text}[{i}] ? {text} : 0" for i, text in enumerate(texts)]
        return f"({prelude.type(key, lanes)}){{{', '.join(texts)}}}"

    def _assign(self, key: tuple[Buffer, int], variable: CodeValue, value: CodeValue) -> None:
        lanes = variable.lanes
        if value.lanes > lanes:
            raise CodegenError(f"{value.lanes} lanes stored to one element of a register buffer")
        before = self._literals.pop(key, variable)
        if self.mask is not None:
            value = self._ops.select(self._conditions.value(self.mask), value, before)
        if value.const is not None:
            self._literals[key] = value
        self._state.body.line(f"{variable.text} = {self._ops.widen(value, lanes)};")

    def _register(self, buffer: Buffer, at: LaneIndex) -> CodeValue:
        found = None
        if isinstance(at, Idx) and not at.terms:
            found = self._registers[buffer].get(at.const)
        if found is None:
            raise CodegenError(f"register buffer {buffer.name} is indexed by a loop at run time")
        return found

    def _located(self, buffer: Buffer, index: Expr) -> LaneIndex:
        """The element of `buffer` that an access refers to, including its copy per lane."""
        at, expand = self._index.index(index), self._storage.places[buffer].expand
        if not expand:
            return at
        return self._indices.add(self._indices.scale(at, expand), self._indices.position)


def _start(at: LaneIndex) -> int:
    """The first element of the register accessed; `_register` refuses any other."""
    return at.const if isinstance(at, Idx) else -1


def pieces(lanes: int, most: int) -> list[tuple[int, int]]:
    """`lanes` as vectors of powers of two, at most `most` wide: (first lane, width) of each."""
    found, start = [], 0
    while start < lanes:
        width = most
        while width > lanes - start:
            width //= 2
        found.append((start, width))
        start += width
    return found

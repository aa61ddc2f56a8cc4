"""Loads and stores as LLVM text.

An access is analysed once: the open loops give a base pointer, computed in the head of the loop
that binds its last variable; an instance of an unrolled loop adds a constant number of bytes.
Values that the current block has loaded are reused until something is stored to that buffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from loopwright.codegen.affine import Idx, Lanes, LoopFrame, Scalar, constant
from loopwright.codegen.conditions import Cond
from loopwright.codegen.indexing import IndexExpressions
from loopwright.codegen.llvm.cond import LlvmConditions
from loopwright.codegen.llvm.index import Indices, deeper
from loopwright.codegen.llvm.operations import LlvmOperations
from loopwright.codegen.llvm.registers import Registers
from loopwright.codegen.llvm.reuse import ReuseWindow
from loopwright.codegen.llvm.types import (
    compute_type,
    mangled,
    storage_type,
    vector,
    vector_literal,
)
from loopwright.codegen.storage import ALIGN, Home, Storage
from loopwright.codegen.values import CodeValue
from loopwright.errors import CodegenError
from loopwright.ir.expr import Buffer, Expr, Load
from loopwright.ir.stmt import Store
from loopwright.target.cpu import CpuTarget

INVARIANT = "!0"
MAX_STRIDE = 4
"""Up to this stride, lanes are shuffled out of dense loads; beyond it they are gathered."""


class MemoryAccess(NamedTuple):
    """An analysed access, valid while no loop opens or closes (`epoch`).

    The address of lane i is `base + const + sum(coef * unrolled variable) + i * lane + vec` bytes;
    for a register buffer `base` is empty and the unit is elements.
    """

    epoch: int
    base: str
    const: int
    ints: tuple[tuple[str, int], ...]
    lane: int
    align: int
    vec: Lanes | None
    key: tuple[Buffer, str, int, Lanes | None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where buffers are; parameters have the name of a pointer and its alignment in bytes."""

    params: Mapping[Buffer, str]
    alignments: Mapping[Buffer, int]
    storage: Storage
    target: CpuTarget


class Memory:
    """Emits loads and stores at the current point; `mask` says which lanes are active."""

    def __init__(
        self,
        indices: Indices,
        index: IndexExpressions[Idx],
        arith: LlvmOperations,
        conditions: LlvmConditions,
        places: Places,
    ) -> None:
        self._indices = indices
        self._index = index
        self._arith = arith
        self._conditions = conditions
        self._storage = places.storage
        self.registers = Registers(indices, arith)
        self._params = places.params
        self._alignments = places.alignments
        self.mask: Cond | None = None
        self.constants: dict[str, str] = {}
        self._vector_bits = places.target.vector_bits
        self._window = ReuseWindow(places.target.registers)
        self._accesses: dict[Expr | Store, MemoryAccess] = {}
        self._versions: dict[Buffer, int] = {}

    def forget_accesses(self) -> None:
        """Analyse every access again, since the binding of a variable changed."""
        self._accesses.clear()

    def load(self, node: Load) -> CodeValue:
        """The value of `node`; in a masked place only active lanes are read."""
        buffer = node.buffer
        access, offset = self._locate(node, buffer, node.indices)
        if not access.base:
            return self.registers.read(buffer, offset)
        text = self._indices.text
        mask = "" if self.mask is None else self.mask.text
        key = (access.key, offset, self._versions.get(buffer, 0), mask)
        lanes = 1 if access.lane == 0 and access.vec is None else self._indices.lanes
        found = text.recall(key)
        if found is not None and self._window.use(key):
            return CodeValue(found, buffer.dtype, lanes)
        self._window.before_load(key, text)
        value = self._read(buffer, access, offset, lanes)
        text.layers[-1][key] = value.text
        cost = -(-lanes * buffer.dtype.bits // self._vector_bits)
        self._window.keep(key, cost, self.registers.count(self._vector_bits))
        return value

    def load_or(self, node: Load, cond: Cond, other: CodeValue) -> CodeValue | None:
        """`node if cond else other` without a branch: the address is chosen, not the value.

        None when that is not possible: a register buffer, strided lanes, or `other` not a literal.
        """
        if other.const is None or compute_type(other.dtype) != storage_type(other.dtype):
            return None
        if self._storage.places[node.buffer].home is Home.REGISTERS:
            return None
        access, offset = self._locate(node, node.buffer, node.indices)
        dense = access.vec is None and access.lane in (0, node.buffer.dtype.nbytes)
        if not dense or cond.is_mask or self.mask is not None:
            return None
        lanes = 1 if access.lane == 0 else self._indices.lanes
        constant = self.constant(other, lanes)
        address = self._at(access.base, offset)
        text = self._indices.text
        chosen = text.op(f"select i1 {cond.text}, ptr {address}, ptr {constant}")
        kind = vector(storage_type(node.buffer.dtype), lanes)
        align = _alignment(access.align, offset)
        loaded = text.op(f"load {kind}, ptr {chosen}, align {align}")
        return self._arith.from_memory(loaded, node.buffer.dtype, lanes)

    def store(self, node: Store, value: CodeValue) -> None:
        """Store `value`; in a masked place only active lanes are written."""
        buffer = node.buffer
        access, offset = self._locate(node, buffer, node.indices)
        if not access.base:
            mask = None if self.mask is None else self._conditions.value(self.mask)
            self.registers.write(buffer, offset, value, mask)
            return
        self._versions[buffer] = self._versions.get(buffer, 0) + 1
        nbytes = buffer.dtype.nbytes
        if access.vec is None and access.lane == 0 and value.lanes == 1:
            self._write(buffer, access, offset, value, 1)
        elif access.vec is None and access.lane == nbytes:
            self._write(buffer, access, offset, value, self._indices.lanes)
        else:
            self._scatter(buffer, access, offset, value)

    def constant(self, value: CodeValue, lanes: int) -> str:
        """A pointer to `value`, a literal, `lanes` times in read-only memory."""
        kind = vector(storage_type(value.dtype), lanes)
        content = f"{kind} {self._arith.widen(value, lanes)}"
        return self.constants.setdefault(content, f"@constant{len(self.constants)}")

    def _write(
        self, buffer: Buffer, access: MemoryAccess, offset: int, value: CodeValue, lanes: int
    ) -> None:
        stored = self._arith.to_memory(value, lanes)
        address = self._at(access.base, offset)
        scalar = storage_type(buffer.dtype)
        kind = vector(scalar, lanes)
        align = _alignment(access.align, offset)
        if self.mask is None or lanes == 1:
            self._indices.text.lines.append(
                f"  store {kind} {stored}, ptr {address}, align {align}"
            )
            return
        name = f"llvm.masked.store.{mangled(scalar, lanes)}.p0"
        mask = self._conditions.mask(self.mask)
        flags = vector("i1", lanes)
        self._effect(name, (kind, stored), ("ptr", address), ("i32", str(align)), (flags, mask))

    def _scatter(self, buffer: Buffer, access: MemoryAccess, offset: int, value: CodeValue) -> None:
        lanes, scalar = self._indices.lanes, storage_type(buffer.dtype)
        stored = self._arith.to_memory(value, lanes)
        pointers = self._pointers(access, offset)
        mask = "splat (i1 true)" if self.mask is None else self._conditions.mask(self.mask)
        name = f"llvm.masked.scatter.{mangled(scalar, lanes)}.v{lanes}p0"
        kind, flags = vector(scalar, lanes), vector("i1", lanes)
        align = str(buffer.dtype.nbytes)
        self._effect(
            name, (kind, stored), (vector("ptr", lanes), pointers), ("i32", align), (flags, mask)
        )

    def _effect(self, name: str, *args: tuple[str, str]) -> None:
        types = ", ".join(kind for kind, _ in args)
        self._arith.declared.setdefault(name, f"declare void @{name}({types})")
        shown = ", ".join(f"{kind} {text}" for kind, text in args)
        self._indices.text.lines.append(f"  call void @{name}({shown})")

    def _read(self, buffer: Buffer, access: MemoryAccess, offset: int, lanes: int) -> CodeValue:
        scalar, nbytes = storage_type(buffer.dtype), buffer.dtype.nbytes
        if lanes == 1 or (access.vec is None and access.lane == nbytes):
            text = self._dense(buffer, access, offset, lanes)
        elif self._can_pick(access, nbytes):
            text = self._pick(buffer, access, offset)
        else:
            pointers = self._pointers(access, offset)
            mask = "splat (i1 true)" if self.mask is None else self._conditions.mask(self.mask)
            kind = vector(scalar, lanes)
            text = self._arith.call(
                f"llvm.masked.gather.{mangled(scalar, lanes)}.v{lanes}p0",
                kind,
                (vector("ptr", lanes), pointers),
                ("i32", str(nbytes)),
                (vector("i1", lanes), mask),
                (kind, "zeroinitializer"),
            )
        return self._arith.from_memory(text, buffer.dtype, lanes)

    def _dense(self, buffer: Buffer, access: MemoryAccess, offset: int, lanes: int) -> str:
        """A load of one element, or of consecutive ones (of those that the mask has)."""
        address = self._at(access.base, offset)
        scalar = storage_type(buffer.dtype)
        kind, align = vector(scalar, lanes), _alignment(access.align, offset)
        if self.mask is None or lanes == 1:
            note = "" if buffer in self._storage.stored else f", !invariant.load {INVARIANT}"
            return self._indices.text.op(f"load {kind}, ptr {address}, align {align}{note}")
        return self._arith.call(
            f"llvm.masked.load.{mangled(scalar, lanes)}.p0",
            kind,
            ("ptr", address),
            ("i32", str(align)),
            (vector("i1", lanes), self._conditions.mask(self.mask)),
            (kind, "zeroinitializer"),
        )

    def _can_pick(self, access: MemoryAccess, nbytes: int) -> bool:
        if access.vec is not None or self.mask is not None or access.lane % nbytes:
            return False
        return abs(access.lane // nbytes) <= MAX_STRIDE

    def _pick(self, buffer: Buffer, access: MemoryAccess, offset: int) -> str:
        """Lanes at a small stride, out of dense loads between the first and the last of them."""
        text, lanes, nbytes = self._indices.text, self._indices.lanes, buffer.dtype.nbytes
        stride = access.lane // nbytes
        step = abs(stride)
        first = offset + min(0, stride) * (lanes - 1) * nbytes
        positions = [i * step for i in range(lanes)]
        if stride < 0:
            positions.reverse()
        starts = [part * lanes for part in range(step - 1)] + [(lanes - 1) * step + 1 - lanes]
        kind = vector(storage_type(buffer.dtype), lanes)
        result = self._dense(buffer, access, first, lanes)
        where = [p if p < lanes else -1 for p in positions]
        for start in starts[1:] or [lanes]:
            loaded = result
            if len(starts) > 1:
                loaded = self._dense(buffer, access, first + start * nbytes, lanes)
            for i, position in enumerate(positions):
                if where[i] < 0 and start <= position < start + lanes:
                    where[i] = lanes + position - start
            order = vector_literal("i32", [max(0, w) for w in where])
            result = text.op(
                f"shufflevector {kind} {result}, {kind} {loaded}, <{lanes} x i32> {order}"
            )
            where = [i if w >= 0 else -1 for i, w in enumerate(where)]
        return result

    def _pointers(self, access: MemoryAccess, offset: int) -> str:
        """A vector of pointers, one per lane."""
        indices, lanes = self._indices, self._indices.lanes
        offsets = [offset + access.lane * i for i in range(lanes)]
        wide = vector_literal("i64", offsets)
        if access.vec is not None:
            wide = indices.text.op(f"add <{lanes} x i64> {access.vec.text}, {wide}")
        return indices.text.op(f"getelementptr i8, ptr {access.base}, <{lanes} x i64> {wide}")

    def _at(self, base: str, offset: int) -> str:
        return (
            self._indices.text.op(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base
        )

    def _locate(
        self, node: Load | Store, buffer: Buffer, indices: tuple[Expr, ...]
    ) -> tuple[MemoryAccess, int]:
        """The analysed access and the constant offset of this instance from its base."""
        access = self._accesses.get(node)
        if access is None or access.epoch != self._indices.epoch:
            access = self._analyse(buffer, indices[0])
            if not self._index.form(indices[0]).atoms.terms:
                self._accesses[node] = access
        total = access.const
        env = self._indices.env
        for name, coef in access.ints:
            total += env[name] * coef  # type: ignore[operator]  # `ints` are bound to integers
        return access, total

    def _analyse(self, buffer: Buffer, index: Expr) -> MemoryAccess:
        indices, place = self._indices, self._storage.places[buffer]
        form, env = self._index.form(index), indices.env
        in_registers = place.home is Home.REGISTERS
        unit = (1 if in_registers else buffer.dtype.nbytes) * max(1, place.expand)
        ints: list[tuple[str, int]] = []
        affine = not form.atoms.terms
        total = constant(form.variables.const) if affine else self._index.index(index)
        for name, coef in form.variables.terms.items() if affine else ():
            bound = env.get(name)
            if bound is None:
                raise CodegenError(f"{buffer.name}: variable {name} is not bound by an open loop")
            if isinstance(bound, int):
                ints.append((name, coef * unit))
            else:
                total = indices.add(total, indices.scale(bound, coef))
        total = indices.scale(total, unit)
        if place.expand:
            total = indices.add(total, constant(0, unit // place.expand))
        base, align = "", ALIGN
        if not in_registers:
            known = self._alignments.get(buffer, ALIGN)
            align = math.gcd(known, *total.terms.values())
            base = self._advance(self._base(buffer), total.terms)
        elif total.terms or total.vec is not None:
            raise CodegenError(f"register buffer {buffer.name} is indexed by a loop at run time")
        key = (buffer, base, total.lane, total.vec)
        return MemoryAccess(
            epoch=indices.epoch,
            base=base,
            const=total.const,
            ints=tuple(ints),
            lane=total.lane,
            align=align,
            vec=total.vec,
            key=key,
        )

    def _advance(self, base: str, terms: Mapping[Scalar, int]) -> str:
        """`base + sum(coef * term)` bytes: a step in the head of each loop that binds a term."""
        text = self._indices.text
        frame: LoopFrame | None = text.frames[0]
        order = sorted(
            terms.items(),
            key=lambda item: 1 << 30 if item[0].frame is None else item[0].frame.depth,
        )
        for term, coef in order:
            frame = deeper(frame, term.frame)
            part = self._indices.product(term, coef)
            base = text.hoisted(
                ("gep", base, part), frame, f"getelementptr i8, ptr {base}, i64 {part}"
            )
        return base

    def _base(self, buffer: Buffer) -> str:
        """The pointer to the first byte of `buffer` in the current function."""
        place, text = self._storage.places[buffer], self._indices.text
        outer = text.frames[0]
        if place.home is Home.PARAM:
            return self._params[buffer]
        if place.home is Home.STACK:
            count = buffer.nbytes * max(1, place.expand)
            return text.hoisted(("alloca", buffer), outer, f"alloca [{count} x i8], align {ALIGN}")
        area = "%shared" if place.home is Home.SHARED else "%own"
        return text.hoisted(
            ("gep", area, place.offset), outer, f"getelementptr i8, ptr {area}, i64 {place.offset}"
        )


def _alignment(base: int, offset: int) -> int:
    """The largest power of two that divides both, at most ALIGN."""
    both = base | offset
    return both & -both

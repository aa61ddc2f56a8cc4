"""Register buffers as SSA values: one value per slot, phis at loops and joins.

A slot is `lanes` consecutive elements that begin at a multiple of `lanes`. A slot that has not been
stored to holds `poison`: the contents of an `Alloc` are undefined.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from loopwright.codegen.llvm.index import Indices
from loopwright.codegen.llvm.operations import LlvmOperations
from loopwright.codegen.llvm.types import value_type
from loopwright.codegen.storage import BufferPlace
from loopwright.codegen.values import CodeValue
from loopwright.errors import CodegenError
from loopwright.ir.expr import Buffer


class Carried(NamedTuple):
    """A slot that a loop carries: its phi and the value it enters with."""

    buffer: Buffer
    slot: int
    phi: str
    initial: str


class Registers:
    """The current value of every slot of every register buffer that is alive."""

    def __init__(self, indices: Indices, arith: LlvmOperations) -> None:
        self._indices = indices
        self._arith = arith
        self._slots: dict[Buffer, list[CodeValue]] = {}
        self._lanes: dict[Buffer, int] = {}
        self._count: int | None = None

    def declare(self, buffer: Buffer, place: BufferPlace) -> None:
        """Begin the life of `buffer`: every slot is undefined."""
        size = buffer.size * max(1, place.expand)
        empty = CodeValue("poison", buffer.dtype, place.lanes)
        self._slots[buffer] = [empty] * (size // place.lanes)
        self._lanes[buffer] = place.lanes
        self._count = None

    def forget(self, buffer: Buffer) -> None:
        """End the life of `buffer`."""
        del self._slots[buffer]
        self._count = None

    def count(self, vector_bits: int) -> int:
        """The vector registers that all slots take together."""
        if self._count is None:
            self._count = sum(
                len(slots) * -(-self._lanes[buffer] * buffer.dtype.bits // vector_bits)
                for buffer, slots in self._slots.items()
            )
        return self._count

    def read(self, buffer: Buffer, element: int) -> CodeValue:
        """The slot that begins at `element`."""
        return self._slots[buffer][self._slot(buffer, element)]

    def write(self, buffer: Buffer, element: int, value: CodeValue, mask: CodeValue | None) -> None:
        """Store `value` to the slot that begins at `element`, where `mask` holds."""
        slot = self._slot(buffer, element)
        if mask is not None:
            value = self._arith.select(mask, value, self._slots[buffer][slot])
        self._slots[buffer][slot] = value

    def enter_loop(self, changed: Iterable[Buffer]) -> list[Carried]:
        """Make a phi of each slot that the loop may change. Call at the end of the block before."""
        carried: list[Carried] = []
        for buffer in self._alive(changed):
            lanes, slots = self._lanes[buffer], self._slots[buffer]
            for slot, value in enumerate(slots):
                initial = self._arith.widen(value, lanes)
                phi = self._indices.text.name()
                carried.append(Carried(buffer, slot, phi, initial))
                slots[slot] = CodeValue(phi, buffer.dtype, lanes)
        return carried

    def leave_loop(self, carried: list[Carried], before: str, phis: list[str]) -> None:
        """Write the phis of a loop entered from block `before`. Call at the end of its body."""
        latches: list[str] = []
        for buffer, slot, _, _ in carried:
            value = self._slots[buffer][slot]
            latches.append(self._arith.widen(value, self._lanes[buffer]))
        block = self._indices.text.block
        for (buffer, slot, phi, initial), latch in zip(carried, latches, strict=True):
            lanes = self._lanes[buffer]
            kind = value_type(buffer.dtype, lanes)
            phis.append(f"  {phi} = phi {kind} [ {initial}, %{before} ], [ {latch}, %{block} ]")
            self._slots[buffer][slot] = CodeValue(latch, buffer.dtype, lanes)

    def snapshot(self, changed: Iterable[Buffer]) -> dict[Buffer, list[CodeValue]]:
        """The current slots of the buffers in `changed`."""
        return {buffer: list(self._slots[buffer]) for buffer in self._alive(changed)}

    def restore(self, snapshot: dict[Buffer, list[CodeValue]]) -> None:
        """Restore what `snapshot` returned."""
        for buffer, slots in snapshot.items():
            self._slots[buffer] = list(slots)

    def settle(self, changed: Iterable[Buffer]) -> None:
        """Splat every scalar in a slot of several lanes, so that a join can merge it."""
        for buffer in self._alive(changed):
            lanes = self._lanes[buffer]
            self._slots[buffer] = [
                v if v.lanes == lanes else CodeValue(self._arith.widen(v, lanes), v.dtype, lanes)
                for v in self._slots[buffer]
            ]

    def join(self, sides: list[tuple[str, dict[Buffer, list[CodeValue]]]]) -> None:
        """Merge the two (block, snapshot) that meet at the start of the current block."""
        (left, ours), (right, theirs) = sides
        for buffer, slots in ours.items():
            merged = self._slots[buffer]
            for slot, (a, b) in enumerate(zip(slots, theirs[buffer], strict=True)):
                if a.text == b.text:
                    merged[slot] = a
                    continue
                kind = value_type(buffer.dtype, self._lanes[buffer])
                text = self._indices.text.op(
                    f"phi {kind} [ {a.text}, %{left} ], [ {b.text}, %{right} ]"
                )
                merged[slot] = CodeValue(text, buffer.dtype, self._lanes[buffer])

    def _alive(self, buffers: Iterable[Buffer]) -> list[Buffer]:
        return sorted((b for b in buffers if b in self._slots), key=lambda b: b.name)

    def _slot(self, buffer: Buffer, element: int) -> int:
        slot, rest = divmod(element, self._lanes[buffer])
        if rest or not 0 <= slot < len(self._slots[buffer]):
            raise CodegenError(
                f"register buffer {buffer.name}[{buffer.size}] is accessed at element {element}, "
                f"which is not one of its {len(self._slots[buffer])} slots"
            )
        return slot

"""Objects as one image: laid out, relocated and written for the address where it will run.

It knows the machine that the objects are for, not the one it runs on: the linker gives the memory,
its address, and the addresses of undefined symbols.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from loopwright.errors import EnvironmentFailure
from loopwright.runtime.object import elf
from loopwright.runtime.object.elf import X86_64, Object, Symbol
from loopwright.runtime.object.relocate import STUB_BYTES, SymbolReach, rule, stub

READ, WRITE, EXECUTE = 1, 2, 4
_SLOT_BYTES = 8


@dataclass(slots=True)
class Region:
    """A run of pages with one protection; `start` and `size` are bytes of the image."""

    protection: int
    start: int = 0
    size: int = 0
    places: dict[tuple[int, int], int] = field(default_factory=dict)  # section -> offset in it

    def add(self, key: tuple[int, int], size: int, alignment: int) -> None:
        """Append a section of `size` bytes."""
        at = -(-self.size // alignment) * alignment
        self.places[key] = at
        self.size = at + size


class Image:
    """The memory of objects that may refer to each other. `size` is in bytes: whole pages, not 0.

    `code` is the region that holds instructions. Raises: EnvironmentFailure for a name that two
    objects define, and for a relocation that is not known.
    """

    def __init__(self, objects: Sequence[Object]) -> None:
        self._objects = objects
        self.machine = objects[0].machine if objects else X86_64
        self._globals = dict(_defined(objects))
        self.code = Region(READ | EXECUTE)
        self._constants = Region(READ)
        self._data = Region(READ | WRITE)
        self.regions = (self.code, self._constants, self._data)
        self._place_sections()
        calls, slots = self._count_extras()
        self._stubs_at = self._reserve(self.code, calls * STUB_BYTES)
        self._slots_at = self._reserve(self._constants, slots * _SLOT_BYTES)
        total = 0
        for region in self.regions:
            region.start = total
            total += -(-region.size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.size = max(total, mmap.PAGESIZE)

    def require(self, symbols: Sequence[str]) -> None:
        """Raise EnvironmentFailure if no object defines one of `symbols`."""
        for name in symbols:
            if name not in self._globals:
                raise EnvironmentFailure(f"it has no symbol {name}")

    def write(self, view: memoryview, base: int, find: Callable[[Symbol], int]) -> None:
        """Fill the zeroed `view` with the image as it runs at the address `base`.

        `find` gives the address of an undefined symbol. Raises: EnvironmentFailure for what cannot
        be reached from there.
        """
        find = functools.cache(find)
        for number, found in enumerate(self._objects):
            for index, section in found.sections.items():
                at = self._offset(number, index)
                view[at : at + len(section.data)] = section.data
        stubs = _Extra(view, base, self.code.start + self._stubs_at)
        slots = _Extra(view, base, self._constants.start + self._slots_at)
        anchor = slots.start
        for number, found in enumerate(self._objects):
            for relocation in found.relocations:
                at = self._offset(number, relocation.section) + relocation.offset
                symbol = found.symbols[relocation.symbol]
                reach, patch = rule(found.machine, relocation.kind)
                target = anchor
                if reach is not SymbolReach.ANCHOR:
                    target = self._resolve(number, symbol, base, find)
                if reach is SymbolReach.CALL and self._is_outside(symbol):
                    target = stubs.of(target, stub(found.machine, target))
                elif reach in (SymbolReach.SLOT, SymbolReach.SLOT_FROM_ANCHOR):
                    target = slots.of(target, target.to_bytes(_SLOT_BYTES, "little"))
                if reach in (SymbolReach.FROM_ANCHOR, SymbolReach.SLOT_FROM_ANCHOR):
                    target -= anchor
                patch(view[at:], base + at, target + relocation.addend)

    def address(self, name: str, base: int) -> int:
        """The address of the symbol `name` in an image at `base`."""
        return base + self._place(*self._globals[name])

    def _place_sections(self) -> None:
        for number, found in enumerate(self._objects):
            for index, section in found.sections.items():
                region = self._data if section.writable else self._constants
                if section.executable:
                    region = self.code
                region.add((number, index), section.size, section.alignment)

    def _count_extras(self) -> tuple[int, int]:
        """The most stubs and slots there can be."""
        calls: set[tuple[int, int]] = set()
        slots: set[tuple[int, int]] = set()
        for number, found in enumerate(self._objects):
            for relocation in found.relocations:
                reach, _ = rule(found.machine, relocation.kind)
                if reach is SymbolReach.CALL:
                    calls.add((number, relocation.symbol))
                elif reach in (SymbolReach.SLOT, SymbolReach.SLOT_FROM_ANCHOR):
                    slots.add((number, relocation.symbol))
        return len(calls), len(slots)

    @staticmethod
    def _reserve(region: Region, size: int) -> int:
        region.add((-1, -1), size, STUB_BYTES)
        return region.places[-1, -1]

    def _resolve(
        self, number: int, symbol: Symbol, base: int, find: Callable[[Symbol], int]
    ) -> int:
        """The address of a symbol as object `number` sees it."""
        if symbol.section is not None and not symbol.is_global:
            return base + self._place(number, symbol)
        defined = self._globals.get(symbol.name)
        if defined is not None:
            return base + self._place(*defined)
        return find(symbol)

    def _is_outside(self, symbol: Symbol) -> bool:
        return symbol.section is None and symbol.name not in self._globals

    def _place(self, number: int, symbol: Symbol) -> int:
        """The offset in the image of a symbol that object `number` defines."""
        if symbol.section is None:
            raise EnvironmentFailure(f"{symbol.name or 'a symbol'} is not defined")
        return self._offset(number, symbol.section) + symbol.value

    def _offset(self, number: int, section: int) -> int:
        for region in self.regions:
            at = region.places.get((number, section))
            if at is not None:
                return region.start + at
        raise EnvironmentFailure("a relocation in a section that is not loaded")


class _Extra:
    """Stubs or slots, one for each target, in memory reserved for them."""

    def __init__(self, view: memoryview, base: int, start: int) -> None:
        self.start = base + start
        self._view = view
        self._base = base
        self._next = start
        self._known: dict[int, int] = {}

    def of(self, target: int, content: bytes) -> int:
        """The address of the one for `target`, made from `content` if it is new."""
        if target not in self._known:
            self._view[self._next : self._next + len(content)] = content
            self._known[target] = self._base + self._next
            self._next += len(content)
        return self._known[target]


def _defined(objects: Sequence[Object]) -> Iterator[tuple[str, tuple[int, Symbol]]]:
    """Each global name with the object that defines it; strong before weak.

    Raises: EnvironmentFailure for a name that two objects define.
    """
    found: dict[str, tuple[int, Symbol]] = {}
    for number, one in enumerate(objects):
        for symbol in one.symbols:
            if not symbol.is_global or symbol.section is None:
                continue
            before = found.get(symbol.name)
            if before is None or before[1].binding == elf.WEAK:
                found[symbol.name] = (number, symbol)
            elif symbol.binding != elf.WEAK:
                raise EnvironmentFailure(f"two objects define {symbol.name}")
    yield from found.items()

"""Object code into this process: a linker for what our code generator writes, and nothing else.

It is ours and not LLVM's because what runs models and measures candidates shall not carry a
compiler: it would be in the memory of every process that runs a model, and a board that is measured
has none. A broken object, a missing symbol or an unknown relocation raises; nothing of an object
runs while it is linked.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loopwright.errors import EnvironmentFailure
from loopwright.runtime import elf
from loopwright.runtime.elf import AARCH64, X86_64, Object, Symbol
from loopwright.runtime.relocate import STUB_BYTES, Reach, rule, stub

_MACHINES = {"x86_64": X86_64, "amd64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}
_LIBRARIES = (
    "libm.so.6",
    "libgcc_s.so.1",
)  # where the process itself has not what code uses
_SLOT_BYTES = 8
_READ, _WRITE, _EXECUTE = 1, 2, 4


class Linked:
    """Code in memory; it goes when this goes. `linked[symbol]` is a symbol's address."""

    def __init__(self, memory: mmap.mmap, hold: object, addresses: dict[str, int]) -> None:
        self._memory = memory
        self._hold = hold
        self._addresses = addresses

    def __getitem__(self, symbol: str) -> int:
        return self._addresses[symbol]


def link(code: bytes, symbols: Sequence[str]) -> Linked:
    """The object `code` in memory with the addresses of `symbols`; it may use libc and libm.

    Raises: EnvironmentFailure if the object is broken, or needs or lacks a symbol.
    """
    return link_all([code], symbols)


def link_all(objects: Sequence[bytes], symbols: Sequence[str]) -> Linked:
    """Objects that may use each other in memory, with the addresses of `symbols`.

    Raises: EnvironmentFailure if an object is broken, or needs or lacks a symbol.
    """
    try:
        return _Linker([elf.parse(code) for code in objects]).link(symbols)
    except EnvironmentFailure as error:
        raise EnvironmentFailure(
            f"cannot link {_size(objects)} for {', '.join(symbols)}: {error}"
        ) from error


@dataclass(slots=True)
class _Region:
    """A run of pages with one protection."""

    protection: int
    start: int = 0
    size: int = 0
    places: dict[tuple[int, int], int] = field(default_factory=dict)  # section -> offset in it

    def add(self, key: tuple[int, int], size: int, alignment: int) -> None:
        at = -(-self.size // alignment) * alignment
        self.places[key] = at
        self.size = at + size


class _Linker:
    def __init__(self, objects: Sequence[Object]) -> None:
        machine = _MACHINES.get(platform.machine())
        for found in objects:
            if found.machine != machine:
                raise EnvironmentFailure(
                    f"the object code is for machine {found.machine}, not {platform.machine()}"
                )
        self._objects = objects
        self._machine = objects[0].machine if objects else X86_64
        self._globals = dict(_defined(objects))
        self._code = _Region(_READ | _EXECUTE)
        self._constants = _Region(_READ)
        self._data = _Region(_READ | _WRITE)
        self._regions = (self._code, self._constants, self._data)
        self._outside: dict[str, int] = {}
        self._base = 0

    def link(self, symbols: Sequence[str]) -> Linked:
        for name in symbols:
            if name not in self._globals:
                raise EnvironmentFailure(f"it has no symbol {name}")
        self._place_sections()
        calls, slots = self._count_extras()
        stubs_at = self._reserve(self._code, calls * STUB_BYTES)
        slots_at = self._reserve(self._constants, slots * _SLOT_BYTES)
        total = 0
        for region in self._regions:
            region.start = total
            total += -(-region.size // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, max(total, mmap.PAGESIZE))
        hold = ctypes.c_char.from_buffer(memory)
        self._base = ctypes.addressof(hold)
        view = memoryview(memory)
        self._copy(view)
        self._relocate(
            view,
            _Extra(view, self._base, self._code.start + stubs_at),
            _Extra(view, self._base, self._constants.start + slots_at),
        )
        view.release()
        self._protect()
        where = {name: self._address(*self._globals[name]) for name in symbols}
        return Linked(memory, hold, where)

    def _place_sections(self) -> None:
        for number, found in enumerate(self._objects):
            for index, section in found.sections.items():
                region = self._data if section.writable else self._constants
                if section.executable:
                    region = self._code
                region.add((number, index), section.size, section.alignment)

    def _count_extras(self) -> tuple[int, int]:
        """How many stubs and slots there can be at most."""
        calls: set[tuple[int, int]] = set()
        slots: set[tuple[int, int]] = set()
        for number, found in enumerate(self._objects):
            for relocation in found.relocations:
                reach, _ = rule(found.machine, relocation.kind)
                if reach is Reach.CALL:
                    calls.add((number, relocation.symbol))
                elif reach in (Reach.SLOT, Reach.SLOT_FROM_ANCHOR):
                    slots.add((number, relocation.symbol))
        return len(calls), len(slots)

    @staticmethod
    def _reserve(region: _Region, size: int) -> int:
        region.add((-1, -1), size, STUB_BYTES)
        return region.places[-1, -1]

    def _copy(self, view: memoryview) -> None:
        for number, found in enumerate(self._objects):
            for index, section in found.sections.items():
                at = self._offset(number, index)
                view[at : at + len(section.data)] = section.data

    def _relocate(self, view: memoryview, stubs: _Extra, slots: _Extra) -> None:
        anchor = slots.start
        for number, found in enumerate(self._objects):
            for relocation in found.relocations:
                at = self._offset(number, relocation.section) + relocation.offset
                symbol = found.symbols[relocation.symbol]
                reach, write = rule(found.machine, relocation.kind)
                target = anchor if reach is Reach.ANCHOR else self._resolve(number, symbol)
                if reach is Reach.CALL and self._is_outside(symbol):
                    target = stubs.of(target, stub(found.machine, target))
                elif reach in (Reach.SLOT, Reach.SLOT_FROM_ANCHOR):
                    target = slots.of(target, target.to_bytes(_SLOT_BYTES, "little"))
                if reach in (Reach.FROM_ANCHOR, Reach.SLOT_FROM_ANCHOR):
                    target -= anchor
                write(view[at:], self._base + at, target + relocation.addend)

    def _resolve(self, number: int, symbol: Symbol) -> int:
        """The address of a symbol as object `number` sees it."""
        if symbol.section is not None and not symbol.is_global:
            return self._address(number, symbol)
        defined = self._globals.get(symbol.name)
        if defined is not None:
            return self._address(*defined)
        if symbol.name not in self._outside:
            self._outside[symbol.name] = _find(symbol)
        return self._outside[symbol.name]

    def _is_outside(self, symbol: Symbol) -> bool:
        return symbol.section is None and symbol.name not in self._globals

    def _address(self, number: int, symbol: Symbol) -> int:
        if symbol.section is None:
            raise EnvironmentFailure(f"{symbol.name or 'a symbol'} is not defined")
        return self._base + self._offset(number, symbol.section) + symbol.value

    def _offset(self, number: int, section: int) -> int:
        for region in self._regions:
            at = region.places.get((number, section))
            if at is not None:
                return region.start + at
        raise EnvironmentFailure("a relocation in a section that is not loaded")

    def _protect(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for region in self._regions:
            size = -(-region.size // mmap.PAGESIZE) * mmap.PAGESIZE
            address = self._base + region.start
            if size and libc.mprotect(
                ctypes.c_void_p(address), ctypes.c_size_t(size), region.protection
            ):
                raise EnvironmentFailure(f"cannot protect {size} bytes of code: {_last_error()}")
        if self._machine == AARCH64:
            end = ctypes.c_void_p(self._base + self._code.start + self._code.size)
            clear = ctypes.CDLL("libgcc_s.so.1")["__clear_cache"]
            clear(ctypes.c_void_p(self._base + self._code.start), end)


class _Extra:
    """Stubs or slots, one for each target, in memory reserved for them."""

    def __init__(self, view: memoryview, base: int, start: int) -> None:
        self.start = base + start
        self._view = view
        self._base = base
        self._next = start
        self._known: dict[int, int] = {}

    def of(self, target: int, content: bytes) -> int:
        """The address of the one for `target`, made of `content` if it is new."""
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


def _find(symbol: Symbol) -> int:
    """The address of a symbol of the C library.

    Raises: EnvironmentFailure when there is none, which a weak symbol allows.
    """
    for library in (None, *_LIBRARIES):
        try:
            function = ctypes.CDLL(library)[symbol.name]
        except (OSError, AttributeError, ValueError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    if symbol.binding == elf.WEAK:
        return 0
    raise EnvironmentFailure(f"it needs the symbol {symbol.name}, which is not there")


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())


def _size(objects: Sequence[bytes]) -> str:
    if len(objects) == 1:
        return f"an object of {len(objects[0])} bytes"
    return f"{len(objects)} objects of {sum(map(len, objects))} bytes"

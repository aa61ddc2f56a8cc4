"""Reads relocatable ELF objects: sections, symbols and relocations, every offset checked.

Format: System V ABI, chapters 4 and 5 of the generic ABI, 64 bit, little endian. It reads only what
code generators for x86-64 and AArch64 write, and touches no memory that code runs in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from loopwright.errors import EnvironmentFailure

X86_64, AARCH64 = 62, 183
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bit, little endian, version 1
_RELOCATABLE = 1
_PROGBITS, _SYMTAB, _RELA, _NOBITS = 1, 2, 4, 8
_WRITE, _ALLOC, _EXECINSTR, _TLS = 1, 2, 4, 0x400
_ABSOLUTE, _COMMON, _RESERVED = 0xFFF1, 0xFFF2, 0xFF00
LOCAL, WEAK = 0, 2
_MAX_BYTES = 1 << 30
_CONSTRUCTORS = (".init", ".ctors", ".preinit_array")
_UNWINDING = ".eh_frame"  # our code does not throw


@dataclass(frozen=True, slots=True)
class ElfSection:
    """Memory that an object needs. `data` is shorter than `size` where the rest is zeros."""

    name: str
    data: memoryview
    size: int
    alignment: int
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol. `section` is an index into `Object.sections`, None if not defined here."""

    name: str
    section: int | None
    value: int
    binding: int

    @property
    def is_global(self) -> bool:
        """Whether other objects see it."""
        return self.binding != LOCAL


@dataclass(frozen=True, slots=True)
class Relocation:
    """`offset` in `section` gets a value computed from the address of `symbol` and `addend`."""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class Object:
    """One relocatable object for `machine`; `sections` by the index that symbols use."""

    machine: int
    sections: dict[int, ElfSection]
    symbols: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]


def parse(code: bytes) -> Object:
    """The object that `code` holds.

    Raises: EnvironmentFailure for bytes that are not such an object.
    """
    try:
        return _Reader(memoryview(code)).read()
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise EnvironmentFailure(f"the object code is broken: {error}") from error


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data = data

    def read(self) -> Object:
        if bytes(self._data[: len(_IDENT)]) != _IDENT:
            raise EnvironmentFailure("the object code is broken: it is not a 64-bit ELF file")
        head = _HEADER.unpack_from(self._data)
        if head[1] != _RELOCATABLE:
            raise EnvironmentFailure("the object code is broken: it is not a relocatable object")
        headers = self._headers(head[6], head[11], head[12])
        names = self._bytes(headers[head[13]])
        sections = {
            index: self._section(header, _text(names, header[0]))
            for index, header in enumerate(headers)
            if _is_loaded(header, _text(names, header[0]))
        }
        if any(_text(names, header[0]).startswith(_CONSTRUCTORS) for header in headers):
            raise ValueError("it wants to run code while it is loaded")
        tables = [h for h in headers if h[1] == _SYMTAB]
        if len(tables) != 1:
            raise ValueError(f"{len(tables)} symbol tables")
        symbols = tuple(self._symbols(tables[0], headers, sections))
        relocations = tuple(self._relocations(headers, sections, len(symbols)))
        return Object(head[2], sections, symbols, relocations)

    def _headers(self, offset: int, size: int, count: int) -> list[tuple[int, ...]]:
        if size != _SECTION.size:
            raise ValueError(f"section headers of {size} bytes")
        table = self._slice(offset, size * count)
        return list(_SECTION.iter_unpack(table))

    def _section(self, header: tuple[int, ...], name: str) -> ElfSection:
        _, kind, flags, _, _, size, _, _, alignment, _ = header
        alignment = max(alignment, 1)
        if size > _MAX_BYTES or alignment & (alignment - 1) or alignment > 4096 or flags & _TLS:
            raise ValueError(f"section {name} has size {size}, alignment {alignment}")
        data = self._data[:0] if kind == _NOBITS else self._bytes(header)
        writable, executable = bool(flags & _WRITE), bool(flags & _EXECINSTR)
        return ElfSection(name, data, size, alignment, writable, executable)

    def _symbols(
        self,
        table: tuple[int, ...],
        headers: list[tuple[int, ...]],
        sections: dict[int, ElfSection],
    ) -> Iterator[Symbol]:
        names = self._bytes(headers[table[6]])
        for name, info, _, place, value, _ in _SYMBOL.iter_unpack(self._bytes(table)):
            if place >= _RESERVED and place not in (_ABSOLUTE, _COMMON):
                raise ValueError(f"a symbol in section {place:#x}")
            if place == _COMMON:
                raise ValueError("a common symbol")
            here = place if place in sections else None
            if here is not None and value > sections[here].size:
                raise ValueError(f"a symbol {value} bytes into {sections[here].name}")
            yield Symbol(_text(names, name), here, value, info >> 4)

    def _relocations(
        self, headers: list[tuple[int, ...]], sections: dict[int, ElfSection], symbols: int
    ) -> Iterator[Relocation]:
        for header in headers:
            if header[1] != _RELA or header[7] not in sections:
                continue
            target = sections[header[7]]
            for offset, info, addend in _RELOCATION.iter_unpack(self._bytes(header)):
                symbol = info >> 32
                if symbol >= symbols or offset + 4 > len(target.data):
                    raise ValueError(f"a relocation outside of {target.name}")
                yield Relocation(header[7], offset, info & 0xFFFFFFFF, symbol, addend)

    def _bytes(self, header: tuple[int, ...]) -> memoryview:
        return self._slice(header[4], header[5])

    def _slice(self, offset: int, size: int) -> memoryview:
        if offset + size > len(self._data):
            raise ValueError(f"{size} bytes at {offset} of {len(self._data)}: it is cut short")
        return self._data[offset : offset + size]


def _is_loaded(header: tuple[int, ...], name: str) -> bool:
    wanted = header[2] & _ALLOC and header[1] in (_PROGBITS, _NOBITS)
    return bool(wanted) and name != _UNWINDING


def _text(names: memoryview, offset: int) -> str:
    end = bytes(names[offset : offset + 4096]).find(b"\0")
    if offset >= len(names) or end < 0:
        raise ValueError("a name outside of its table")
    return str(names[offset : offset + end], "utf-8")

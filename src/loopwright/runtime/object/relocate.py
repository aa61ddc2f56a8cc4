"""Relocations: what an instruction or a word of data becomes once addresses are known.

Sources: System V ABI, AMD64 supplement, table 4.9; ELF for the Arm 64-bit Architecture, 5.7.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import TypeAlias

from loopwright.errors import EnvironmentFailure
from loopwright.runtime.object.elf import AARCH64, X86_64

STUB_BYTES = 16
_PAGE = 0xFFF


class SymbolReach(enum.Enum):
    """What a relocation needs from the linker: the symbol, a stub near the code, or a slot."""

    DIRECT = "direct"
    CALL = "call"  # to the symbol, or to a stub where it is too far
    SLOT = "slot"  # to a word that holds the symbol's address
    FROM_ANCHOR = "from-anchor"  # the symbol's distance from the anchor, a place among the slots
    SLOT_FROM_ANCHOR = "slot-from-anchor"
    ANCHOR = "anchor"  # to the anchor itself


Write: TypeAlias = Callable[[memoryview, int, int], None]
"""Patches memory: (bytes from the place on, address of the place, target + addend)."""


def rule(machine: int, kind: int) -> tuple[SymbolReach, Write]:
    """How to apply relocations of `kind`.

    Raises: EnvironmentFailure for an unknown kind.
    """
    found = _RULES.get(machine, {}).get(kind)
    if found is None:
        raise EnvironmentFailure(
            f"the object code has a relocation of type {kind}, which is not known here"
        )
    return found


def stub(machine: int, target: int) -> bytes:
    """Code of STUB_BYTES that jumps to the address `target`, however far."""
    if machine == X86_64:  # jmp *[rip+2]; two bytes between; the address
        return b"\xff\x25\x02\x00\x00\x00\xcc\xcc" + target.to_bytes(8, "little")
    return struct.pack("<IIQ", 0x58000050, 0xD61F0200, target)  # ldr x16, 8; br x16; the address


def _word(size: int, *, relative: bool, signed: bool) -> Write:
    def write(at: memoryview, place: int, value: int) -> None:
        number = value - place if relative else value
        try:
            at[:size] = number.to_bytes(size, "little", signed=signed)
        except OverflowError as error:
            raise EnvironmentFailure(
                f"the object code reaches {number:#x}, which {size} bytes cannot hold"
            ) from error

    return write


def _patch(at: memoryview, mask: int, bits: int) -> None:
    word = int.from_bytes(at[:4], "little")
    at[:4] = (word & ~mask | bits & mask).to_bytes(4, "little")


def _branch(at: memoryview, place: int, value: int) -> None:
    distance = value - place
    if not -(1 << 27) <= distance < 1 << 27:
        raise EnvironmentFailure(f"a branch in the object code reaches {distance:#x} bytes")
    _patch(at, 0x3FFFFFF, distance >> 2)


def _page(at: memoryview, place: int, value: int) -> None:
    pages = (value & ~_PAGE) - (place & ~_PAGE) >> 12
    if not -(1 << 20) <= pages < 1 << 20:
        raise EnvironmentFailure(f"the object code reaches {pages} pages")
    _patch(at, 0x60FFFFE0, (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5)


def _low(shift: int) -> Write:
    def write(at: memoryview, place: int, value: int) -> None:
        del place
        _patch(at, 0x3FFC00, (value & _PAGE) >> shift << 10)

    return write


_DIRECT, _CALL, _SLOT = SymbolReach.DIRECT, SymbolReach.CALL, SymbolReach.SLOT
_PC32 = _word(4, relative=True, signed=True)
_RULES: dict[int, dict[int, tuple[SymbolReach, Write]]] = {
    X86_64: {
        1: (_DIRECT, _word(8, relative=False, signed=False)),  # 64
        2: (_DIRECT, _PC32),  # PC32
        4: (_CALL, _PC32),  # PLT32
        9: (_SLOT, _PC32),  # GOTPCREL
        10: (_DIRECT, _word(4, relative=False, signed=False)),  # 32
        11: (_DIRECT, _word(4, relative=False, signed=True)),  # 32S
        24: (_DIRECT, _word(8, relative=True, signed=True)),  # PC64
        25: (SymbolReach.FROM_ANCHOR, _word(8, relative=False, signed=True)),  # GOTOFF64
        27: (SymbolReach.SLOT_FROM_ANCHOR, _word(8, relative=False, signed=True)),  # GOT64
        29: (SymbolReach.ANCHOR, _word(8, relative=True, signed=True)),  # GOTPC64
        31: (SymbolReach.FROM_ANCHOR, _word(8, relative=False, signed=True)),  # PLTOFF64
        41: (_SLOT, _PC32),  # GOTPCRELX
        42: (_SLOT, _PC32),  # REX_GOTPCRELX
    },
    AARCH64: {
        257: (_DIRECT, _word(8, relative=False, signed=False)),  # ABS64
        260: (_DIRECT, _word(8, relative=True, signed=True)),  # PREL64
        261: (_DIRECT, _PC32),  # PREL32
        275: (_DIRECT, _page),  # ADR_PREL_PG_HI21
        276: (_DIRECT, _page),  # ADR_PREL_PG_HI21_NC
        277: (_DIRECT, _low(0)),  # ADD_ABS_LO12_NC
        278: (_DIRECT, _low(0)),  # LDST8_ABS_LO12_NC
        282: (_CALL, _branch),  # JUMP26
        283: (_CALL, _branch),  # CALL26
        284: (_DIRECT, _low(1)),  # LDST16_ABS_LO12_NC
        285: (_DIRECT, _low(2)),  # LDST32_ABS_LO12_NC
        286: (_DIRECT, _low(3)),  # LDST64_ABS_LO12_NC
        299: (_DIRECT, _low(4)),  # LDST128_ABS_LO12_NC
        311: (_SLOT, _page),  # ADR_GOT_PAGE
        312: (_SLOT, _low(3)),  # LD64_GOT_LO12_NC
    },
}

"""Links object code into this process: a linker for what our code generator writes, nothing else.

It is not LLVM's because what runs models and measures candidates should not carry a compiler: it
would be in the memory of every process that runs a model, and a measured board has none. A broken
object, a missing symbol or an unknown relocation raises; no code of an object runs while it is
linked.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from loopwright.errors import EnvironmentFailure
from loopwright.runtime.libc import LIBC
from loopwright.runtime.object import elf
from loopwright.runtime.object.elf import AARCH64, X86_64, Object, Symbol
from loopwright.runtime.object.image import EXECUTE, READ, Image
from loopwright.runtime.object.symbols import KERNEL_SYMBOLS

_MACHINES = {"x86_64": X86_64, "amd64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}
_LIBRARIES = (
    "libm.so.6",
    "libgcc_s.so.1",
)  # for symbols that the process itself lacks


class Linked:
    """Code in memory, freed with this object. `linked[symbol]` is a symbol's address."""

    def __init__(self, memory: mmap.mmap, hold: object, addresses: dict[str, int]) -> None:
        self._memory = memory
        self._hold = hold
        self._addresses = addresses

    def __getitem__(self, symbol: str) -> int:
        return self._addresses[symbol]


def link(code: bytes, symbols: Sequence[str], allowed: AbstractSet[str] = KERNEL_SYMBOLS) -> Linked:
    """The object `code` in memory with the addresses of `symbols`.

    It may use what is `allowed` of libc and libm, by name.
    Raises: EnvironmentFailure if the object is broken, or needs or lacks a symbol.
    """
    return link_all([code], symbols, allowed)


def link_all(
    objects: Sequence[bytes],
    symbols: Sequence[str],
    allowed: AbstractSet[str] = KERNEL_SYMBOLS,
) -> Linked:
    """Objects that may refer to each other, in memory, with the addresses of `symbols`.

    Raises: EnvironmentFailure if an object is broken, or needs or lacks a symbol.
    """
    try:
        return _map(Image([_of_this_machine(code) for code in objects]), symbols, allowed)
    except EnvironmentFailure as error:
        raise EnvironmentFailure(
            f"cannot link {_size(objects)} for {', '.join(symbols)}: {error}"
        ) from error


def map_code(code: bytes) -> tuple[Linked, int]:
    """Machine code that needs no linking in memory of this process, and its address.

    Raises: EnvironmentFailure if the system does not let this process run it.
    """
    memory = mmap.mmap(-1, -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE)
    memory[: len(code)] = code
    hold = ctypes.c_char.from_buffer(memory)
    base = ctypes.addressof(hold)
    _set_protection(base, len(memory), READ | EXECUTE)
    if platform.machine() in ("aarch64", "arm64"):
        _clear_cache(base, base + len(code))
    return Linked(memory, hold, {}), base


def _map(image: Image, symbols: Sequence[str], allowed: AbstractSet[str]) -> Linked:
    """`image` in memory of this process, each region with its protection."""
    image.require(symbols)
    memory = mmap.mmap(-1, image.size)
    hold = ctypes.c_char.from_buffer(memory)
    base = ctypes.addressof(hold)
    view = memoryview(memory)
    image.write(view, base, functools.partial(_find, allowed=allowed))
    view.release()
    _protect(image, base)
    return Linked(memory, hold, {name: image.address(name, base) for name in symbols})


def _protect(image: Image, base: int) -> None:
    for region in image.regions:
        size = -(-region.size // mmap.PAGESIZE) * mmap.PAGESIZE
        if size:
            _set_protection(base + region.start, size, region.protection)
    if image.machine == AARCH64:
        start = base + image.code.start
        _clear_cache(start, start + image.code.size)


def _set_protection(address: int, size: int, protection: int) -> None:
    if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
        raise EnvironmentFailure(f"cannot protect {size} bytes of code: {_last_error()}")


def _clear_cache(start: int, end: int) -> None:
    clear = ctypes.CDLL("libgcc_s.so.1")["__clear_cache"]
    clear(ctypes.c_void_p(start), ctypes.c_void_p(end))


def _of_this_machine(code: bytes) -> Object:
    """The object `code`. Raises: EnvironmentFailure if it is broken or for another machine."""
    found = elf.parse(code)
    if found.machine != _MACHINES.get(platform.machine()):
        raise EnvironmentFailure(
            f"the object code is for machine {found.machine}, not {platform.machine()}"
        )
    return found


def _find(symbol: Symbol, allowed: AbstractSet[str]) -> int:
    """The address of a symbol of the C library.

    Raises: EnvironmentFailure when there is none or it is not `allowed`; a weak one is then 0.
    """
    if symbol.name in allowed:
        for library in (None, *_LIBRARIES):
            try:
                function = ctypes.CDLL(library)[symbol.name]
            except (OSError, AttributeError, ValueError):
                continue
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    if symbol.binding == elf.WEAK:
        return 0
    why = "is not there" if symbol.name in allowed else "is not among those that such code may use"
    raise EnvironmentFailure(f"it needs the symbol {symbol.name}, which {why}")


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())


def _size(objects: Sequence[bytes]) -> str:
    if len(objects) == 1:
        return f"an object of {len(objects[0])} bytes"
    return f"{len(objects)} objects of {sum(map(len, objects))} bytes"

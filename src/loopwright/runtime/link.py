"""Object code into this process: `link` and nothing else, so that a measuring process stays small.

ORC is used and not MCJIT: a broken object or a symbol that is not there raises, where MCJIT ends
the process. Nothing is compiled here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import llvmlite.binding as llvm

from loopwright.errors import EnvironmentFailure

_serial = itertools.count()


class _Tracker(Protocol):
    def __getitem__(self, name: str) -> int: ...


class Linked:
    """Code in memory; it goes when this goes. `linked[symbol]` is a symbol's address."""

    def __init__(self, jit: object, tracker: _Tracker, symbols: Sequence[str]) -> None:
        self._tracker: _Tracker | None = tracker
        self._jit: object | None = jit
        self._addresses = {name: int(tracker[name]) for name in symbols}

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
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        jit = llvm.create_lljit_compiler(suppress_errors=True)
        library = llvm.JITLibraryBuilder()
        for code in objects:
            library = library.add_object_img(code)
        for name in symbols:
            library = library.export_symbol(name)
        tracker = library.add_current_process().link(jit, f"object{next(_serial)}")
        return Linked(jit, tracker, symbols)
    except RuntimeError as e:
        reason = " ".join(str(e).split())
        raise EnvironmentFailure(
            f"cannot link {_size(objects)} for {', '.join(symbols)}: {reason}"
        ) from e


def _size(objects: Sequence[bytes]) -> str:
    if len(objects) == 1:
        return f"an object of {len(objects[0])} bytes"
    return f"{len(objects)} objects of {sum(map(len, objects))} bytes"

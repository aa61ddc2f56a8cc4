"""Landlock: which files a process may reach, by the kernel's own calls.

A rule set names every kind of access that the kernel can deny, and allows only reading below some
folders. Where the kernel supports it, TCP is denied too, and so are signals and abstract unix
sockets to processes outside.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from loopwright.runtime.libc import LIBC

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_ASK_VERSION = 1
_PATH_BENEATH = 1
_READ = (1 << 2) | (1 << 3)  # files, folders
_FILE_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many kinds of access a version knows
_NET_VERSION, _SCOPE_VERSION = 4, 6
_NET = 0b11  # bind, connect
_SCOPE = 0b11  # abstract unix sockets, signals
_PR_SET_NO_NEW_PRIVS = 38


def version() -> int:
    """The Landlock version of the kernel, 0 for none."""
    return max(0, _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_ASK_VERSION)))


def rules(readable: Sequence[str]) -> int | None:
    """The descriptor of a rule set that allows reading below `readable`; None without Landlock."""
    known = version()
    if known < 1:
        return None
    files = (1 << _FILE_BITS.get(known, 16)) - 1
    attributes = [files]
    if known >= _NET_VERSION:
        attributes.append(_NET)
    if known >= _SCOPE_VERSION:
        attributes.append(_SCOPE)
    packed = struct.pack(f"{len(attributes)}Q", *attributes)
    ruleset = _call(_CREATE, packed, ctypes.c_size_t(len(packed)), ctypes.c_uint(0))
    if ruleset < 0:
        return None
    for path in readable:
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("=Qi", _READ, folder)
        _call(_ADD, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0))
        os.close(folder)
    return ruleset


def restrict(ruleset: int) -> bool:
    """Apply a rule set to the calling thread and those it starts; returns whether it worked."""
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
    return _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)) == 0


def _call(number: int, *arguments: object) -> int:
    return int(LIBC.syscall(ctypes.c_long(number), *arguments))

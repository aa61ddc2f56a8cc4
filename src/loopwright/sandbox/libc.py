"""The C library, loaded once: a forked child that loads it again pays for the pages it touches."""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
"""Results of calls are ints; see `ctypes.get_errno` for why one is -1."""


def write_file(path: str, text: str) -> bool:
    """Write a small kernel file; returns whether that was allowed."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True

"""The C library, loaded once: a forked child that loads it again pays for the pages it touches."""

from __future__ import annotations

import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
"""Results of calls are ints; see `ctypes.get_errno` for why one is -1."""

"""Memory that detects a kernel writing where it must not.

    | guard, no access | canary | data (64-byte aligned) | canary | guard, no access |

The data ends as close to the guard after it as alignment allows. A write into a guard faults; one
into the slack changes a canary. Inputs are read-only once filled, so a write into them faults too.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
from dataclasses import dataclass

import numpy as np
from numpy import ctypeslib  # imported here: a confined child may not be able to

from loopwright.errors import EnvironmentFailure
from loopwright.sandbox.inputs import Array

GUARD_BYTES = 1 << 20  # a multiple of every page size in use; address space only, no memory
_ALIGNMENT = 64
_CANARY = 0xA5
_HUGE_BYTES = 4 << 20  # from here on NumPy asks for huge pages too, and so do kernels in real use
_PROT_NONE = 0
_MAP_NORESERVE = 0x4000
_FAILED = ctypes.c_void_p(-1).value


class Place(enum.Enum):
    """Where an address is relative to a region."""

    ELSEWHERE = "elsewhere"
    BEFORE = "before the start of"
    INSIDE = "inside"
    PAST = "past the end of"


@dataclass(frozen=True, slots=True)
class GuardedRegion:
    """`nbytes` of memory at `data` between guards; `base` and `total` are the whole mapping."""

    name: str
    base: int
    total: int
    data: int
    nbytes: int

    @property
    def view(self) -> Array:
        """The data as uint8 [nbytes]."""
        return _bytes_at(self.data, self.nbytes)

    def place(self, address: int) -> Place:
        """Where `address` is."""
        if not self.base <= address < self.base + self.total:
            return Place.ELSEWHERE
        if address < self.data:
            return Place.BEFORE
        return Place.INSIDE if address < self.data + self.nbytes else Place.PAST

    def arm(self) -> None:
        """Write the canaries."""
        for slack in self._slack():
            slack[:] = _CANARY

    def broken(self) -> str | None:
        """A sentence if a canary was changed, else None."""
        for where, slack in zip((Place.BEFORE, Place.PAST), self._slack(), strict=True):
            changed = np.flatnonzero(slack != _CANARY)
            if changed.size:
                return f"wrote {changed.size} bytes {where.value} {self.name}"
        return None

    def freeze(self) -> None:
        """Make the data read-only."""
        _check(_libc().mprotect(*self._body(), mmap.PROT_READ), "mprotect", self.total)

    def free(self) -> None:
        """Free the memory; the region must not be used afterwards."""
        _libc().munmap(ctypes.c_void_p(self.base), ctypes.c_size_t(self.total))

    def _body(self) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
        start = self.base + GUARD_BYTES
        return ctypes.c_void_p(start), ctypes.c_size_t(self.total - 2 * GUARD_BYTES)

    def _slack(self) -> tuple[Array, Array]:
        start, end = self.base + GUARD_BYTES, self.base + self.total - GUARD_BYTES
        data_end = self.data + self.nbytes
        return _bytes_at(start, self.data - start), _bytes_at(data_end, end - data_end)


def allocate(name: str, nbytes: int) -> GuardedRegion:
    """A region of zeros; memory is used only once touched.

    Raises: EnvironmentFailure if there is not enough address space.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    padded = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    body = max(-(-padded // page), 1) * page
    total = body + 2 * GUARD_BYTES
    libc = _libc()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    base = libc.mmap(None, ctypes.c_size_t(total), _PROT_NONE, flags, -1, ctypes.c_long(0))
    _check(-1 if base is None or base == _FAILED else 0, "mmap", total)
    region = GuardedRegion(name, base, total, base + GUARD_BYTES + body - padded, nbytes)
    start, size = region._body()
    _check(libc.mprotect(start, size, mmap.PROT_READ | mmap.PROT_WRITE), "mprotect", total)
    if nbytes >= _HUGE_BYTES:
        libc.madvise(start, size, mmap.MADV_HUGEPAGE)
    return region


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    return libc


def _check(result: int, call: str, nbytes: int) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise EnvironmentFailure(f"{call} of {nbytes} bytes failed: {reason}", retryable=True)


def _bytes_at(address: int, nbytes: int) -> Array:
    if nbytes == 0:
        return np.empty(0, np.uint8)
    return ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

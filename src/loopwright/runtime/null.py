"""A device that does everything but compute, so that a measurement shows its own overhead.

It loads any form of code and keeps memory; kernels leave it as it was, and take one nanosecond.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loopwright.errors import EnvironmentFailure
from loopwright.kernel_call import Clock, Loadable
from loopwright.layout import Array
from loopwright.runtime.device import Buffer, CallTiming, DeviceFacts, LoadedKernel

KIND = "null"


@dataclass(frozen=True, slots=True)
class NullKernel:
    """A kernel that does nothing."""

    def run(self, buffers: Sequence[Buffer]) -> None:
        """Nothing."""

    def time(self, buffers: Sequence[Buffer], count: int) -> CallTiming:
        """One nanosecond per call."""
        del buffers
        return CallTiming(float(count), count)


class NullDevice:
    """Memory without a processor; `threads` is ignored."""

    kind = KIND
    clock = Clock.CYCLES

    def __init__(self, threads: int = 1) -> None:
        del threads
        self._memory: dict[Buffer, Array] = {}
        self._next = 1

    def facts(self) -> DeviceFacts:
        """The null device, with the host's memory."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return DeviceFacts("null", memory, units=0)

    def load(self, kernel: Loadable) -> LoadedKernel:
        """A kernel that does nothing, from any code."""
        del kernel
        return NullKernel()

    def alloc(self, nbytes: int) -> Buffer:
        """Host memory. Raises: EnvironmentFailure when it runs out."""
        buffer = Buffer(self._next)
        try:
            self._memory[buffer] = np.empty(nbytes, np.uint8)
        except MemoryError as error:
            raise EnvironmentFailure(f"no memory for {nbytes} bytes") from error
        self._next += 1
        return buffer

    def free(self, buffer: Buffer) -> None:
        """Give memory back."""
        del self._memory[buffer]

    def copy_in(self, buffer: Buffer, data: Array) -> None:
        """Fill memory with `data`."""
        np.copyto(self._memory[buffer], data)

    def copy_out(self, buffer: Buffer, into: Array) -> None:
        """Fill `into` with what the memory holds."""
        np.copyto(into, self._memory[buffer])

    def close(self) -> None:
        """Free all memory."""
        self._memory.clear()

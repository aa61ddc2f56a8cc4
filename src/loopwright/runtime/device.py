"""The protocol of devices: they load kernels, hold their arguments, run them and time them.

    buffers = [device.alloc(n) for n in sizes]
    device.copy_in(buffers[0], data)
    kernel = device.load(loadable)
    kernel.run(buffers)
    device.copy_out(buffers[1], memory)

A device is used by one thread of one process. The measuring process opens one for each candidate in
the confined process forked for it: the files that a device's module needs must be read when the
module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol, TypeAlias

from loopwright.errors import ConfigError
from loopwright.kernel_call import Clock, Form, Loadable
from loopwright.layout import Array
from loopwright.outcome import FailureKind

Buffer = NewType("Buffer", int)
"""A handle to memory on a device; each kind of device has its own."""


@dataclass(frozen=True, slots=True)
class CallTiming:
    """The time of `count` calls in a row, and whether something disturbed them."""

    total_ns: float
    count: int
    disturbed: bool = False

    @property
    def ns(self) -> float:
        """Nanoseconds a call."""
        return self.total_ns / self.count


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """How a device describes itself: `units` is how many parts work in parallel."""

    model: str
    memory_bytes: int
    units: int


class KernelFault(Exception):  # noqa: N818  # the kernel's fault, not ours
    """A kernel did something illegal while it ran; the message says what and where."""

    def __init__(self, message: str, kind: FailureKind = FailureKind.CRASH) -> None:
        super().__init__(message)
        self.kind = kind


class LoadedKernel(Protocol):
    """A kernel on its device."""

    def run(self, buffers: Sequence[Buffer]) -> None:
        """Call it once on the memory of its arguments, inputs then outputs, and wait for it.

        Raises: KernelFault.
        """
        ...

    def time(self, buffers: Sequence[Buffer], count: int) -> CallTiming:
        """Call it `count` times in a row and return the time by the device's clock.

        Raises: KernelFault.
        """
        ...


class Device(Protocol):
    """One device of this machine, open."""

    @property
    def kind(self) -> str:
        """The kind of target that its kernels are for."""
        ...

    @property
    def clock(self) -> Clock:
        """Which clock times its calls."""
        ...

    def facts(self) -> DeviceFacts:
        """How it describes itself."""
        ...

    def load(self, kernel: Loadable) -> LoadedKernel:
        """The kernel, ready to run.

        Raises: ConfigError for a form of code that it does not load (see `require_form`);
            EnvironmentFailure for code that is broken.
        """
        ...

    def alloc(self, nbytes: int) -> Buffer:
        """New memory, contents undefined. Raises: EnvironmentFailure when it runs out."""
        ...

    def free(self, buffer: Buffer) -> None:
        """Free memory; its handle must not be used afterwards."""
        ...

    def copy_in(self, buffer: Buffer, data: Array) -> None:
        """Fill memory with `data`, uint8 of its size."""
        ...

    def copy_out(self, buffer: Buffer, into: Array) -> None:
        """Fill `into`, uint8 of its size, with what the memory holds."""
        ...

    def close(self) -> None:
        """Release everything; closing again is harmless."""
        ...


OpenDevice: TypeAlias = Callable[[int], Device]
"""Opens a device on that many threads, if it runs on this machine's processor.

Raises: EnvironmentFailure when there is no such device.
"""


def require_form(kernel: Loadable, kind: str, *forms: Form) -> None:
    """Raise ConfigError unless a device of `kind` that loads `forms` can load `kernel`."""
    if kernel.form not in forms:
        known = ", ".join(form.value for form in forms)
        raise ConfigError(
            f"kernel {kernel.entry} is {kernel.form.value} code; a device of kind {kind} "
            f"loads {known} code"
        )

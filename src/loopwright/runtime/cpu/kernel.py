"""Kernels on this machine's CPU, called with NumPy arrays.

A `Module` has two interfaces. `module(*inputs)` takes plain arrays and returns plain outputs; it
copies only what is not already as the kernel needs it. `module.call(*arguments)` takes every
argument, outputs included, in its memory layout, and copies nothing.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.codegen.artifact import Artifact, Param
from loopwright.errors import EnvironmentFailure, ShapeError
from loopwright.kernel_call import CPU, Clock, Form, Loadable
from loopwright.runtime.cpu.loader import Loaded, load
from loopwright.runtime.cpu.native import Entry, native
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.cpu.timing import timer
from loopwright.runtime.device import Buffer, CallTiming, DeviceFacts, require_form
from loopwright.runtime.facts import facts
from loopwright.runtime.object.link import Linked, link

Array: TypeAlias = npt.NDArray[np.generic]
ALIGNMENT = 64


def aligned_empty(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """A contiguous array of `shape` at a 64-byte boundary, contents undefined."""
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(kind).reshape(tuple(shape))


def aligned_copy(array: Array, alignment: int = ALIGNMENT) -> Array:
    """`array` itself if it is contiguous and aligned, else a copy that is."""
    if array.flags.c_contiguous and array.ctypes.data % alignment == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


class CpuDevice:
    """This machine's CPU with a pool of `threads` threads; any number of Python threads may use it.

    In a forked child kernels run on one thread: the pool stays with the process that made it. It is
    a `runtime.device.Device`, and `module` gives kernels that are called with arrays.
    """

    kind = CPU
    clock = Clock.HOST

    def __init__(self, threads: int = 1, cache_dir: Path | None = None) -> None:
        self.threads = threads
        self.native = native(cache_dir)
        self.pool = ThreadPool(threads, self.native)
        self._local = threading.local()
        self._memory: dict[Buffer, Array] = {}

    def facts(self) -> DeviceFacts:
        """A description of this machine."""
        machine = facts()
        return DeviceFacts(machine.model, machine.memory_bytes, self.threads)

    def module(self, artifact: Artifact) -> Module:
        """`artifact` ready to be called with arrays.

        Raises: ConfigError if it was made for another target; EnvironmentFailure if it is broken.
        """
        return Module(self, load(artifact))

    def load(self, kernel: Loadable) -> CpuKernel:
        """The kernel, ready to run; the caller has checked that its code runs here.

        Raises: ConfigError for a form other than object; EnvironmentFailure if it is broken.
        """
        require_form(kernel, self.kind, Form.OBJECT)
        return CpuKernel(self, link(kernel.code, (kernel.entry,)), kernel)

    def alloc(self, nbytes: int) -> Buffer:
        """New memory, 64-byte aligned. Raises: EnvironmentFailure when it runs out."""
        try:
            array = aligned_empty((nbytes,), np.uint8)
        except MemoryError as error:
            raise EnvironmentFailure(f"no memory for {nbytes} bytes", retryable=True) from error
        buffer = Buffer(array.ctypes.data)
        self._memory[buffer] = array
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

    def workspace(self, nbytes: int) -> int:
        """Address of at least `nbytes` private to this Python thread, until its next call."""
        memory: Array | None = getattr(self._local, "memory", None)
        if memory is None or memory.nbytes < nbytes:
            memory = aligned_empty((nbytes,), np.uint8)
            self._local.memory = memory
        return int(memory.ctypes.data)

    def close(self) -> None:
        """End the pool's threads and free memory; modules still run, on the calling thread."""
        self.pool.close()
        self._memory.clear()

    def __enter__(self) -> CpuDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class CpuKernel:
    """A kernel as users of a device run it, on device memory. `code` keeps it loaded."""

    device: CpuDevice
    code: Linked
    kernel: Loadable

    def run(self, buffers: Sequence[Buffer]) -> None:
        """Call it once."""
        self.time(buffers, 1)

    def time(self, buffers: Sequence[Buffer], count: int) -> CallTiming:
        """Call it `count` times in a row, by the host's clock."""
        device = self.device
        workspace = device.workspace(self.kernel.workspace)
        entry = self.code[self.kernel.entry]
        return timer(device.native, entry, buffers, workspace, device.pool)(count)


class Module:
    """A loaded kernel. Thread-safe: every calling thread has a workspace of its own."""

    def __init__(self, device: CpuDevice, loaded: Loaded) -> None:
        artifact = loaded.artifact
        self.device = device
        self.artifact = artifact
        self.inputs = artifact.params[: len(artifact.params) - artifact.n_outputs]
        self.outputs = artifact.params[len(self.inputs) :]
        self._loaded = loaded
        self._entry = Entry(loaded.entry)
        self._workspace = artifact.workspace(device.threads)

    def __call__(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """The outputs (one array, or a tuple) for plain `inputs`.

        Raises: ShapeError if number, shape or dtype of the inputs is not the kernel's.
        """
        if len(inputs) != len(self.inputs):
            raise ShapeError(
                f"{self._name()}: got {len(inputs)} inputs, takes {len(self.inputs)}: "
                + ", ".join(_describe(p) for p in self.inputs)
            )
        packed = [self.pack(p, a) for p, a in zip(self.inputs, inputs, strict=True)]
        results = self.empty_outputs()
        self._run([*packed, *results])
        plain = tuple(
            p.layout.unpack(r, p.shape) for p, r in zip(self.outputs, results, strict=True)
        )
        return plain[0] if len(plain) == 1 else plain

    def call(self, *arguments: Array) -> None:
        """Run on `arguments`, inputs then outputs, each in its memory layout, without copies.

        Raises: ShapeError if one has another shape or dtype, is not contiguous or not aligned.
        """
        self._run(self._checked(arguments))

    def bind(self, *arguments: Array) -> BoundCall:
        """`call` prepared in advance, to call with the same arrays many times."""
        return BoundCall(self, self._checked(arguments))

    def pack(self, param: Param, array: Array) -> Array:
        """Plain `array` in the memory layout of `param`; the array itself if it already is.

        Raises: ShapeError if its shape or dtype is not the param's.
        """
        return aligned_copy(param.pack(self.plain(param, array)), param.alignment)

    def plain(self, param: Param, array: Array) -> Array:
        """`array`, which matches `param` in plain layout.

        Raises: ShapeError if its shape or dtype is not the param's.
        """
        array = np.asarray(array)
        if array.shape != param.shape or array.dtype != param.dtype.numpy:
            raise ShapeError(f"{self._name()}: {_describe(param)} was given {_shown(array)}")
        return array

    def empty_outputs(self) -> tuple[Array, ...]:
        """New arrays for the outputs, in their memory layouts."""
        return tuple(aligned_empty(p.physical_shape, p.dtype.numpy) for p in self.outputs)

    def _checked(self, arguments: Sequence[Array]) -> Sequence[Array]:
        params = self.artifact.params
        if len(arguments) != len(params):
            raise ShapeError(
                f"{self._name()}: got {len(arguments)} arguments, takes {len(params)}: "
                + ", ".join(p.name for p in params)
            )
        for index, (param, array) in enumerate(zip(params, arguments, strict=True)):
            reason = _unfit(param, array, writes=index >= len(self.inputs))
            if reason is not None:
                raise ShapeError(f"{self._name()}: argument {param.name} {reason}")
        return arguments

    def _run(self, arrays: Sequence[Array]) -> None:
        BoundCall(self, arrays)()

    def _name(self) -> str:
        return f"kernel {self.artifact.entry}"


@dataclass(slots=True, init=False)
class BoundCall:
    """A kernel bound to its arguments: calling it runs it. It keeps the arrays alive.

    Only one thread may use it after `redirect`.
    """

    _arrays: tuple[Array, ...]
    _pointers: ctypes.Array[ctypes.c_void_p]
    _module: Module
    _entry: Callable[[int, int, int, int], None]

    def __init__(self, module: Module, arrays: Sequence[Array]) -> None:
        self._arrays = tuple(arrays)
        self._pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        self._module = module
        self._entry = module._entry

    def redirect(self, place: int, array: Array) -> None:
        """Pass `array` as argument `place` from now on; the caller checks it and keeps it alive."""
        self._pointers[place] = array.ctypes.data

    def __call__(self) -> None:
        """Run the kernel once; the calling thread's workspace is used."""
        device, pool = self._module.device, self._module.device.pool
        workspace = device.workspace(self._module._workspace)
        self._entry(ctypes.addressof(self._pointers), workspace, pool.parallel, pool.address)


def _unfit(param: Param, array: Array, *, writes: bool) -> str | None:
    """Why `array` cannot be passed for `param` as it is."""
    wanted = f"{param.dtype}{list(param.physical_shape)}"
    if not isinstance(array, np.ndarray):
        return f"is a {type(array).__name__}, wanted a NumPy array {wanted}"
    if array.shape != param.physical_shape or array.dtype != param.dtype.numpy:
        return f"is {_shown(array)}, wanted {wanted} (layout {param.layout})"
    if not array.flags.c_contiguous:
        return "is not contiguous: pass np.ascontiguousarray of it"
    if array.ctypes.data % param.alignment:
        return f"is not aligned to {param.alignment} bytes: make it with aligned_empty"
    if writes and not array.flags.writeable:
        return "is an output and read-only"
    return None


def _describe(param: Param) -> str:
    return f"{param.name} {param.dtype}{list(param.shape)}"


def _shown(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"

"""A persistent pool of native threads for `parallel` loops.

The threads are pthreads that run generated code only and never take the interpreter lock. A
region on two spinning threads costs well under a microsecond; idle threads sleep. See `native_ir`
for the protocol.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.runtime.cpu import native_ir as layout
from loopwright.runtime.cpu.gate import ThreadGate
from loopwright.runtime.cpu.native import Native
from loopwright.runtime.libc import LIBC

STACK_BYTES = 2 << 20
SPIN = 2000  # pauses before a worker sleeps: 50 to 150 us, so that regions in a row find it awake
_MAX_THREADS = 1024
_ATTRIBUTES_BYTES = 256  # more than sizeof(pthread_attr_t) anywhere

_Function = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
)


class ThreadPool:
    """`threads` native threads, the caller's included. Entries take `parallel` and `address`.

    Any number of threads may call into it: one at a time gets the workers, the others run serially.
    With `cores`, worker i is pinned to cores[i]; the caller is thread 0 and pins itself.
    A forked child has no workers: there, and after `close`, `address` is 0 and everything runs
    serially. A pool that is `held` runs no instruction of `code` until `release`, and none to end
    its threads: they end with the process. One that `yields` runs serially for a while after its
    caller had to wait for a worker that something else keeps from its core.
    """

    def __init__(
        self,
        threads: int,
        code: Native,
        *,
        cores: Sequence[int] | None = None,
        spin: int = SPIN,
        held: bool = False,
        yields: bool = False,
    ) -> None:
        if not 1 <= threads <= _MAX_THREADS:
            raise ConfigError(f"a pool of {threads} threads: use 1 to {_MAX_THREADS}")
        self.threads = threads
        self._native = code
        self._pid = os.getpid()
        self._memory = _pool_memory(threads, spin, layout.LAST_SERIAL if yields else 0)
        self._address = _aligned(self._memory) if threads > 1 else 0
        self._gate = ThreadGate(threads - 1) if held and threads > 1 else None
        handles = _start(code, self._address, threads, self._gate) if threads > 1 else []
        if cores is not None:
            _pin(handles, cores)
        ended = handles if self._gate is None else []
        workers = _Workers(code, self._memory, self._address, ended, self._pid)
        self._close = weakref.finalize(self, workers.stop)

    @property
    def parallel(self) -> int:
        """Address of the parallel_for function."""
        return self._native.parallel

    @property
    def address(self) -> int:
        """What to pass as `pool`; 0 where there are no workers, which means serial."""
        return self._address if self._close.alive and os.getpid() == self._pid else 0

    def release(self) -> None:
        """Let the threads of a pool that is held run; returns once all of them are there."""
        if self._gate is not None:
            self._gate.open()

    def run(self, body: int, closure: int, extent: int) -> None:
        """Call native `body(closure, begin, end, thread)` over ranges that cover [0, extent)."""
        _Function(self.parallel)(self.address, body, closure, extent)

    def close(self) -> None:
        """End the workers; no kernel may be running on them. The pool then runs serially."""
        self._close()

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Workers:
    """What the workers of a pool need as long as they live."""

    code: Native
    memory: ctypes.Array[ctypes.c_char]
    pool: int
    handles: list[int]
    pid: int

    def stop(self) -> None:
        """End them, in the process that started them."""
        if self.handles and os.getpid() == self.pid:
            _end(self.code, self.pool, self.handles)


def _pool_memory(threads: int, spin: int, most_serial: int) -> ctypes.Array[ctypes.c_char]:
    memory = ctypes.create_string_buffer(layout.SLOTS + threads * layout.SLOT_BYTES + 64)
    base = _aligned(memory)
    ctypes.c_int64.from_address(base + layout.THREADS).value = threads
    ctypes.c_int64.from_address(base + layout.SPIN).value = spin
    ctypes.c_int64.from_address(base + layout.MOST_SERIAL).value = most_serial
    for thread in range(threads):
        slot = base + layout.SLOTS + thread * layout.SLOT_BYTES
        ctypes.c_int64.from_address(slot).value = base
        ctypes.c_int32.from_address(slot + 8).value = thread
    return memory


def _aligned(memory: ctypes.Array[ctypes.c_char]) -> int:
    return -(-ctypes.addressof(memory) // 64) * 64


def _start(code: Native, pool: int, threads: int, gate: ThreadGate | None) -> list[int]:
    """Handles of the started workers 1..threads-1, which wait behind the `gate` if there is one.

    Raises: EnvironmentFailure if the system refuses a thread; those already started are ended,
        unless they wait behind a gate.
    """
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    LIBC.pthread_attr_init(attributes)
    LIBC.pthread_attr_setstacksize(attributes, ctypes.c_size_t(STACK_BYTES))
    handles: list[int] = []
    for thread in range(1, threads):
        handle = ctypes.c_ulong()
        slot, entry = pool + layout.SLOTS + thread * layout.SLOT_BYTES, code.worker
        if gate is not None:
            slot, entry = gate.admit(entry, slot), gate.entry
        begin, argument = ctypes.c_void_p(entry), ctypes.c_void_p(slot)
        error = LIBC.pthread_create(ctypes.byref(handle), attributes, begin, argument)
        if error:
            if gate is None:
                _end(code, pool, handles)
            raise EnvironmentFailure(
                f"thread {thread + 1} of {threads}: {os.strerror(error)}; use fewer threads",
                retryable=True,
            )
        handles.append(handle.value)
    LIBC.pthread_attr_destroy(attributes)
    return handles


def _pin(handles: Sequence[int], cores: Sequence[int]) -> None:
    """Pin thread i + 1 to cores[i + 1], as far as the system lets us."""
    for handle, core in zip(handles, cores[1:], strict=False):
        mask = (1 << core).to_bytes(core // 64 * 8 + 8, "little")
        LIBC.pthread_setaffinity_np(ctypes.c_ulong(handle), ctypes.c_size_t(len(mask)), mask)


def _end(code: Native, pool: int, handles: list[int]) -> None:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.stop)(pool)
    for handle in handles:
        LIBC.pthread_join(ctypes.c_ulong(handle), None)

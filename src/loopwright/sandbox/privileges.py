"""What a forked measuring child gives up before it runs a candidate.

This contains accidents: a broken kernel must not fork, signal, execute or delete anything. It is no
defence against malicious code. Layers that the operating system refuses are left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
from collections.abc import Sequence

from loopwright.runtime.cpu.native import Native
from loopwright.runtime.libc import LIBC
from loopwright.sandbox import seccomp
from loopwright.sandbox.kernel_files import write_file

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FILE_BYTES = 1 << 20  # limit on what a candidate prints
_SIGNAL_STACK_BYTES = 64 << 10
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    The first process of a namespace does not see its parent (0), nor does one whose `parent` is 0.
    """
    LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() not in (parent, 0) and parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Adopt processes that a candidate leaves behind, so that they can be killed."""
    LIBC.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


def set_priority(nice: int) -> None:
    """Run before other processes (negative) or after them, where this user may.

    A kernel that groups sessions weighs this process's whole session, which must be its own.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    write_file("/proc/self/autogroup", str(nice))


def limit(*, memory: int, cpu_s: float) -> None:
    """Allow `memory` more bytes of address space, `cpu_s` seconds, a little output, no core."""
    pages = int(_first_word("/proc/self/statm"))
    used = pages * os.sysconf("SC_PAGE_SIZE")
    seconds = int(cpu_s) + 2
    for kind, soft, hard in (
        (resource.RLIMIT_AS, used + memory, used + memory),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, _FILE_BYTES, _FILE_BYTES),
    ):
        with contextlib.suppress(ValueError, OSError):  # there is a lower hard limit already
            resource.setrlimit(kind, (soft, hard))


def report_faults(native: Native, report: int, probe: int) -> ctypes.Array[ctypes.c_char]:
    """Have a fault's address written to `report` (see `native_ir`); keep the result alive.

    The handlers run on a stack of their own, so that stack overflows are reported too.
    """
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(native.watch)(report, probe)
    stack = ctypes.create_string_buffer(_SIGNAL_STACK_BYTES)
    # stack_t: pointer, int flags, padding, size.
    LIBC.sigaltstack(struct.pack("PixxxxN", ctypes.addressof(stack), 0, len(stack)), None)
    # struct sigaction of the C library: handler, 128 bytes of mask, int flags, restorer.
    flags = 0x4 | 0x08000000 | 0x40000000 | 0x80000000  # SIGINFO, ONSTACK, NODEFER, RESETHAND
    action = struct.pack("P128sIxxxxP", native.on_fault, b"", flags, 0)
    for number in FAULTS:
        LIBC.sigaction(int(number), action, None)
    return stack


def forbid_system_calls() -> bool:
    """Restrict this process and its threads to the calls of `seccomp`; whether that worked."""
    return seccomp.install(os.getpid())


def forbid_processes() -> None:
    """Allow this user no further process or thread (no effect for root)."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def children(pid: int) -> Sequence[int]:
    """Process ids of the children of the single-threaded process `pid`."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123  # hot and tiny
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _first_word(path: str) -> str:
    with open(path) as file:  # noqa: PTH123  # hot and tiny
        return file.read().split()[0]

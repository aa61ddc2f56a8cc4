"""What a forked measuring child gives up before it runs a candidate.

This contains accidents: a kernel that runs wild must not fork, signal, execute or delete its way
out. It is no defence against code written to attack. Each layer that a kernel refuses is left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence

from loopwright.runtime.native import Native

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_FILE_BYTES = 1 << 20  # of what a candidate prints
_SIGNAL_STACK_BYTES = 64 << 10
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)

# Audit architecture, then system calls that end the process.
_DENIED = {
    "x86_64": (
        0xC000003E,
        # socket connect clone fork vfork execve ptrace rename mkdir rmdir creat link unlink
        # symlink chmod reboot tkill unlinkat renameat rt_sigqueueinfo rt_tgsigqueueinfo
        # process_vm_writev renameat2 execveat pidfd_send_signal clone3
        (
            *(41, 42, 56, 57, 58, 59, 101, 82, 83, 84, 85, 86, 87, 88),
            *(90, 169, 200, 263, 264, 129, 297, 311, 316, 322, 424, 435),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        # socket connect clone execve ptrace mkdirat unlinkat renameat fchmodat reboot tkill
        # rt_sigqueueinfo rt_tgsigqueueinfo process_vm_writev renameat2 execveat pidfd_send_signal
        # clone3
        (198, 203, 220, 221, 117, 34, 35, 38, 53, 142, 130, 138, 240, 271, 276, 281, 424, 435),
    ),
}
_KILLS = {"x86_64": (62, 234), "aarch64": (129, 131)}  # kill, tgkill: allowed towards oneself
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF: load word, jump if equal, return
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENT0 = 0, 4, 16  # byte offsets in struct seccomp_data


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _libc().prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of whatever a candidate leaves behind, so that it can be killed."""
    _libc().prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


def set_priority(nice: int) -> None:
    """Go before other processes (negative) or after them, where this user may.

    A kernel that groups sessions weighs this process's whole session, which must be its own.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:  # noqa: PTH123
        file.write(str(nice))


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
        with contextlib.suppress(ValueError, OSError):  # a lower hard limit is there already
            resource.setrlimit(kind, (soft, hard))


def report_faults(native: Native, report: int, probe: int) -> ctypes.Array[ctypes.c_char]:
    """Have a fault's address written to `report` (see `native_ir`); keep what comes back alive.

    The handlers run on a stack of their own, so that a stack that overflowed is told too.
    """
    libc = _libc()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(native.watch)(report, probe)
    stack = ctypes.create_string_buffer(_SIGNAL_STACK_BYTES)
    # stack_t: pointer, int flags, padding, size.
    libc.sigaltstack(struct.pack("PixxxxN", ctypes.addressof(stack), 0, len(stack)), None)
    # struct sigaction of the C library: handler, 128 bytes of mask, int flags, restorer.
    flags = 0x4 | 0x08000000 | 0x40000000 | 0x80000000  # SIGINFO, ONSTACK, NODEFER, RESETHAND
    action = struct.pack("P128sIxxxxP", native.on_fault, b"", flags, 0)
    for number in FAULTS:
        libc.sigaction(int(number), action, None)
    return stack


def forbid_system_calls() -> None:
    """From now on, end this process if it forks, starts a thread, signals, connects or deletes."""
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if machine not in _DENIED:
        return
    program = _filter(machine, os.getpid())
    memory = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(memory))
    libc = _libc()
    libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, 0, 0)


def forbid_processes() -> None:
    """Allow this user no further process or thread (no effect for root)."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _filter(machine: str, pid: int) -> bytes:
    """The seccomp program: denied calls and signals to others end the process, the rest passes."""
    audit, denied = _DENIED[machine]
    kills = _KILLS[machine]
    # Order: load and check the architecture, load the number, one test a call, then the outcomes.
    tests = [*((n, "deny") for n in denied), *((n, "pid") for n in kills)]
    after = len(tests)
    code = [_op(_LOAD, _ARCHITECTURE), _op(_EQUAL, audit, 0, after + 1), _op(_LOAD, _NUMBER)]
    for index, (number, outcome) in enumerate(tests):
        to_allow = after - index - 1
        code.append(_op(_EQUAL, number, to_allow + (1 if outcome == "deny" else 2), 0))
    code += [_op(_RETURN, _ALLOW), _op(_RETURN, _KILL_PROCESS)]
    code += [_op(_LOAD, _ARGUMENT0), _op(_EQUAL, pid, 0, 1)]
    code += [_op(_RETURN, _ALLOW), _op(_RETURN, _KILL_PROCESS)]
    return b"".join(code)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


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


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

"""A gate: threads wait behind it in code of this file before they run code of others.

A measuring process starts the threads of a kernel before it gives up the right to start any, and
code that a client brought may run only after that. So a thread begins here, waits at a barrier of
the C library, and goes to its function once everybody has come.

The code is the same few instructions on each machine, written out, since a host without a compiler
has nothing else to make it with: called with the address of a `_Pass` it does

    wait(barrier); return function(argument)
"""

from __future__ import annotations

import ctypes
import functools
import platform

from loopwright.errors import EnvironmentFailure, UnsupportedError
from loopwright.runtime.libc import LIBC
from loopwright.runtime.object.link import Linked, map_code

# push rbx; mov rbx, rdi; mov rdi, [rbx]; call [rbx+8]
# mov rdi, [rbx+16]; mov rax, [rbx+24]; pop rbx; jmp rax
_X86_64 = bytes.fromhex("53 4889fb 488b3b ff5308 488b7b10 488b4318 5b ffe0")
# stp x29, x30, [sp, #-32]!; str x19, [sp, #16]; mov x19, x0; ldp x0, x9, [x19]; blr x9
# ldp x0, x9, [x19, #16]; ldr x19, [sp, #16]; ldp x29, x30, [sp], #32; br x9
_AARCH64 = b"".join(
    word.to_bytes(4, "little")
    for word in (
        *(0xA9BE7BFD, 0xF9000BF3, 0xAA0003F3, 0xA9402660, 0xD63F0120),
        *(0xA9412660, 0xF9400BF3, 0xA8C27BFD, 0xD61F0120),
    )
)
CODE = {"x86_64": _X86_64, "aarch64": _AARCH64, "arm64": _AARCH64}
"""The instructions, by machine."""
_BARRIER_BYTES = 64  # more than sizeof(pthread_barrier_t) anywhere


@functools.cache
def mapped() -> tuple[Linked, int]:
    """The code of gates in this process, and its address. Forked children have it too.

    Raises: UnsupportedError on a machine that it is not written for; EnvironmentFailure.
    """
    code = CODE.get(platform.machine())
    if code is None:
        raise UnsupportedError(f"no gate for threads on {platform.machine()}")
    return map_code(code)


class _Pass(ctypes.Structure):
    """What a thread is given on its way."""

    _fields_ = (
        ("barrier", ctypes.c_void_p),
        ("wait", ctypes.c_void_p),
        ("argument", ctypes.c_void_p),
        ("function", ctypes.c_void_p),
    )


class ThreadGate:
    """Holds `threads` threads until `open`. It must live as long as they do.

    `entry` is the address of the function that they begin with.
    Raises: as `mapped`.
    """

    def __init__(self, threads: int) -> None:
        self._code, self.entry = mapped()
        self._barrier = ctypes.create_string_buffer(_BARRIER_BYTES)
        self._passes: list[_Pass] = []
        everybody = ctypes.c_uint(threads + 1)
        if LIBC.pthread_barrier_init(self._barrier, None, everybody):
            raise EnvironmentFailure(f"no barrier for {threads} threads", retryable=True)

    def admit(self, function: int, argument: int) -> int:
        """The argument of a thread that is to go on to `function(argument)`."""
        wait = ctypes.cast(LIBC.pthread_barrier_wait, ctypes.c_void_p).value
        made = _Pass(ctypes.addressof(self._barrier), wait, argument, function)
        self._passes.append(made)
        return ctypes.addressof(made)

    def open(self) -> None:
        """Wait until all threads have come, and let them go."""
        LIBC.pthread_barrier_wait(self._barrier)

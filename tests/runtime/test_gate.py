"""Threads behind a gate run nothing of their own until it opens."""

from __future__ import annotations

import ctypes
import os
import platform

import pytest

from loopwright.errors import EnvironmentFailure
from loopwright.ir.expr import Fn
from loopwright.runtime.cpu import native, native_ir
from loopwright.runtime.cpu.gate import CODE, ThreadGate
from loopwright.runtime.cpu.native import Native, linked_runtime
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.libc import LIBC
from loopwright.runtime.object.link import Linked, link
from loopwright.runtime.object.symbols import KERNEL_SYMBOLS, RUNTIME_SYMBOLS

needs_code = pytest.mark.skipif(
    platform.machine() not in CODE, reason="the gate is not written for this machine"
)


def address_of(name: str) -> int:
    return ctypes.cast(getattr(LIBC, name), ctypes.c_void_p).value or 0


@needs_code
def test_a_thread_goes_on_when_the_gate_opens_and_not_before() -> None:
    gate, posted, value = ThreadGate(3), ctypes.create_string_buffer(64), ctypes.c_int()
    LIBC.sem_init(posted, 0, 0)
    handles = [ctypes.c_ulong() for _ in range(3)]
    for handle in handles:
        argument = gate.admit(address_of("sem_post"), ctypes.addressof(posted))
        entry = ctypes.c_void_p(gate.entry)
        assert not LIBC.pthread_create(ctypes.byref(handle), None, entry, ctypes.c_void_p(argument))
    LIBC.sem_getvalue(posted, ctypes.byref(value))
    before = value.value

    gate.open()
    for handle in handles:
        LIBC.pthread_join(handle, None)
    LIBC.sem_getvalue(posted, ctypes.byref(value))

    assert (before, value.value) == (0, 3)


@needs_code
def test_a_pool_that_is_held_works_once_it_is_released(native_code: Native, code: bytes) -> None:
    reading, writing = os.pipe()
    pid = os.fork()  # such a pool ends with its process
    if pid == 0:
        linked = link(code, ("count",))
        words = (ctypes.c_int64 * (64 + 9))()
        pool = ThreadPool(3, native_code, held=True)
        pool.release()
        pool.run(linked["count"], ctypes.addressof(words), 9)
        os.write(writing, bytes(words[64:]))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        seen = pipe.read()
    os.waitpid(pid, 0)

    assert seen == bytes([1] * 9)


def test_a_pool_that_is_held_never_calls_its_runtime_to_end(native_code: Native) -> None:
    pid = os.fork()
    if pid == 0:
        nowhere = Native(native_code.code, *[4096] * 7)  # any call of it ends the process
        pool = ThreadPool(3, nowhere, held=True)
        pool.close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_runtime_links_with_what_runtimes_may_use() -> None:
    assert isinstance(linked_runtime(native.runtime_object()).code, Linked)
    text = native_ir.text(native._machine())
    assert {"syscall", "mmap", "munmap", "clock_gettime"} == RUNTIME_SYMBOLS - KERNEL_SYMBOLS
    assert all(f"@{name}(" in text for name in RUNTIME_SYMBOLS - KERNEL_SYMBOLS)


def test_what_expressions_call_is_there() -> None:
    own = {Fn.ABS, Fn.NEG, Fn.NOT, Fn.RSQRT}  # no functions of the C library
    for fn in set(Fn) - own:
        assert {fn.value, f"{fn.value}f"} <= KERNEL_SYMBOLS, fn


@pytest.mark.parametrize("name", ["system", "dlopen", "abort", "syscall", "PyRun_SimpleString"])
def test_a_kernel_that_needs_more_is_refused_by_name(name: str) -> None:
    text = (
        f"declare i64 @{name}()\ndefine i64 @f() {{\n  %v = call i64 @{name}()\n  ret i64 %v\n}}\n"
    )
    with pytest.raises(EnvironmentFailure, match=f"needs the symbol {name}, which is not among"):
        link(native.compile_ir(text), ("f",))


def test_a_weak_symbol_that_is_not_allowed_is_nothing() -> None:
    text = "declare extern_weak i64 @system()\ndefine ptr @f() {\n  ret ptr @system\n}\n"
    linked = link(native.compile_ir(text), ("f",))
    assert ctypes.CFUNCTYPE(ctypes.c_void_p)(linked["f"])() is None

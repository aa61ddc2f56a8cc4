"""How long calls of object code take, by this machine's clock."""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable, Sequence

from loopwright.runtime.cpu.native import Native
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.device import CallTiming

_DISTURBED = 0.02  # share of a batch's time that other threads may hold the processor


def timer(
    native: Native, entry: int, arguments: Sequence[int], workspace: int, pool: ThreadPool
) -> Callable[[int], CallTiming]:
    """A function that calls the kernel at `entry` a number of times and returns the time taken.

    `arguments` are the addresses of its memory, which must stay alive.
    """
    pointers = (ctypes.c_void_p * len(arguments))(*arguments)
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    repeat = ctypes.CFUNCTYPE(None, *[pointer] * 5, integer)(native.repeat)
    fixed = (entry, ctypes.addressof(pointers), workspace, pool.parallel, pool.address)
    alone = pool.threads == 1

    def call(count: int, _keep: Sequence[object] = (pointers, pool)) -> CallTiming:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        used = time.thread_time_ns()
        start = time.perf_counter_ns()
        repeat(*fixed, count)
        total = time.perf_counter_ns() - start
        used = time.thread_time_ns() - used
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        # A thread that waits for the others uses no CPU time: count involuntary switches instead.
        disturbed = total - used > _DISTURBED * total if alone else switches > 0
        return CallTiming(total, count, disturbed)

    return call

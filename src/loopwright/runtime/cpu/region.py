"""The cost of a parallel region: waking the pool's threads for nothing, and waiting for them."""

from __future__ import annotations

import ctypes
import os
import statistics
import threading
import time
from pathlib import Path

from loopwright.errors import ConfigError
from loopwright.runtime.cpu.native import default_cache_dir, native, object_code
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.object.link import link

_ENTRY = "lw_region"
_TEXT = """
define internal void @nothing(ptr %closure, i64 %begin, i64 %end, i64 %thread) {
  ret void
}

define void @lw_region(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {
  %extent = ptrtoint ptr %args to i64
  call void %parallel(ptr %pool, ptr @nothing, ptr null, i64 %extent)
  ret void
}
"""
_REGIONS = 1000  # per burst: long against the clock's resolution, short against disturbances
_BURSTS = 25
_PLAIN = [ctypes.c_void_p] * 5


def measure_region(threads: int = 2, cache_dir: Path | None = None) -> float:
    """Nanoseconds per empty region on `threads` threads of a pool, run back to back.

    The median of bursts on pinned threads; the workers are awake, as between the kernels of a
    model. Raises: ConfigError for more threads than cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise ConfigError(f"{threads} threads on {len(cores)} cores: use 1 to {len(cores)}")
    chosen = cores[len(cores) - threads :]
    directory = default_cache_dir() if cache_dir is None else cache_dir
    runtime = native(cache_dir)
    code = link(object_code(_TEXT, directory), (_ENTRY,))
    repeat = ctypes.CFUNCTYPE(None, *_PLAIN, ctypes.c_int64)(runtime.repeat)
    times: list[int] = []

    def run() -> None:
        os.sched_setaffinity(0, {chosen[0]})  # of this thread only
        with ThreadPool(threads, runtime, cores=chosen) as pool:
            for _ in range(_BURSTS):
                start = time.perf_counter_ns()
                repeat(code[_ENTRY], threads, None, pool.parallel, pool.address, _REGIONS)
                times.append(time.perf_counter_ns() - start)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return statistics.median(times) / _REGIONS

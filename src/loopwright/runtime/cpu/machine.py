"""What this machine can do: peak arithmetic, memory bandwidth, how steady its clock is.

Figures are the best of several short bursts on pinned threads: what the machine can reach, not
what other work leaves of it.
"""

from __future__ import annotations

import ctypes
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopwright.codegen.llvm import probes
from loopwright.errors import ConfigError
from loopwright.runtime.cpu.kernel import aligned_empty
from loopwright.runtime.cpu.native import default_cache_dir, object_code
from loopwright.runtime.object.link import Linked, link
from loopwright.target.cpu import CpuTarget
from loopwright.target.host import host

_BURST_S = 0.004
_BURSTS = 15
_SINK_FLOATS = 16
_MAX_GROWTH = 64
_DEFAULT_STREAM_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per nanosecond (GB/s) of the best burst; a triad counts two reads and one write."""

    read: float
    triad: float


def measure_fma_peak(
    threads: int = 1, target: CpuTarget | None = None, cache_dir: Path | None = None
) -> float:
    """Float32 GFLOP/s of fused multiply-adds in registers, over all `threads`.

    Raises: ConfigError for more threads than cores.
    """
    cores = _cores(threads)
    probe = probes.fma_probe(host() if target is None else target)
    code = _linked(probe.text, (probe.entry,), target, cache_dir)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(code[probe.entry])
    sinks = [_zeros(_SINK_FLOATS) for _ in cores]

    def work(thread: int, iterations: int) -> None:
        entry(iterations, sinks[thread].ctypes.data)

    iterations = _calibrate(lambda n: work(0, n))
    best = min(_bursts(cores, lambda thread: work(thread, iterations)))
    return probe.flops(iterations) * threads / (best * 1e9)


@dataclass(frozen=True, slots=True)
class FmaBurst:
    """The kernel of `measure_fma_peak` on the calling thread, to time alternately with others."""

    run: Callable[[], None]
    flops: int


def fma_burst(
    seconds: float = _BURST_S, target: CpuTarget | None = None, cache_dir: Path | None = None
) -> FmaBurst:
    """A burst of fused multiply-adds in registers that takes about `seconds`."""
    probe = probes.fma_probe(host() if target is None else target)
    code = _linked(probe.text, (probe.entry,), target, cache_dir)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(code[probe.entry])
    sink = _zeros(_SINK_FLOATS)
    burst = _calibrate(lambda n: entry(n, sink.ctypes.data))
    iterations = max(1, int(burst * seconds / _BURST_S))

    def run(_code: Linked = code) -> None:  # the code must outlive its entry
        entry(iterations, sink.ctypes.data)

    return FmaBurst(run, probe.flops(iterations))


def fed_fma_burst(
    seconds: float = _BURST_S, target: CpuTarget | None = None, cache_dir: Path | None = None
) -> FmaBurst:
    """A burst of multiply-adds whose operands come from the L1 cache, as those of kernels do.

    It shows what a kernel can reach at the moment: it drops when other guests of the host are busy,
    while a burst in registers hardly does.
    """
    here = host() if target is None else target
    probe = probes.fed_fma_probe(here)
    code = _linked(probe.source.text, (probe.source.entry,), target, cache_dir)
    pointer = ctypes.c_void_p
    entry = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, pointer)(code[probe.source.entry])
    arrays = [_zeros(math.prod(param.shape)) for param in probe.source.params]
    arguments = (pointer * len(arrays))(*(array.ctypes.data for array in arrays))
    address = ctypes.addressof(arguments)

    def work(count: int, _keep: object = (code, arguments, arrays)) -> None:
        for _ in range(count):
            entry(address, None, None, None)

    start = time.perf_counter()
    work(4)
    count = max(1, round(4 * seconds / (time.perf_counter() - start)))
    return FmaBurst(lambda: work(count), probe.flops * count)


def measure_fed_fma(target: CpuTarget | None = None, cache_dir: Path | None = None) -> float:
    """Float32 GFLOP/s of one thread whose multiply-adds load their operands from the L1 cache.

    The median over a tenth of a second: the clock needs some milliseconds to settle.
    """
    burst = fed_fma_burst(target=target, cache_dir=cache_dir)
    times = _bursts(_cores(1), lambda _: burst.run(), bursts=25)
    return burst.flops / (statistics.median(times) * 1e9)


def measure_bandwidth(
    nbytes: int = _DEFAULT_STREAM_BYTES,
    target: CpuTarget | None = None,
    cache_dir: Path | None = None,
) -> Bandwidth:
    """Bandwidth of one thread over arrays of `nbytes` each, which should exceed the last cache."""
    probe = probes.stream_probe(host() if target is None else target)
    code = _linked(probe.text, (probe.read_entry, probe.triad_entry), target, cache_dir)
    pointer = ctypes.c_void_p
    read = ctypes.CFUNCTYPE(None, ctypes.c_int64, pointer, pointer)(code[probe.read_entry])
    triad = ctypes.CFUNCTYPE(None, ctypes.c_int64, pointer, pointer, pointer)(
        code[probe.triad_entry]
    )
    count = max(1, nbytes // 4 // probe.step) * probe.step
    arrays = [_zeros(count) for _ in range(3)]
    a, b, c = (array.ctypes.data for array in arrays)
    sink = _zeros(_SINK_FLOATS)
    cores = _cores(1)
    reads = _bursts(cores, lambda _: read(count, a, sink.ctypes.data), bursts=5)
    triads = _bursts(cores, lambda _: triad(count, a, b, c), bursts=5)
    return Bandwidth(count * 4 / (min(reads) * 1e9), count * 12 / (min(triads) * 1e9))


def noise(target: CpuTarget | None = None, cache_dir: Path | None = None) -> float:
    """How much slower the median burst of equal work is than the best: 0.02 is 2%.

    Above 0.05 something else uses the machine, and measurements repeat badly.
    """
    probe = probes.fma_probe(host() if target is None else target)
    code = _linked(probe.text, (probe.entry,), target, cache_dir)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(code[probe.entry])
    sink = _zeros(_SINK_FLOATS)
    iterations = _calibrate(lambda n: entry(n, sink.ctypes.data))
    times = _bursts(_cores(1), lambda _: entry(iterations, sink.ctypes.data), bursts=4 * _BURSTS)
    return statistics.median(times) / min(times) - 1.0


def _linked(
    text: str, symbols: Sequence[str], target: CpuTarget | None, cache_dir: Path | None
) -> Linked:
    features = (host() if target is None else target).features
    directory = default_cache_dir() if cache_dir is None else cache_dir
    return link(object_code(text, directory, features), symbols)


def _zeros(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    array = aligned_empty((count,), np.float32)
    array[:] = 0
    return array


def _cores(threads: int) -> list[int]:
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise ConfigError(f"{threads} threads on {len(cores)} cores: use 1 to {len(cores)}")
    return cores[len(cores) - threads :]


def _calibrate(work: Callable[[int], None]) -> int:
    """How many iterations take about as long as a burst."""
    iterations = 1000
    while True:
        start = time.perf_counter()
        work(iterations)
        spent = time.perf_counter() - start
        if spent >= _BURST_S / 2:
            return max(1, int(iterations * _BURST_S / spent))
        iterations *= 4 if spent == 0 else min(_MAX_GROWTH, max(2, int(_BURST_S / spent)))


def _bursts(
    cores: Sequence[int], work: Callable[[int], None], *, bursts: int = _BURSTS
) -> list[float]:
    """Seconds of each burst: `work(thread)` on a thread pinned to each core, from first to last."""
    barrier = threading.Barrier(len(cores))
    spans: list[list[tuple[float, float]]] = [[] for _ in cores]
    errors: list[BaseException] = []

    def run(thread: int) -> None:
        try:
            os.sched_setaffinity(0, {cores[thread]})  # of this thread only
            work(thread)
            for _ in range(bursts):
                barrier.wait()
                start = time.perf_counter()
                work(thread)
                spans[thread].append((start, time.perf_counter()))
        except BaseException as e:  # noqa: BLE001  # raised again by the calling thread
            errors.append(e)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(cores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
    if real:
        raise real[0]
    starts_ends = [[span[i] for span in spans] for i in range(bursts)]
    return [max(e for _, e in burst) - min(s for s, _ in burst) for burst in starts_ends]

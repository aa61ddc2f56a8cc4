"""What runs in the process forked for one candidate: load, warm up, time, tell, end.

It tells through memory that it shares with the server, not through a descriptor, so a candidate
that closes or scribbles over descriptors changes nothing. A message counts only whole: token,
length, checksum.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import resource
import signal
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from loopwright.errors import EnvironmentFailure
from loopwright.kernel_call import KernelCall
from loopwright.outcome import FailureKind, Stage
from loopwright.runtime.cpu.native import Native
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.object.link import link
from loopwright.sandbox import privileges
from loopwright.sandbox.confine import Cage, ConfinementError
from loopwright.sandbox.guard import Region
from loopwright.sandbox.wire import RunReply, RunRequest

AREA_BYTES = 64 << 10
_REPORT_BYTES = 32
_STAGE_AT = 32
_MESSAGE_AT = 64
TOKEN_BYTES = 16
_POISON = 0xFF  # NaN in every float, so that what a kernel did not write shows
_PROBE_SHARE = 4  # memory counts as exhausted when a quarter of the limit cannot be had
_MAX_CALIBRATIONS = 4
_NICE = -10  # fewer other processes disturb a batch
_DISTURBED = 0.02  # share of a batch's time that something else may have the processor


@dataclass(frozen=True, slots=True)
class Fault:
    """What the fault handler of the child wrote: all 0 if there was no fault."""

    signal: int
    address: int
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """`count` calls in a row, and whether something else had the processor meanwhile."""

    total_ns: int
    count: int
    disturbed: bool = False

    @property
    def ns(self) -> float:
        """Nanoseconds a call."""
        return self.total_ns / self.count


Call: TypeAlias = Callable[[int], Batch]
"""Calls a kernel so many times."""


class Area:
    """The memory that a child tells its server through."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, AREA_BYTES)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    @property
    def report(self) -> int:
        """Address the fault handler writes to."""
        return self._base

    def clear(self) -> None:
        """Forget the last child."""
        self._memory[: _MESSAGE_AT + TOKEN_BYTES + 8] = bytes(_MESSAGE_AT + TOKEN_BYTES + 8)

    def reach(self, stage: Stage) -> None:
        """Note that the child is at `stage`."""
        self._memory[_STAGE_AT] = 1 if stage is Stage.RUN else 0

    @property
    def stage(self) -> Stage:
        """Where the child was: LOAD or RUN."""
        return Stage.RUN if self._memory[_STAGE_AT] else Stage.LOAD

    @property
    def fault(self) -> Fault:
        """The fault the child reported."""
        words = (ctypes.c_uint64 * 3).from_buffer_copy(self._memory[:_REPORT_BYTES])
        return Fault(words[0], words[1], words[2] != 0)

    def tell(self, token: bytes, reply: RunReply) -> None:
        """Leave `reply` for the server."""
        body = msgspec.msgpack.encode(reply)
        head = token + len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little")
        self._memory[_MESSAGE_AT : _MESSAGE_AT + len(head) + len(body)] = head + body

    def told(self, token: bytes) -> RunReply | None:
        """The reply that the child with `token` left; None if it left none, or a damaged one."""
        start = _MESSAGE_AT + TOKEN_BYTES
        length = int.from_bytes(self._memory[start : start + 4], "little")
        checksum = int.from_bytes(self._memory[start + 4 : start + 8], "little")
        body = self._memory[start + 8 : start + 8 + length]
        whole = len(body) == length and zlib.crc32(body) == checksum
        if self._memory[_MESSAGE_AT:start] != token or not whole:
            return None
        return msgspec.msgpack.decode(body, type=RunReply)


@dataclass(frozen=True, slots=True)
class Arena:
    """The memory of one measurement; outputs are copied to `output`, which the server shares."""

    arguments: tuple[Region, ...]
    workspace: Region
    n_outputs: int
    output: mmap.mmap | None

    @property
    def outputs(self) -> tuple[Region, ...]:
        """The regions that the kernel writes."""
        return self.arguments[len(self.arguments) - self.n_outputs :]

    @property
    def written(self) -> tuple[Region, ...]:
        """The regions that the kernel may write: outputs and workspace."""
        return (*self.outputs, self.workspace)


@dataclass(frozen=True, slots=True)
class Job:
    """What a child is to do. Without a `cage` it is kept from accidents only."""

    request: RunRequest
    arena: Arena
    cage: Cage | None = None


def main(native: Native, job: Job, area: Area, token: bytes) -> None:
    """Measure in this forked process and end it; never returns."""
    status = 1
    try:
        area.tell(token, _measure(native, job, area))
        status = 0
    except ConfinementError as e:
        area.tell(token, failure(Stage.LOAD, FailureKind.WORKER_LOST, str(e)))
        status = 0
    except EnvironmentFailure as e:
        area.tell(token, failure(area.stage, FailureKind.LOAD_ERROR, str(e)))
        status = 0
    except MemoryError:
        area.tell(token, failure(area.stage, FailureKind.RUN_MEMORY, "no memory in the worker"))
        status = 0
    except BaseException as e:  # noqa: BLE001  # the process ends here: it becomes a Failed
        area.tell(token, failure(area.stage, FailureKind.CRASH, f"{type(e).__name__}: {e}"))
        status = 0
    finally:
        os._exit(status)


def failure(stage: Stage, kind: FailureKind, detail: str) -> RunReply:
    """The reply that says so."""
    return RunReply(stage=stage.value, kind=kind.value, detail=" ".join(detail.split())[:500])


def _measure(native: Native, job: Job, area: Area) -> RunReply:
    request, arena, cage = job.request, job.arena, job.cage
    run = request.call
    os.sched_setaffinity(0, request.cores[:1])
    privileges.set_priority(_NICE)
    privileges.limit(memory=run.run_memory, cpu_s=run.run_timeout_s * run.threads)
    if cage is not None:
        cage.enter_candidate()
    code = link(request.code, (run.entry,))
    pool = ThreadPool(run.threads, native, cores=request.cores)
    stack = privileges.report_faults(native, area.report, run.run_memory // _PROBE_SHARE)
    for region in arena.written:
        region.view[:] = _POISON
        region.arm()
    privileges.forbid_processes()
    if cage is None:
        privileges.forbid_system_calls()
    else:
        cage.forbid_system_calls()
    area.reach(Stage.RUN)
    call = _caller(native, code[run.entry], arena, pool)
    start = time.perf_counter()
    ns = times(call, run)
    spent = time.perf_counter() - start
    del stack
    for region in arena.written:
        sentence = region.broken()
        if sentence is not None:
            return failure(Stage.RUN, FailureKind.OUT_OF_BOUNDS, sentence)
    if arena.output is not None:
        _copy_outputs(arena.outputs, arena.output)
    return RunReply(ns=ns, timed_s=spent)


def _caller(native: Native, entry: int, arena: Arena, pool: ThreadPool) -> Call:
    """A function that calls the kernel `count` times and says how long that took."""
    pointers = (ctypes.c_void_p * len(arena.arguments))(*(r.data for r in arena.arguments))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    repeat = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, pointer, pointer, integer)(
        native.repeat
    )
    fixed = (entry, ctypes.addressof(pointers), arena.workspace.data, pool.parallel, pool.address)
    alone = pool.threads == 1

    def call(count: int, _keep: Sequence[object] = (pointers, pool)) -> Batch:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        used = time.thread_time_ns()
        start = time.perf_counter_ns()
        repeat(*fixed, count)
        total = time.perf_counter_ns() - start
        used = time.thread_time_ns() - used
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        # A thread that waits for the others uses no time of its own: count who was pushed aside.
        disturbed = total - used > _DISTURBED * total if alone else switches > 0
        return Batch(total, count, disturbed)

    return call


def times(call: Call, run: KernelCall) -> tuple[float, ...]:
    """Nanoseconds a call, one figure a batch; one figure in all if two calls are too slow.

    The first call is cold (page faults, caches), often several times as slow as the next ones, so a
    candidate is given up for its second.

    A batch during which something else had the processor is taken again, as often as there are
    batches; the figures are those that were not disturbed, and the least of the others if need be.
    """
    once = call(1)
    if run.abandon_ns is not None and once.ns > run.abandon_ns:
        once = call(1)
        if once.ns > run.abandon_ns:
            return (once.ns,)
    for _ in range(run.warmup - 1):
        once = call(1)
    batches = [_calibrated(call, once, run.min_repeat_ns)]
    for _ in range(2 * run.repeats - 1):
        if sum(not b.disturbed for b in batches) >= run.repeats:
            break
        batches.append(call(batches[0].count))
    batches.sort(key=lambda b: (b.disturbed, b.ns))
    return tuple(b.ns for b in batches[: run.repeats])


def _calibrated(call: Call, once: Batch, wanted_ns: float) -> Batch:
    """A batch of at least `wanted_ns`; `once` is a first guess of what a call takes."""
    count = max(1, math.ceil(wanted_ns / max(once.total_ns, 1)))
    batch = call(count)
    for _ in range(_MAX_CALIBRATIONS):
        if batch.total_ns >= wanted_ns:
            break
        count = math.ceil(count * max(1.1, wanted_ns / max(batch.total_ns, 1) * 1.05))
        batch = call(count)
    return batch


def _copy_outputs(outputs: Sequence[Region], shared: mmap.mmap) -> None:
    at = 0
    for region in outputs:
        shared[at : at + region.nbytes] = region.view.data
        at += region.nbytes


def describe_signal(number: int) -> str:
    """`SIGSEGV`, or `signal 99` where there is no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""What runs in the process forked for one candidate: load, warm up, time, report, exit.

It reports through memory shared with the server, not through a descriptor, so a candidate that
closes or writes to descriptors changes nothing. A message counts only if complete: token, length,
checksum.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import signal
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from loopwright.errors import InternalError, LoopwrightError
from loopwright.kernel_call import CPU, Clock, Form, KernelCall
from loopwright.outcome import FailureKind, FailureStage
from loopwright.runtime.cpu.native import Native
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.cpu.timing import timer
from loopwright.runtime.device import CallTiming, KernelFault, OpenDevice, require_form
from loopwright.runtime.object.link import link
from loopwright.runtime.object.symbols import KERNEL_SYMBOLS, RUNTIME_SYMBOLS
from loopwright.sandbox import privileges
from loopwright.sandbox.confine import Cage, ConfinementError
from loopwright.sandbox.guard import GuardedRegion
from loopwright.sandbox.layers import NOTHING, Layer
from loopwright.sandbox.wire import RunReply, RunRequest

AREA_BYTES = 64 << 10
LAYERS_BYTES = 4
_REPORT_BYTES = 32
_STAGE_AT = 32
_MESSAGE_AT = 64
TOKEN_BYTES = 16
_POISON = 0xFF  # NaN in every float, so that unwritten outputs show
_PROBE_SHARE = 4  # memory counts as exhausted when a quarter of the limit cannot be had
_MAX_CALIBRATIONS = 4
_NICE = -10  # so that fewer other processes disturb a batch


@dataclass(frozen=True, slots=True)
class FaultReport:
    """What the child's fault handler wrote; all 0 if there was no fault."""

    signal: int
    address: int
    exhausted: bool


TimeCalls: TypeAlias = Callable[[int], CallTiming]
"""Calls a kernel a number of times."""


class Area:
    """The memory through which a child reports to its server."""

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

    def reach(self, stage: FailureStage) -> None:
        """Record that the child is at `stage`."""
        self._memory[_STAGE_AT] = 1 if stage is FailureStage.RUN else 0

    @property
    def stage(self) -> FailureStage:
        """Where the child was: LOAD or RUN."""
        return FailureStage.RUN if self._memory[_STAGE_AT] else FailureStage.LOAD

    @property
    def fault(self) -> FaultReport:
        """The fault the child reported."""
        words = (ctypes.c_uint64 * 3).from_buffer_copy(self._memory[:_REPORT_BYTES])
        return FaultReport(words[0], words[1], words[2] != 0)

    def tell(self, token: bytes, reply: RunReply) -> None:
        """Leave `reply` for the server."""
        body = msgspec.msgpack.encode(reply)
        head = token + len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little")
        self._memory[_MESSAGE_AT : _MESSAGE_AT + len(head) + len(body)] = head + body

    def told(self, token: bytes) -> RunReply | None:
        """The reply that the child with `token` left; None if missing or damaged."""
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

    arguments: tuple[GuardedRegion, ...]
    workspace: GuardedRegion
    n_outputs: int
    output: mmap.mmap | None

    @property
    def outputs(self) -> tuple[GuardedRegion, ...]:
        """The regions that the kernel writes."""
        return self.arguments[len(self.arguments) - self.n_outputs :]

    @property
    def written(self) -> tuple[GuardedRegion, ...]:
        """The regions that the kernel may write: outputs and workspace."""
        return (*self.outputs, self.workspace)


@dataclass(frozen=True, slots=True)
class Job:
    """What a child is to do. Without a `cage` it is only protected against accidents.

    Object code is called by the child itself, with the `native` runtime; with `open_device` the
    kernel runs on the device that this opens. `tell_layers` is a descriptor: what is in force is
    written to it, and it is closed, before anything runs that a client sent.
    """

    request: RunRequest
    arena: Arena
    native: Native | None
    tell_layers: int
    cage: Cage | None = None
    open_device: OpenDevice | None = None


def main(job: Job, area: Area, token: bytes) -> None:
    """Measure in this forked process and end it; never returns."""
    status = 1
    try:
        area.tell(token, _measure(job, area))
        status = 0
    except ConfinementError as e:
        area.tell(token, failure(FailureStage.LOAD, FailureKind.WORKER_LOST, str(e)))
        status = 0
    except KernelFault as e:
        area.tell(token, failure(area.stage, e.kind, str(e)))
        status = 0
    except LoopwrightError as e:
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


def failure(stage: FailureStage, kind: FailureKind, detail: str) -> RunReply:
    """The reply for a failure."""
    return RunReply(stage=stage.value, kind=kind.value, detail=" ".join(detail.split())[:500])


def _measure(job: Job, area: Area) -> RunReply:
    """Prepare, confine, and only then run what a client sent: candidate and native runtime.

    Both are mapped and linked before, by code of ours, since memory cannot be made executable
    afterwards; so are threads started, which wait at a gate.
    """
    request, arena, call = job.request, job.arena, job.request.call
    if request.cores:
        os.sched_setaffinity(0, request.cores[:1])
    privileges.set_priority(_NICE)
    privileges.limit(memory=call.run_memory, cpu_s=call.run_timeout_s * call.threads)
    layers = NOTHING if job.cage is None else job.cage.enter_candidate()
    side = _ObjectCode(job) if job.open_device is None else _OnDevice(job, job.open_device)
    for region in arena.written:
        region.view[:] = _POISON
        region.arm()
    side.fill()
    _confine(job, layers)
    area.reach(FailureStage.RUN)
    side.release()
    stack = None
    if job.native is not None:
        probe = call.run_memory // _PROBE_SHARE
        stack = privileges.report_faults(job.native, area.report, probe)
    start = time.perf_counter()
    ns = times(side.time, call, side.clock)
    spent = time.perf_counter() - start
    side.fetch()
    del stack
    for region in arena.written:
        sentence = region.broken()
        if sentence is not None:
            return failure(FailureStage.RUN, FailureKind.OUT_OF_BOUNDS, sentence)
    if arena.output is not None:
        _copy_outputs(arena.outputs, arena.output)
    return RunReply(ns=ns, timed_s=spent, clock=side.clock.value)


def _confine(job: Job, layers: Layer) -> None:
    """Give up the last rights, and tell what is in force besides the session's own layers."""
    privileges.forbid_processes()
    if job.cage is None:
        privileges.forbid_system_calls()
    else:
        layers |= job.cage.forbid_system_calls()
    os.write(job.tell_layers, int(layers).to_bytes(LAYERS_BYTES, "little"))
    os.close(job.tell_layers)


class _ObjectCode:
    """Object code, called directly on the arena."""

    clock = Clock.HOST

    def __init__(self, job: Job) -> None:
        request, call, arena = job.request, job.request.call, job.arena
        if job.native is None:
            raise InternalError("object code without a native runtime")
        kernel = call.loadable(request.code)
        require_form(kernel, CPU, Form.OBJECT)
        allowed = RUNTIME_SYMBOLS if request.of_runtime else KERNEL_SYMBOLS
        self._code = link(request.code, (call.entry,), allowed)
        pool = ThreadPool(call.threads, job.native, cores=request.cores, held=True)
        self.release = pool.release
        addresses = [region.data for region in arena.arguments]
        entry = self._code[call.entry]
        self.time = timer(job.native, entry, addresses, arena.workspace.data, pool)

    def fill(self) -> None:
        """Nothing to do: the arguments are in place."""

    def fetch(self) -> None:
        """Nothing to do: so are the outputs."""


class _OnDevice:
    """A kernel on a device of its own, with copies of the arena's arguments."""

    def __init__(self, job: Job, open_device: OpenDevice) -> None:
        call = job.request.call
        self._arena = job.arena
        self._device = open_device(call.threads)
        self._kernel = self._device.load(call.loadable(job.request.code))
        self._buffers = [self._device.alloc(region.nbytes) for region in job.arena.arguments]
        self.clock = self._device.clock

    def release(self) -> None:
        """Nothing to do: it started no threads."""

    def fill(self) -> None:
        """Copy all arguments in, outputs too: poison shows where the kernel wrote nothing."""
        for buffer, region in zip(self._buffers, self._arena.arguments, strict=True):
            self._device.copy_in(buffer, region.view)

    def time(self, count: int) -> CallTiming:
        """Call the kernel a number of times."""
        return self._kernel.time(self._buffers, count)

    def fetch(self) -> None:
        """Copy the outputs back and close the device."""
        outputs = self._arena.outputs
        at = len(self._buffers) - len(outputs)
        for buffer, region in zip(self._buffers[at:], outputs, strict=True):
            self._device.copy_out(buffer, region.view)
        self._device.close()


def times(call: TimeCalls, run: KernelCall, clock: Clock = Clock.HOST) -> tuple[float, ...]:
    """Nanoseconds per call, one figure per batch; only one if two calls are too slow, or if the
    clock counts cycles, which are the same each time.

    The first call is cold (page faults, caches) and often several times slower than the next, so
    the second one decides whether a candidate is abandoned.

    A disturbed batch is repeated, at most as many times as there are batches; the figures are those
    that were not disturbed and, if too few, the least of the others.
    """
    once = call(1)
    if clock is Clock.CYCLES:
        return (once.ns,)
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


def _calibrated(call: TimeCalls, once: CallTiming, wanted_ns: float) -> CallTiming:
    """A batch of at least `wanted_ns`; `once` is a first estimate of the time of a call."""
    count = max(1, math.ceil(wanted_ns / max(once.total_ns, 1)))
    batch = call(count)
    for _ in range(_MAX_CALIBRATIONS):
        if batch.total_ns >= wanted_ns:
            break
        count = math.ceil(count * max(1.1, wanted_ns / max(batch.total_ns, 1) * 1.05))
        batch = call(count)
    return batch


def _copy_outputs(outputs: Sequence[GuardedRegion], shared: mmap.mmap) -> None:
    at = 0
    for region in outputs:
        shared[at : at + region.nbytes] = region.view.data
        at += region.nbytes


def describe_signal(number: int) -> str:
    """`SIGSEGV`, or `signal 99` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

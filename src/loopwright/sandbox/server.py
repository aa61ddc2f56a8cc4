"""The measuring process: single-threaded, small, and forked once for every candidate.

It starts before anything large is loaded and imports no compiler part of Loopwright. It holds the
input data (made once, read-only, shared with the children by copy-on-write), forks, waits, kills
what takes too long, and reports the result. It ends when its client goes away.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from loopwright import weights
from loopwright.errors import EnvironmentFailure, LoopwrightError
from loopwright.kernel_call import CPU, Clock, KernelCall, WireParam
from loopwright.layout import Layout, Part
from loopwright.outcome import FailureKind, FailureStage
from loopwright.runtime.cpu import gate
from loopwright.runtime.cpu.native import Native, linked_runtime
from loopwright.runtime.device import OpenDevice
from loopwright.runtime.devices import opener
from loopwright.sandbox import child, inputs, privileges
from loopwright.sandbox.confine import Cage
from loopwright.sandbox.guard import GuardedRegion, Place, allocate
from loopwright.sandbox.layers import NOTHING, Layer
from loopwright.sandbox.wire import RunReply, RunRequest, ServerReady, receive, send

_INPUT_CACHE_BYTES = 2 << 30
_INPUT_CACHE_SHARE = 8  # at most this part of the machine's memory
_STDERR_BYTES = 4096
_REAP_S = 2.0
_MAX_DESCRIPTORS = 65536


@dataclass(slots=True)
class InputCache:
    """Filled, read-only inputs by content; the least recently used are evicted first."""

    limit: int
    regions: OrderedDict[tuple[int, int, WireParam], GuardedRegion] = field(
        default_factory=OrderedDict
    )

    def get(self, seed: int, index: int, param: WireParam, keep: int) -> GuardedRegion:
        """Argument `index` as `param` lays it out; never drops the `keep` most recent ones."""
        key = (seed, index, param)
        region = self.regions.get(key)
        if region is None:
            region = self._fill(seed, index, param)
            self.regions[key] = region
        self.regions.move_to_end(key)
        while len(self.regions) > keep and self._used() > self.limit:
            _, old = self.regions.popitem(last=False)
            old.free()
        return region

    def _used(self) -> int:
        return sum(r.nbytes for r in self.regions.values())

    def _fill(self, seed: int, index: int, param: WireParam) -> GuardedRegion:
        plain = inputs.generate(param.dtype, param.shape, seed, index)
        packed = _layout(param).pack(weights.apply(param.transform, plain))
        region = allocate(param.name, packed.nbytes)
        region.view[:] = packed.reshape(-1).view("u1")
        region.arm()
        region.freeze()
        return region


class Server:
    """Serves one client on `sock`; outputs go to the file `output_fd`.

    Candidates are confined by `cage`, which this process has entered as a session, with `layers` in
    force. Without `code`
    the native runtime comes with the first request. Object code is called by the child itself; code
    for another kind of device runs on one that the child opens.
    """

    def __init__(
        self,
        sock: socket.socket,
        output_fd: int,
        code: Native | None,
        cage: Cage | None = None,
        layers: Layer = NOTHING,
    ) -> None:
        self._sock = sock
        self._output_fd = output_fd
        self._native = code
        self._cage = cage
        self._layers = layers
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._inputs = InputCache(min(_INPUT_CACHE_BYTES, physical // _INPUT_CACHE_SHARE))
        self._area = child.Area()
        self._printed = os.memfd_create("printed")
        self._null = os.open(os.devnull, os.O_RDONLY)
        with contextlib.suppress(LoopwrightError):  # said when a candidate needs it
            gate.mapped()  # once and not in each child

    def serve(self) -> None:
        """Answer requests until the client goes away."""
        send(self._sock, ServerReady(os.getpid()))
        while True:
            request = receive(self._sock, RunRequest)
            start = time.perf_counter()
            try:
                reply = self._answer(request)
            except LoopwrightError as e:
                reply = child.failure(FailureStage.LOAD, FailureKind.LOAD_ERROR, str(e))
            except MemoryError:
                reply = child.failure(
                    FailureStage.LOAD, FailureKind.RUN_MEMORY, "no memory for arguments"
                )
            except Exception as e:  # noqa: BLE001  # the boundary of a request: others go on
                detail = f"not a valid request: {type(e).__name__}: {e}"
                reply = child.failure(FailureStage.LOAD, FailureKind.LOAD_ERROR, detail)
            spent = time.perf_counter() - start
            send(self._sock, msgspec.structs.replace(reply, run_s=spent))

    def _answer(self, request: RunRequest) -> RunReply:
        """The reply to a request; no candidate is blamed for a missing runtime."""
        if request.runtime:
            self._native = None
            try:
                self._native = linked_runtime(request.runtime)
            except EnvironmentFailure as e:
                why = f"the native runtime cannot be linked: {e}"
                return child.failure(FailureStage.LOAD, FailureKind.WORKER_LOST, why)
        kind = request.call.kind
        if kind == CPU:
            if self._native is None:
                why = "there is no native runtime here; clients of this version bring one"
                return child.failure(FailureStage.LOAD, FailureKind.WORKER_LOST, why)
            return msgspec.structs.replace(self._measure(request, None), clock=Clock.HOST.value)
        try:
            open_device = opener(kind)
        except LoopwrightError as e:
            return child.failure(FailureStage.LOAD, FailureKind.WORKER_LOST, str(e))
        return self._measure(request, open_device)

    def _measure(self, request: RunRequest, open_device: OpenDevice | None) -> RunReply:
        run = request.call
        sizes = [_nbytes(p) for p in run.params]
        total = sum(sizes) + run.workspace
        if total > run.run_memory:
            detail = f"arguments and workspace take {total} bytes, the limit is {run.run_memory}"
            return child.failure(FailureStage.LOAD, FailureKind.RUN_MEMORY, detail)
        arena = self._arena(run, sizes)
        try:
            reply = self._confined_run(request, arena, open_device)
            nbytes = 0 if arena.output is None or reply.kind else len(arena.output)
            return msgspec.structs.replace(reply, output=nbytes)
        finally:
            for region in arena.written:
                region.free()
            if arena.output is not None:
                arena.output.close()

    def _arena(self, run: KernelCall, sizes: list[int]) -> child.Arena:
        n_inputs = len(run.params) - run.n_outputs
        arguments = [
            self._inputs.get(run.seed, index, param, n_inputs)
            for index, param in enumerate(run.params[:n_inputs])
        ]
        for param, nbytes in zip(run.params[n_inputs:], sizes[n_inputs:], strict=True):
            arguments.append(allocate(param.name, nbytes))
        workspace = allocate("the workspace", run.workspace)
        output: mmap.mmap | None = None
        nbytes = sum(sizes[n_inputs:])
        if run.want_output and nbytes:
            os.ftruncate(self._output_fd, nbytes)
            output = mmap.mmap(self._output_fd, nbytes)
        return child.Arena(tuple(arguments), workspace, run.n_outputs, output)

    def _confined_run(
        self, request: RunRequest, arena: child.Arena, open_device: OpenDevice | None
    ) -> RunReply:
        """The reply of a child, with the layers that it told before it ran anything."""
        told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            job = child.Job(request, arena, self._native, tell, self._cage, open_device)
            reply = self._run(job)
            with contextlib.suppress(BlockingIOError):
                bits = os.read(told, child.LAYERS_BYTES)
                layers = self._layers | Layer(int.from_bytes(bits, "little"))
                reply = msgspec.structs.replace(reply, layers=int(layers))
            return reply
        finally:
            os.close(told)
            os.close(tell)

    def _run(self, job: child.Job) -> RunReply:
        run = job.request.call
        token = os.urandom(child.TOKEN_BYTES)
        self._area.clear()
        os.ftruncate(self._printed, 0)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(parent, job.tell_layers)
            child.main(job, self._area, token)
        in_time = self._wait(pid, run.run_timeout_s)
        virtual = 0 if in_time else _virtual_bytes(pid)
        status = self._finish(pid)
        told = self._area.told(token)
        if told is not None and in_time and status == 0:
            return told
        if not in_time:
            if virtual > run.run_memory * 3 // 4 + _virtual_bytes(parent):
                return child.failure(
                    self._area.stage,
                    FailureKind.RUN_MEMORY,
                    f"held {virtual} bytes at the time limit",
                )
            detail = f"not done after {run.run_timeout_s:g} s"
            return child.failure(self._area.stage, FailureKind.RUN_TIMEOUT, detail)
        return self._explain(status, run, job.arena)

    def _become_child(self, parent: int, tell_layers: int) -> None:
        """Detach from the server's session, descriptors and signals; output goes to a file."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # shells make background jobs ignore it
        os.setsid()
        privileges.die_with_parent(parent)
        os.lseek(self._printed, 0, os.SEEK_SET)
        os.dup2(self._null, 0)
        os.dup2(self._printed, 1)
        os.dup2(self._printed, 2)
        at = 3
        for kept in sorted({tell_layers, *(() if self._cage is None else self._cage.descriptors)}):
            os.closerange(at, kept)
            at = kept + 1
        os.closerange(at, min(os.sysconf("SC_OPEN_MAX"), _MAX_DESCRIPTORS))

    def _wait(self, pid: int, timeout_s: float) -> bool:
        """True when `pid` ended within `timeout_s`; ends this process if the client has gone."""
        watch = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            poll.register(self._sock, 0)  # a hang-up is always reported
            ready = poll.poll(timeout_s * 1000)
        finally:
            os.close(watch)
        ended = any(fd == watch for fd, _ in ready)
        if ready and not ended:
            self._finish(pid)
            sys.exit(0)
        return ended

    def _finish(self, pid: int) -> int:
        """Exit status of `pid` (negative: the signal), ended with everything that it started."""
        for kill, target in ((os.killpg, pid), (os.kill, pid)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(target, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        deadline = time.monotonic() + _REAP_S
        while strays := privileges.children(os.getpid()):
            for stray in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stray, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)
            if time.monotonic() > deadline:
                sys.exit(1)  # the client starts another server; the kernel reaps
        return os.waitstatus_to_exitcode(status)

    def _explain(self, status: int, run: KernelCall, arena: child.Arena) -> RunReply:
        """Why the child ended without a reply."""
        stage, fault = self._area.stage, self._area.fault
        last = self._last_line()
        if stage is FailureStage.LOAD:
            detail = f"the loader ended with {_ending(status)}{last}"
            return child.failure(stage, FailureKind.LOAD_ERROR, detail)
        if status == -signal.SIGXCPU:
            detail = f"used more than {run.run_timeout_s * run.threads:g} s of processor time"
            return child.failure(stage, FailureKind.RUN_TIMEOUT, detail)
        if status == -signal.SIGKILL:
            detail = "killed by the system, which does so when memory runs out"
            return child.failure(stage, FailureKind.RUN_MEMORY, detail)
        if status == -signal.SIGSYS:
            detail = "made a system call that no kernel needs, as one that starts (SIGSYS)"
            crash = child.failure(stage, FailureKind.CRASH, detail)
            return msgspec.structs.replace(crash, violation=True)
        if fault.signal and fault.exhausted:
            detail = f"{_ending(status)} with the limit of {run.run_memory} bytes used up"
            return child.failure(stage, FailureKind.RUN_MEMORY, detail)
        if fault.signal in (signal.SIGSEGV, signal.SIGBUS):
            where = _locate(fault.address, arena)
            if where is not None:
                return child.failure(stage, FailureKind.OUT_OF_BOUNDS, where)
            return child.failure(stage, FailureKind.CRASH, self._fault(status, fault) + last)
        return child.failure(stage, FailureKind.CRASH, f"ended with {_ending(status)}{last}")

    def _fault(self, status: int, fault: child.FaultReport) -> str:
        below = _stack_top() - fault.address
        if 0 <= below < (64 << 20):
            return f"{_ending(status)}: stack overflow, {below} bytes deep"
        return f"{_ending(status)} at address {fault.address:#x}"

    def _last_line(self) -> str:
        """What the child printed last, ready to be appended to a sentence."""
        text = os.pread(self._printed, _STDERR_BYTES, max(0, _size(self._printed) - _STDERR_BYTES))
        lines = text.decode(errors="replace").strip().splitlines()
        return f"; it printed: {lines[-1][:200]}" if lines else ""


def _layout(param: WireParam) -> Layout:
    return Layout(tuple(Part(*part) for part in param.layout))


def _nbytes(param: WireParam) -> int:
    total = inputs.STORAGE[param.dtype].itemsize
    shape = weights.stored_shape(param.transform, param.shape)
    for extent in _layout(param).physical_shape(shape):
        total *= extent
    return total


def _locate(address: int, arena: child.Arena) -> str | None:
    """A sentence about a faulting address that belongs to an argument, or None."""
    written = arena.written
    for region in (*arena.arguments, arena.workspace):
        place = region.place(address)
        if place is Place.INSIDE and region not in written:
            return f"wrote into input {region.name} at byte {address - region.data}"
        if place is Place.BEFORE:
            return f"reached {region.data - address} bytes {place.value} {region.name}"
        if place is Place.PAST:
            end = region.data + region.nbytes
            return f"reached {address - end + 1} bytes {place.value} {region.name}"
    return None


def _ending(status: int) -> str:
    return child.describe_signal(-status) if status < 0 else f"exit({status}) before it was done"


def _virtual_bytes(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[0]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _stack_top() -> int:
    """The end of the main stack, also of forked children; 0 if unknown."""
    with contextlib.suppress(OSError), Path("/proc/self/maps").open() as maps:
        for line in maps:
            if line.rstrip().endswith("[stack]"):
                return int(line.split()[0].split("-")[1], 16)
    return 0

"""From an item of a batch to a request of the measuring process, and back to a result."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from loopwright.fleet.agent.options import SessionLimits
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import KIND_OF, STATUS_OF, RunStatus, Tier
from loopwright.kernel_call import CPU, Clock, KernelCall
from loopwright.outcome import FailureKind, FailureStage
from loopwright.sandbox import inputs
from loopwright.sandbox.layers import Layer, tier_of
from loopwright.sandbox.wire import RunReply, RunRequest

MAX_REPEATS = 4096
LEAST_CALL_NS = 0.2  # a call and a return: a cycle each at 10 GHz
STORED_BYTES_A_NS = 1536.0
"""Bytes a core can store in a nanosecond, at most: four times what two stores of 32 bytes a cycle
at 6 GHz are, the most that processors do today, into their first cache.
"""


def excess(item: KernelCall, limits: SessionLimits, cores: Sequence[int]) -> str | None:
    """A sentence about what an item asks for beyond what the device allows, or None."""
    pairs = (
        ("threads", item.threads, max(1, len(cores))),
        ("repeats", item.repeats, MAX_REPEATS),
        ("ms of run time", item.run_timeout_ms, int(limits.wall_s * 1000)),
        ("bytes of memory", item.run_memory, limits.memory),
        ("outputs", item.n_outputs, len(item.params)),
    )
    for what, asked, allowed in pairs:
        if asked > allowed:
            return f"asks for {asked} {what}, {allowed} are allowed here"
    if item.threads < 1 or item.repeats < 1 or item.run_timeout_ms < 1:
        return "asks for no thread, no repeat or no time"
    return None


def request_of(item: KernelCall, code: bytes, cores: Sequence[int]) -> RunRequest:
    """What the measuring process is asked. A kernel gets the last cores: others use the first."""
    return RunRequest(item, code, tuple(cores[len(cores) - item.threads :]))


def canary_request(
    runtime: bytes, entry: str, cores: Sequence[int], run_timeout_s: float
) -> RunRequest:
    """A run of the canary `entry` of a native runtime, on the last core of a device."""
    call = KernelCall(
        id=0,
        code=hashlib.sha256(runtime).digest(),
        entry=entry,
        params=(),
        n_outputs=0,
        workspace=0,
        threads=1,
        seed=0,
        want_output=False,
        warmup=1,
        repeats=3,
        min_repeat_us=1000,
        run_timeout_ms=round(run_timeout_s * 1000),
        run_memory=64 << 20,
    )
    return RunRequest(call, runtime, tuple(cores[-1:]), of_runtime=True)


def result_of(item: KernelCall, reply: RunReply, wall_s: float) -> Result:
    """The result of an item, which took `wall_s` by the agent's own clock."""
    if reply.kind:
        kind = FailureKind(reply.kind)
        status = RunStatus.SANDBOX_VIOLATION if reply.violation else STATUS_OF[kind]
        return Result(
            id=item.id,
            status=status.value,
            stage=reply.stage,
            kind=reply.kind,
            detail=reply.detail,
            run_s=max(0.0, reply.run_s),
        )
    why = implausible(reply, wall_s)
    if why is not None:
        return failed(item, RunStatus.INFRA, why)
    why = impossible(item, reply)
    if why is not None:
        return failed(item, RunStatus.IMPOSSIBLE_TIME, why)
    return Result(id=item.id, status=RunStatus.OK.value, ns=reply.ns, run_s=reply.run_s)


def failed(item: KernelCall, status: RunStatus, detail: str) -> Result:
    """The result of an item that the candidate is not to blame for."""
    kind = KIND_OF[status]
    return Result(
        id=item.id,
        status=status.value,
        stage=FailureStage.RUN.value,
        kind=kind.value,
        detail=detail,
    )


def tier_in_force(reply: RunReply) -> Tier | None:
    """How the code of a reply was confined when it ran; None if nothing of it ran."""
    return None if reply.layers is None else Tier(tier_of(Layer(reply.layers)))


def impossible(item: KernelCall, reply: RunReply) -> str | None:
    """A sentence when no processor could write the outputs in the times told, or None.

    What is timed shares its process with what tells the time, and may have written that itself.
    """
    if item.kind != CPU:
        return None
    outputs = item.params[len(item.params) - item.n_outputs :]
    nbytes = sum(math.prod(p.shape) * inputs.STORAGE[p.dtype].itemsize for p in outputs)
    least = max(LEAST_CALL_NS, nbytes / (STORED_BYTES_A_NS * item.threads))
    if min(reply.ns) >= least:
        return None
    return (
        f"a call in {min(reply.ns):.4g} ns is not possible: {nbytes} bytes of outputs take "
        f"{least:.4g} ns at least"
    )


def implausible(reply: RunReply, wall_s: float) -> str | None:
    """A sentence when times cannot be what the clock of this process says they are, or None."""
    if not reply.ns or not all(math.isfinite(ns) and ns > 0 for ns in reply.ns):
        return "the times are not valid"
    told = sum(reply.ns) / 1e9 if reply.clock == Clock.HOST.value else 0.0
    if told > reply.timed_s or reply.timed_s > reply.run_s or reply.run_s > wall_s:
        return f"times of {told:.6f} s in all do not fit into a run of {wall_s:.6f} s"
    return None

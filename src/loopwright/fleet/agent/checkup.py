"""Whether a device does its work and is as fast as it was, found out by its canary."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.fleet.agent import runs
from loopwright.fleet.agent.canary import Canary
from loopwright.fleet.words import Health
from loopwright.kernel_call import KernelCall
from loopwright.sandbox.wire import RunReply, RunRequest

CANARY_S = 10.0
Asker: TypeAlias = Callable[[RunRequest, float], Awaitable[RunReply]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a device's health is, and why."""

    health: Health
    detail: str = ""


def song(code: bytes, entry: str, cores: Sequence[int]) -> RunRequest:
    """A run of the canary `entry` in the runtime `code`, on the last core of a device."""
    call = KernelCall(
        id=0,
        code=hashlib.sha256(code).digest(),
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
        run_timeout_ms=round(CANARY_S / 2 * 1000),
        run_memory=64 << 20,
    )
    return RunRequest(call, code, tuple(cores[-1:]))


async def sing(
    ask: Asker, request: RunRequest, times: int, canary: Canary, clock: Callable[[], float]
) -> Finding:
    """Run the canary a few times and judge.

    Raises: WorkerLost, BlobError as `ask` does.
    """
    for _ in range(times):
        start = clock()
        reply = await ask(request, CANARY_S)
        if reply.kind:
            return Finding(Health.BAD, f"the canary failed: {reply.detail}")
        why = runs.untrue(reply, clock() - start)
        if why is not None:
            return Finding(Health.BAD, f"the canary failed: {why}")
        canary.observe(min(reply.ns))
    return verdict(canary)


def verdict(canary: Canary) -> Finding:
    """What its runs so far say."""
    if canary.off and canary.allowed:
        return Finding(Health.DRIFT, f"the canary is off by {canary.drift:+.1%}")
    if canary.gained > 0:
        return Finding(
            Health.GOOD,
            f"the canary takes {canary.gained:.1%} less than when the agent started; "
            "what it takes now counts",
        )
    return Finding(Health.GOOD)

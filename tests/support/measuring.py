"""A measuring process as sessions have it, unconfined, for callers without an event loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

import msgspec

from loopwright.codegen.artifact import Artifact
from loopwright.fleet.agent import runs
from loopwright.fleet.agent.wardens import WardenHandle, WardenOptions, Worker
from loopwright.fleet.client.loop import LoopThread
from loopwright.fleet.client.results import outputs_of
from loopwright.fleet.client.session import item_of
from loopwright.measure.pipeline import Run, RunResult
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan, Timed, cores_for
from loopwright.runtime.cpu.native import runtime_object

_LIFE_S = 3600.0
_WAIT_S = 60.0


class Measuring:
    """One process, a warden's child, that measures kernels one after the other."""

    def __init__(self, cache_dir: Path) -> None:
        self._runtime = runtime_object(cache_dir)
        self._thread = LoopThread("measuring")
        self._warden, self._worker = self._thread.run(_begun(cache_dir), _WAIT_S)

    def run(
        self, artifact: Artifact, plan: MeasurePlan, *, seed: int = 0, want_output: bool = False
    ) -> RunResult:
        """What comes of a kernel, and its outputs where they are wanted."""
        item = item_of(1, Run(artifact, plan, seed, want_output), bytes(32))
        request = runs.request_of(item, artifact.code, cores_for(plan.threads))
        if self._runtime:  # once
            request = msgspec.structs.replace(request, runtime=self._runtime)
            self._runtime = b""
        reply = self._thread.run(self._worker.run(request, _WAIT_S), _WAIT_S)
        if reply.kind:
            return RunResult(
                Failed(FailureStage(reply.stage), FailureKind(reply.kind), reply.detail)
            )
        outcome = Timed(reply.ns, min(reply.ns), run_s=reply.run_s)
        if not reply.output:
            return RunResult(outcome)
        with self._worker.output(reply.output) as data:
            return RunResult(outcome, outputs_of(artifact, bytes(data)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.run(self._warden.close(), _WAIT_S)
        self._thread.close()


async def _begun(cache_dir: Path) -> tuple[WardenHandle, Worker]:
    warden = WardenHandle(WardenOptions("measuring", cache_dir), lambda _: None)
    await warden.start()
    return warden, await warden.begin(time.monotonic() + _LIFE_S)

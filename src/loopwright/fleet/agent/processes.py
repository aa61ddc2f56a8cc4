"""The driver of devices that processes of this machine use: a warden starts those of a session.

A candidate runs in a process of its own, confined, which opens the device of the runtime that its
call names (`runtime.devices`). So a kind of device that has one needs no driver besides this.
"""

from __future__ import annotations

from loopwright.fleet.agent import describe, runs
from loopwright.fleet.agent.driver import (
    CanaryRun,
    DriverContext,
    DriverError,
    DriverEvents,
    DriverFacts,
    ItemOutcome,
)
from loopwright.fleet.agent.keeper import Keeper
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.agent.wardens import WardenOptions, Worker
from loopwright.fleet.words import RunStatus
from loopwright.kernel_call import KernelCall
from loopwright.outcome import FailureKind
from loopwright.sandbox.wire import RunReply, RunRequest

_OVERHEAD_BYTES = 4 << 30  # of a session besides what a candidate may have: inputs that are kept


class ProcessDriver:
    """A device of the runtime. Its place is the options of its target string."""

    def __init__(self, spec: DeviceOptions, context: DriverContext) -> None:
        self.worker: Worker | None = None  # the measuring process of the session
        self._spec = spec
        self._options = context.options
        self._clock = context.clock
        self._rng = context.rng
        self.keeper = self._new_keeper()

    def _new_keeper(self, runtime_file: str = "") -> Keeper:
        """What keeps the warden, of a host that has its native runtime in a file if it has one."""
        spec, options = self._spec, self._options
        warden = WardenOptions(
            spec.name,
            options.cache_dir,
            cores=spec.cores,
            tier=options.tier,
            uid=spec.uid,
            memory=options.limits.memory + _OVERHEAD_BYTES,
            bare=not runtime_file,
            runtime_file=runtime_file,
            slack_s=options.timers.warden_s,
        )
        return Keeper(warden, options.timers.restart_s, self._rng)

    async def describe(self) -> DriverFacts:
        """What the runtime says of the device. Raises: EnvironmentFailure."""
        spec = self._spec
        found = await describe.describe_device(f"{spec.kind} {spec.place}".strip())
        labels = {"target": found.key, "model": found.model}
        return DriverFacts(spec.kind, found.target, found.device, labels, spec.cores)

    # --- the warden ---

    @property
    def ready(self) -> bool:
        """Whether there is a warden."""
        return self.keeper.alive

    @property
    def pids(self) -> tuple[int, ...]:
        """The warden and the measuring process, those that are there."""
        held = (self.keeper.warden, self.worker)
        return tuple(one.pid for one in held if one is not None and one.pid)

    async def keep(self, events: DriverEvents) -> None:
        """Start a warden."""
        await self.keeper.keep(events)

    def beat(self, now: float) -> None:
        """Check that the warden answers."""
        if self.keeper.warden is not None:
            self.keeper.warden.beat(now)

    async def close(self) -> None:
        """End the warden, with everything below it."""
        await self.keeper.close()

    # --- sessions ---

    async def begin(self, deadline: float, patience_s: float) -> None:
        """Start a measuring process. Raises: WorkerLost."""
        self.worker = await self.keeper.worker(deadline, patience_s)

    def extend(self, deadline: float) -> None:
        """Let it live."""
        if self.worker is not None:
            self.worker.extend(deadline)

    async def clean(self) -> bool:
        """End it by the kill ladder, and all that it started."""
        worker, self.worker = self.worker, None
        return worker is None or (await worker.end()).clean

    async def place(self, kind: str, code: bytes) -> None:
        """It takes no modules. Raises: DriverError."""
        del code
        raise DriverError(f"a device of kind {self._spec.kind} takes no module {kind}")

    async def run(self, item: KernelCall, code: bytes, limit_s: float) -> ItemOutcome:
        """Run a kernel. Raises: WorkerLost."""
        start = self._clock()
        reply, worker = await self._ask(runs.request_of(item, code, self._spec.cores), limit_s)
        result = runs.result_of(item, reply, self._clock() - start)
        suspect = reply.kind == FailureKind.WORKER_LOST.value  # the sandbox is not what it was
        tier = runs.tier_in_force(reply)
        if reply.output and result.status == RunStatus.OK.value:
            return ItemOutcome(result, memoryview(worker.output(reply.output)), suspect, tier)
        return ItemOutcome(result, suspect=suspect, tier=tier)

    async def _ask(self, request: RunRequest, limit_s: float) -> tuple[RunReply, Worker]:
        """The answer to a request, and who answered. Raises: WorkerLost, DriverError."""
        worker = self.worker
        if worker is None:
            raise DriverError("there is no measuring process")
        return await worker.run(request, limit_s), worker

    async def canary(self) -> CanaryRun:
        """It has none."""
        return CanaryRun(None)

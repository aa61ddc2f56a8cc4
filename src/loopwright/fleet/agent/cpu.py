"""The driver of processors: cores of this machine, on which processes of a warden run candidates.

What calls candidates is a native runtime, as object code. It is the host's own, where that has a
compiler, or one that a client brought as the module `runtime`.
"""

from __future__ import annotations

import msgspec

from loopwright.errors import ConfigError
from loopwright.fleet.agent import describe, runs
from loopwright.fleet.agent.driver import (
    CanaryFailed,
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
from loopwright.fleet.words import RUNTIME, RunStatus
from loopwright.kernel_call import KernelCall
from loopwright.outcome import FailureKind
from loopwright.sandbox.wire import RunReply, RunRequest

CANARY_S = 10.0
_OVERHEAD_BYTES = 4 << 30  # of a session beside what a candidate may have: inputs that are kept


class CpuDriver:
    """Cores of this machine.

    Raises: ConfigError for a device without any.
    """

    def __init__(self, spec: DeviceOptions, context: DriverContext) -> None:
        if not spec.cores:
            raise ConfigError(f"device {spec.name}: a processor needs cores; write NAME=2,3")
        self._spec = spec
        self._options = context.options
        self._clock = context.clock
        self._rng = context.rng
        self._keeper: Keeper | None = None
        self._worker: Worker | None = None
        self._own = b""  # the host's native runtime, empty without one
        self._canary = ""  # the name of the canary in runtimes
        self._runtime = b""  # the one in place
        self._brought = False  # it goes along with the next request

    async def describe(self) -> DriverFacts:
        """What this machine is. Raises: EnvironmentFailure when that cannot be found out."""
        options, cores = self._options, self._spec.cores
        machine = await describe.describe(options.cache_dir)
        self._own, self._canary = machine.runtime, machine.canary
        warden = WardenOptions(
            self._spec.name,
            options.cache_dir,
            cores=cores,
            tier=options.tier,
            uid=self._spec.uid,
            memory=options.limits.memory + _OVERHEAD_BYTES,
            bare=not self._own,
            slack_s=options.timers.warden_s,
        )
        self._keeper = Keeper(warden, options.timers.restart_s, self._rng)
        return DriverFacts(
            "cpu",
            machine.target_of(cores),
            machine.device,
            labels={"arch": machine.arch, "target": machine.key, "cores": str(len(cores))},
            cores=cores,
            modules={RUNTIME: self._own} if self._own else {},
            takes=frozenset({RUNTIME}),
        )

    # --- the warden ---

    @property
    def keeper(self) -> Keeper:
        """What keeps the warden.

        Raises: DriverError before the machine was described.
        """
        if self._keeper is None:
            raise DriverError("the machine was not described yet")
        return self._keeper

    @property
    def worker(self) -> Worker | None:
        """The measuring process of the session, None without."""
        return self._worker

    @property
    def ready(self) -> bool:
        """Whether there is a warden."""
        return self.keeper.alive

    @property
    def pids(self) -> tuple[int, ...]:
        """The warden and the measuring process, those that are there."""
        warden = self.keeper.warden
        worker = 0 if self._worker is None else self._worker.pid
        return tuple(pid for pid in (0 if warden is None else warden.pid, worker) if pid)

    async def keep(self, events: DriverEvents) -> None:
        """Have a warden."""
        await self.keeper.keep(events)

    def beat(self, now: float) -> None:
        """See that the warden answers."""
        if self.keeper.warden is not None:
            self.keeper.warden.beat(now)

    async def close(self) -> None:
        """End the warden, with everything below it."""
        if self._keeper is not None:
            await self._keeper.close()

    # --- sessions ---

    async def begin(self, deadline: float, patience_s: float) -> None:
        """Have a measuring process. Raises: WorkerLost."""
        self._worker = await self.keeper.worker(deadline, patience_s)
        self._runtime, self._brought = self._own, False

    def extend(self, deadline: float) -> None:
        """Let it live."""
        if self._worker is not None:
            self._worker.extend(deadline)

    async def clean(self) -> bool:
        """End it by the kill ladder, and all that it started."""
        worker, self._worker = self._worker, None
        return worker is None or (await worker.end()).clean

    async def place(self, kind: str, code: bytes) -> None:
        """Use another native runtime from the next request on: the process links it then."""
        if kind != RUNTIME:
            raise DriverError(f"processors take no module {kind}")
        self._runtime, self._brought = code, True

    async def run(self, item: KernelCall, code: bytes, limit_s: float) -> ItemOutcome:
        """Run a kernel. Raises: WorkerLost."""
        start = self._clock()
        reply, worker = await self._ask(runs.request_of(item, code, self._spec.cores), limit_s)
        result = runs.result_of(item, reply, self._clock() - start)
        suspect = reply.kind == FailureKind.WORKER_LOST.value  # the sandbox is not what it was
        if reply.output and result.status == RunStatus.OK.value:
            return ItemOutcome(result, memoryview(worker.output(reply.output)), suspect)
        return ItemOutcome(result, suspect=suspect)

    async def _ask(self, request: RunRequest, limit_s: float) -> tuple[RunReply, Worker]:
        """What comes of a request, with the native runtime in place, and who answered.

        Raises: WorkerLost, DriverError.
        """
        worker = self._worker
        if worker is None:
            raise DriverError("there is no measuring process")
        if self._brought:
            request = msgspec.structs.replace(request, runtime=self._runtime)
        reply = await worker.run(request, limit_s)
        self._brought = False
        return reply, worker

    async def canary(self) -> CanaryRun:
        """Time the canary of the runtime in place, on the last core. Raises: DriverError."""
        if not self._runtime:
            return CanaryRun(None, "no native runtime of its own: clients bring theirs")
        request = runs.canary_request(self._runtime, self._canary, self._spec.cores, CANARY_S / 2)
        start = self._clock()
        reply, _ = await self._ask(request, CANARY_S)
        why = reply.detail if reply.kind else runs.untrue(reply, self._clock() - start)
        if why is not None:
            raise CanaryFailed(f"the canary failed: {why}")
        return CanaryRun(min(reply.ns))

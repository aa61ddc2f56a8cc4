"""The driver of processors: cores of this machine.

What calls candidates there is a native runtime, as object code. It is the host's own, where that
has a compiler, or one that a client brought as the module `runtime`.
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
    DriverFacts,
)
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.agent.processes import ProcessDriver
from loopwright.fleet.agent.wardens import Worker
from loopwright.fleet.words import RUNTIME
from loopwright.sandbox.wire import RunReply, RunRequest

_CANARY_S = 10.0


class CpuDriver(ProcessDriver):
    """Cores of this machine.

    Raises: ConfigError for a device without any.
    """

    def __init__(self, spec: DeviceOptions, context: DriverContext) -> None:
        if not spec.cores:
            raise ConfigError(f"device {spec.name}: a processor needs cores; write NAME=2,3")
        super().__init__(spec, context)
        self._own = b""  # the host's native runtime, empty without one
        self._canary = ""  # the name of the canary in runtimes
        self._runtime = b""  # the one in place
        self._brought = False  # it is sent with the next request

    async def describe(self) -> DriverFacts:
        """What this machine is. Raises: EnvironmentFailure when that cannot be found out."""
        cores = self._spec.cores
        machine = await describe.describe(self._options.cache_dir)
        self._own, self._canary = machine.runtime, machine.canary
        self.keeper = self._new_keeper(machine.runtime_file if self._own else "")
        return DriverFacts(
            self._spec.kind,
            machine.target_of(cores),
            machine.device,
            labels={"arch": machine.arch, "target": machine.key, "cores": str(len(cores))},
            cores=cores,
            modules={RUNTIME: self._own} if self._own else {},
            takes=frozenset({RUNTIME}),
        )

    async def begin(self, deadline: float, patience_s: float) -> None:
        """Start a measuring process. Raises: WorkerLost."""
        await super().begin(deadline, patience_s)
        self._runtime, self._brought = self._own, False

    async def place(self, kind: str, code: bytes) -> None:
        """Use another native runtime from the next request on: the process links it then."""
        if kind != RUNTIME:
            raise DriverError(f"a processor takes no module {kind}")
        self._runtime, self._brought = code, True

    async def _ask(self, request: RunRequest, limit_s: float) -> tuple[RunReply, Worker]:
        """The answer to a request, with the native runtime in place, and who answered.

        Raises: WorkerLost, DriverError.
        """
        if self._brought:
            request = msgspec.structs.replace(request, runtime=self._runtime)
        answer = await super()._ask(request, limit_s)
        self._brought = False
        return answer

    async def canary(self) -> CanaryRun:
        """Time the canary of the runtime in place, on the last core. Raises: DriverError."""
        if not self._runtime:
            return CanaryRun(None, "no native runtime of its own: clients bring theirs")
        request = runs.canary_request(self._runtime, self._canary, self._spec.cores, _CANARY_S / 2)
        start = self._clock()
        reply, _ = await self._ask(request, _CANARY_S)
        why = reply.detail if reply.kind else runs.implausible(reply, self._clock() - start)
        if why is not None:
            raise CanaryFailed(f"the canary failed: {why}")
        return CanaryRun(min(reply.ns))

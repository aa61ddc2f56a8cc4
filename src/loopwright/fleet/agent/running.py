"""The runs of a device's sessions: limits, modules in place, what a lost process is blamed on."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from loopwright.fleet.agent import runs
from loopwright.fleet.agent.blobs import BlobError
from loopwright.fleet.agent.context import DeviceContext
from loopwright.fleet.agent.driver import DriverError, DriverFault, ItemOutcome, calling
from loopwright.fleet.agent.probing import Prober
from loopwright.fleet.agent.standing import Standing
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import Health, RunStatus
from loopwright.kernel_call import KernelCall

_LOSSES = 4096  # candidates whose losses are remembered
_LATE_S = 5.0  # how long after it should have answered a driver is given up


class ItemRunner:
    """Runs what a session wants: the `SessionHost` of the device's sessions, one after the other.

    What runs candidates is begun with the session (`begin`), again after it was lost, and ended
    by `clean`.
    """

    def __init__(self, context: DeviceContext, standing: Standing, prober: Prober) -> None:
        self.limits = context.agent.options.limits
        self.blobs = context.agent.blobs
        self._context = context
        self._facts = context.facts
        self._driver = context.driver
        self._modules = context.modules
        self._standing = standing
        self._prober = prober
        self._begun = False
        self._placed: dict[str, str] = {}  # kind -> digest, of those that the driver takes
        self._losses: OrderedDict[bytes, int] = OrderedDict()

    # --- what runs candidates ---

    async def begin(self) -> None:
        """Begin what runs candidates, unless it is there. Raises: DriverError."""
        if self._begun:
            return
        if self._prober.unclean:
            raise DriverError(f"no session is begun: {self._prober.detail}")
        grace_s = self._context.agent.options.timers.grace_s
        await self._prober.begin(self._standing.deadline, grace_s)
        self._begun = True
        self._placed = self._modules.at_begin()

    async def clean(self) -> None:
        """End it, with all that it left."""
        self._begun = False
        await self._prober.clean()

    def extend(self) -> None:
        """Let it live as long as the lease does by now."""
        if self._begun:
            with calling(self._facts.kind, "extend a session"):
                self._driver.extend(self._standing.deadline)

    async def _place(self) -> None:
        """Bring those modules to the device that are not there yet.

        Raises: DriverError, BlobError.
        """
        for kind, digest in self._modules.configured().items():
            if kind in self._facts.takes and self._placed.get(kind) != digest:
                code = self._modules.code(kind)
                with calling(self._facts.kind, f"place the module {kind} {digest[:12]}"):
                    await self._driver.place(kind, code)
                self._placed[kind] = digest

    # --- what a session wants of its host ---

    async def run(self, item: KernelCall) -> ItemOutcome:
        """Run one item; never raises for what the candidate or the driver does."""
        sentence = runs.excess(item, self.limits, self._facts.cores)
        if sentence is not None:
            return self._completed(_infra(item, sentence))
        try:
            code = await self.blobs.fetch(item.code)
            await self.begin()
            await self._place()
        except (BlobError, DriverError) as error:
            await self._failed(error)
            return self._completed(_infra(item, str(error)))
        try:
            outcome = await self._run(item, code)
        except DriverFault as error:
            await self._failed(error)
            return self._completed(_infra(item, str(error)))
        except DriverError as error:
            await self.clean()
            return self._completed(ItemOutcome(self._blame(item, error)))
        return self._completed(outcome)

    async def _run(self, item: KernelCall, code: bytes) -> ItemOutcome:
        """What comes of an item, within its time. Raises: DriverError."""
        limit_s = item.run_timeout_s + self._context.agent.options.timers.grace_s
        try:
            async with asyncio.timeout(limit_s + _LATE_S):
                with calling(self._facts.kind, "run a kernel"):
                    return await self._driver.run(item, code, limit_s)
        except TimeoutError as error:
            raise DriverError(f"it said nothing for {limit_s:g} s") from error

    async def _failed(self, error: BlobError | DriverError) -> None:
        """The driver did not do its part: begin anew, and probe if it is at fault."""
        if isinstance(error, DriverError):
            await self.clean()
        if isinstance(error, DriverFault):
            self._prober.fault(error)

    def _completed(self, outcome: ItemOutcome) -> ItemOutcome:
        """An outcome, with what the device is and was."""
        prober, result = self._prober, outcome.result
        if outcome.suspect:
            prober.wanted.set()
        if prober.health is Health.DRIFT and result.status == RunStatus.OK.value:
            result = msgspec.structs.replace(
                result, status=RunStatus.DRIFT.value, detail=prober.detail
            )
        tier = prober.tier if outcome.tier is None else outcome.tier
        if prober.unconfined and not result.detail:
            without = f"tier {int(tier)} without {', '.join(prober.unconfined)}"
            result = msgspec.structs.replace(result, detail=without)
        told = msgspec.structs.replace(
            result,
            tier=int(tier),
            temperature_c=prober.thermometer.celsius(),
            drift=prober.canary.drift,
            canary=prober.canary.runs,
            good=prober.canary.good,
        )
        return ItemOutcome(told, outcome.output)

    def _blame(self, item: KernelCall, error: DriverError) -> Result:
        """What runs candidates was lost: once may be chance, twice is the candidate."""
        losses = self._losses.pop(item.code, 0) + 1
        self._losses[item.code] = losses
        if len(self._losses) > _LOSSES:
            self._losses.popitem(last=False)
        status, detail = RunStatus.INFRA, f"the measuring process was lost: {error}"
        if losses > 1:
            status = RunStatus.CRASH
            detail = f"the measuring process was lost {losses} times while it ran this candidate"
        return msgspec.structs.replace(runs.failed(item, status, detail), lost=losses)

    async def between(self) -> None:
        """A batch is done: run the canary, if it is time."""
        if not self._prober.session_wanted:
            return
        try:
            await self.begin()
            await self._place()
            await self._prober.judge_in_session()
        except (BlobError, DriverError) as error:
            await self._failed(error)

    def allow(self, item: KernelCall) -> None:
        """Check that the code of an item may run here. Raises: AuthError."""
        self._context.agent.allow(item)

    def configure(self, modules: Mapping[str, str]) -> tuple[str, ...]:
        """Put modules in place; the kinds that changed. Raises: FleetError."""
        changed = self._modules.configure(modules)
        self._prober.configured(changed)
        if changed:
            self._context.agent.changed()
        return changed


def _infra(item: KernelCall, detail: str) -> ItemOutcome:
    """An item that was not run, for which it is not to blame."""
    return ItemOutcome(runs.failed(item, RunStatus.INFRA, detail))

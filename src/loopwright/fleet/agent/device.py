"""One device of an agent: its warden, its session, its health, and what it reports."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from loopwright.errors import FleetError
from loopwright.fleet.agent import checkup, heat, runs
from loopwright.fleet.agent.blobs import BlobError
from loopwright.fleet.agent.canary import BASELINE_RUNS, CALM_RUNS, Canary
from loopwright.fleet.agent.checkup import Finding
from loopwright.fleet.agent.keeper import Keeper
from loopwright.fleet.agent.modules import Modules
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.agent.power import PowerHook
from loopwright.fleet.agent.session import Ran, Session
from loopwright.fleet.agent.standing import Ended, Standing
from loopwright.fleet.agent.surroundings import Surroundings
from loopwright.fleet.agent.wardens import WardenOptions, Worker, WorkerLost
from loopwright.fleet.security.tickets import Ticket, check_ticket
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import (
    Closed,
    DeviceInfo,
    DeviceOrder,
    DeviceReport,
    Error,
    Opened,
    Result,
)
from loopwright.fleet.words import RUNTIME, EndReason, Health, Occupancy, RunStatus, Tier
from loopwright.kernel_call import KernelCall
from loopwright.outcome import FailureKind
from loopwright.sandbox.orders import Ready
from loopwright.sandbox.wire import RunReply, RunRequest

_LOSSES = 4096  # candidates whose losses are remembered
_PROBE_S = 60.0
_BUSY_S = 0.05
_TEMPERATURE_S = 1.0  # old enough to be read again for a report
_OVERHEAD_BYTES = 4 << 30  # of a session beside what a candidate may have: inputs that are kept


class Device:
    """Runs in one event loop, from `start` to `close`. It is the `session.Host` of its session."""

    def __init__(self, spec: DeviceOptions, around: Surroundings) -> None:
        self.spec = spec
        self.limits = around.options.limits
        self.blobs = around.blobs
        self.standing = Standing(spec.name, around.incarnation)
        self.health = Health.UNKNOWN
        self.detail = "it was not probed yet"
        self.tier = Tier.T0
        self.unconfined: tuple[str, ...] = ()  # words for what the sandbox lacks here
        self.superseded = False
        self.canary = Canary(around.options.drift)
        self._around = around
        self._modules = Modules(
            around.blobs, around.machine.runtime, locked=around.options.signed_only
        )
        self._keeper = Keeper(
            self._warden_options(), around.options.timers.restart_s, around.rng, self
        )
        self._hook = PowerHook(
            spec.name,
            spec.power_hook,
            around.clock,
            around.options.timers.hook_s,
            around.options.timers.hook_again_s,
        )
        self._worker: Worker | None = None
        self._serving: asyncio.Task[EndReason] | None = None
        self._verdict: Ended | None = None  # why the session in progress is being ended
        self._cleaning = False
        self._unclean = False  # something cannot be killed, as far as is known
        self._door = asyncio.Lock()  # held while a session begins or ends, and while probing
        self._lost: OrderedDict[bytes, int] = OrderedDict()
        self._heat = heat.Thermometer(heat.zones(), around.clock)
        self._probe_wanted = asyncio.Event()
        self._sung_at = around.clock()
        self._tasks: set[asyncio.Task[None]] = set()

    def _warden_options(self) -> WardenOptions:
        options = self._around.options
        return WardenOptions(
            self.spec.name,
            options.cache_dir,
            self.spec.cores,
            options.tier,
            self.spec.uid,
            self.limits.memory + _OVERHEAD_BYTES,
            self._modules.own,
            options.timers.warden_s,
        )

    # --- what it says of itself ---

    @property
    def modules(self) -> Mapping[str, str]:
        """The modules that are in place: kind -> digest."""
        return self._modules.in_place()

    @property
    def occupancy(self) -> Occupancy:
        """What the device is doing."""
        if self._cleaning:
            return Occupancy.CLEANING
        if self._serving is not None:
            return Occupancy.ACTIVE
        return Occupancy.RESERVED if self.standing.reserved else Occupancy.IDLE

    @property
    def warden_pid(self) -> int:
        """The process that forks the device's sessions, 0 without."""
        warden = self._keeper.warden
        return 0 if warden is None else warden.pid

    @property
    def worker_pid(self) -> int:
        """The measuring process of the session, 0 without."""
        return 0 if self._worker is None else self._worker.pid

    def info(self) -> DeviceInfo:
        """What the device is."""
        machine, options = self._around.machine, self._around.options
        host, _, _ = self.spec.name.partition("/")
        labels = {
            "kind": "cpu",
            "host": host,
            "arch": machine.arch,
            "target": machine.key,
            "cores": str(len(self.spec.cores)),
            **options.labels,
            **self.spec.labels,
            "name": self.spec.name,
        }
        if self.unconfined:
            labels["unconfined"] = ",".join(self.unconfined)
        return DeviceInfo(
            name=self.spec.name,
            labels=labels,
            target=machine.target_of(self.spec.cores),
            device=machine.device,
            cores=self.spec.cores,
            addresses=self._around.addresses(),
            tier=int(self.tier),
        )

    def report(self) -> DeviceReport:
        """How the device is now."""
        standing = self.standing
        busy = self._serving is not None or self._cleaning
        return DeviceReport(
            name=self.spec.name,
            occupancy=self.occupancy.value,
            health=self.health.value,
            lease=standing.lease if busy else standing.reserved,
            epoch=standing.epoch if busy else 0,
            last_epoch=standing.last_epoch,
            drift=self.canary.drift,
            temperature_c=self._heat.celsius(_TEMPERATURE_S),
            detail=self.detail,
        )

    # --- life ---

    def start(self) -> None:
        """Begin to keep a warden and to probe."""
        self._spawn(self._keeper.keep())
        self._spawn(self._tend())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._find(Finding(Health.BAD, f"the agent failed: {type(error).__name__}: {error}"))

    async def close(self) -> None:
        """End everything the device started."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.end_session(Ended(EndReason.DEVICE_LOST, "the agent stops"))
        await self._keeper.close()

    def beat(self) -> None:
        """See that the warden is there."""
        if self._keeper.warden is not None:
            self._keeper.warden.beat(self._around.clock())

    def tick(self) -> None:
        """See what the time ends."""
        ended = self.standing.tick(self._around.clock())
        if ended is not None:
            self._doom(ended)
            self._around.changed()

    def obey(self, order: DeviceOrder) -> None:
        """Do what the tracker wants."""
        self.superseded = False
        before = self.standing.reserved
        ended = self.standing.order(order, self._around.clock(), self._around.options.timers.open_s)
        if ended is not None:
            self._doom(ended)
        elif self._worker is not None:
            self._worker.extend(self.standing.deadline)
        if order.probe:
            self._probe_wanted.set()
        if ended is not None or before != self.standing.reserved:
            self._around.changed()

    def supersede(self) -> None:
        """Another agent has this device: end, and open no more."""
        self.superseded = True
        self._doom(Ended(EndReason.DEVICE_LOST, "another agent has the device now"))

    # --- sessions ---

    async def serve(self, link: Link, ticket: Ticket) -> None:
        """Serve a session whose ticket was verified, from Opened to Closed.

        A session in progress is ended first: it is older, or the same client's broken one.
        """
        async with self._door:
            self._check(link, ticket)
            await self._oust(Ended(EndReason.EXPIRED, "a newer session has the device"))
            self._check(link, ticket)
            self.standing.accept(ticket, self._around.clock())
            try:
                worker = await self._new_worker()
            except WorkerLost as error:
                self._say(link, Error(code="device", detail=str(error)))
                link.close(str(error))
                return
            try:
                self._check(link, ticket)  # an order may have ended the lease meanwhile
            except FleetError:
                await worker.end()
                raise
            self._worker = worker
            self._verdict = None
            self._modules.begin_session()
            session = Session(link, self)
            self._serving = asyncio.create_task(session.serve())
            self._around.changed()
        self._say(link, self._opened(ticket))  # a client that is gone is met by its session
        await self._follow(link, self._serving)

    def _check(self, link: Link, ticket: Ticket) -> None:
        """Whether a ticket is still good; others may have come in since it was verified.

        Raises: FleetError, which the client was told.
        """
        code = "auth"
        try:
            self._check_owner()
            check_ticket(ticket, self.standing.state)
            code = "device"
            self._check_health()
        except FleetError as error:
            self._say(link, Error(code=code, detail=str(error)))
            link.close(str(error))
            raise

    def _check_owner(self) -> None:
        if self.superseded:
            raise FleetError(f"another agent has {self.spec.name} now; lease it again")

    def _check_health(self) -> None:
        if self.health is Health.BAD:
            raise FleetError(f"{self.spec.name} does not work: {self.detail}", retryable=True)

    def _opened(self, ticket: Ticket) -> Opened:
        left = self.standing.left_s(self._around.clock())
        return Opened(
            lease=ticket.lease,
            epoch=ticket.epoch,
            ttl_ms=int(left * 1000),
            device=self.info(),
            tier=int(self.tier),
            max_wall_ms=int(self.limits.wall_s * 1000),
            max_memory=self.limits.memory,
            max_blob=self.limits.blob,
            modules=self._modules.shown(),
        )

    async def _follow(self, link: Link, serving: asyncio.Task[EndReason]) -> None:
        """Wait for the end of a session and clean up after it."""
        try:
            await asyncio.wait((serving,))
        except asyncio.CancelledError:
            serving.cancel()
            await asyncio.wait((serving,))
            raise
        finally:
            verdict = self._verdict or _verdict(serving)
            self._say(link, Closed(verdict.reason.value, verdict.detail))
            link.close(f"the session ended: {verdict.reason.value}")
            await self._clean(serving)
        if not serving.cancelled():
            serving.result()  # raises what should not have happened

    async def _clean(self, serving: asyncio.Task[EndReason]) -> None:
        """Kill what the session left; the device is free when that is gone."""
        if self._serving is not serving:
            return
        worker, self._worker = self._worker, None
        self._cleaning = True
        self._serving = None
        self._around.changed()
        try:
            if worker is not None:
                await worker.end()
        finally:
            self._cleaning = False
            if self.canary.off or (self._song_due and self._mute):
                self._probe_wanted.set()  # it went off, or was not sung, while nobody probed
            self._around.changed()

    def _doom(self, ended: Ended) -> None:
        """End the session in progress, soon."""
        if self._serving is not None and self._verdict is None:
            self._verdict = ended
            self._serving.cancel()

    async def _oust(self, ended: Ended) -> None:
        """End the session in progress and wait until the device is clean."""
        self._doom(ended)
        while self._serving is not None or self._cleaning:
            await asyncio.sleep(0.001)

    async def end_session(self, ended: Ended) -> None:
        """End the session in progress, if there is one, and wait until the device is clean."""
        async with self._door:
            await self._oust(ended)

    @staticmethod
    def _say(link: Link, message: Closed | Error | Opened) -> None:
        with contextlib.suppress(LinkClosed):
            link.send(message)

    # --- runs: what a session wants of its host ---

    async def run(self, item: KernelCall) -> Ran:
        """Run one item; never raises for what the candidate does."""
        sentence = runs.excess(item, self.limits, self.spec.cores)
        if sentence is not None:
            return self._ran(runs.failed(item, RunStatus.INFRA, sentence))
        try:
            code = await self.blobs.fetch(item.code)
            worker = await self._the_worker()
        except (BlobError, WorkerLost) as error:
            return self._ran(runs.failed(item, RunStatus.INFRA, str(error)))
        request = runs.request_of(item, code, self.spec.cores)
        start = self._around.clock()
        try:
            limit_s = item.run_timeout_s + self._around.options.timers.grace_s
            reply = await self._ask(worker, request, limit_s)
            result = runs.result_of(item, reply, self._around.clock() - start)
            if reply.kind == FailureKind.WORKER_LOST.value:
                self._probe_wanted.set()  # the sandbox is not what it was
            if reply.output and result.status == RunStatus.OK.value:
                return self._ran(result, memoryview(worker.output(reply.output)))
            return self._ran(result)
        except BlobError as error:
            why = f"the native runtime in place: {error}"
            return self._ran(runs.failed(item, RunStatus.INFRA, why))
        except WorkerLost as error:
            await self._lose_worker()
            return self._ran(self._blame(item, error))

    async def _ask(self, worker: Worker, request: RunRequest, limit_s: float) -> RunReply:
        """What comes of a request, with the native runtime that is in place.

        Raises: WorkerLost; BlobError when that runtime cannot be had.
        """
        wanted = self._modules.runtime
        if worker.runtime != wanted:
            request = msgspec.structs.replace(request, runtime=self._modules.runtime_code())
        reply = await worker.run(request, limit_s)
        worker.runtime = wanted
        return reply

    def _ran(self, result: Result, output: memoryview | None = None) -> Ran:
        if self.health is Health.DRIFT and result.status == RunStatus.OK.value:
            result = msgspec.structs.replace(
                result, status=RunStatus.DRIFT.value, detail=self.detail
            )
        if self.unconfined and not result.detail:
            without = f"tier {int(self.tier)} without {', '.join(self.unconfined)}"
            result = msgspec.structs.replace(result, detail=without)
        told = msgspec.structs.replace(
            result,
            tier=int(self.tier),
            temperature_c=self._heat.celsius(),
            drift=self.canary.drift,
            canary=self.canary.runs,
            good=self.canary.good,
        )
        return Ran(told, memoryview(b"") if output is None else output)  # it will be released

    def _blame(self, item: KernelCall, error: WorkerLost) -> Result:
        """The measuring process was lost: once may be chance, twice is the candidate."""
        losses = self._lost.pop(item.code, 0) + 1
        self._lost[item.code] = losses
        if len(self._lost) > _LOSSES:
            self._lost.popitem(last=False)
        status, detail = RunStatus.INFRA, f"the measuring process was lost: {error}"
        if losses > 1:
            status = RunStatus.CRASH
            detail = f"the measuring process was lost {losses} times while it ran this candidate"
        return msgspec.structs.replace(runs.failed(item, status, detail), lost=losses)

    @property
    def _song_due(self) -> bool:
        due_at = self._sung_at + self._around.options.timers.canary_s
        return self.canary.allowed > 0 and self._around.clock() >= due_at

    @property
    def _mute(self) -> bool:
        """Whether the runtime in place has no say: a client's, where the host has one itself."""
        return self._modules.foreign and bool(self._modules.own)

    async def between(self) -> None:
        """A batch is done: sing, if it is time."""
        wanted = self._probe_wanted.is_set() or self.canary.off
        if not self.canary.allowed or not (self._song_due or wanted):
            return
        if self._unclean or self._mute:
            return  # a probe will see
        self._probe_wanted.clear()
        with contextlib.suppress(WorkerLost, BlobError):
            ask = functools.partial(self._ask, await self._the_worker())
            found = await self._sing(ask, 1, self._modules.runtime_code())
            if found.health is not Health.BAD or not self._modules.foreign:
                self._find(found)

    def allow(self, item: KernelCall) -> None:
        """Nothing if the code of an item may run here. Raises: AuthError."""
        self._around.allow(item)

    def configure(self, modules: Mapping[str, str]) -> tuple[str, ...]:
        """Put modules in place; the kinds that changed. Raises: FleetError."""
        changed = self._modules.configure(modules)
        if RUNTIME in changed and not self._modules.own:
            self.canary = Canary(self.canary.allowed)  # what it sang before is another's
        if changed:
            self._around.changed()
        return changed

    async def _the_worker(self) -> Worker:
        if self._worker is None:
            self._worker = await self._new_worker()
        return self._worker

    async def _new_worker(self) -> Worker:
        if self._unclean:
            raise WorkerLost(f"no measuring process is begun: {self.detail}")
        patience_s = self._around.options.timers.grace_s
        return await self._keeper.worker(self.standing.deadline, patience_s)

    async def _lose_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end()

    # --- the warden: what its keeper tells ---

    def warden_up(self, ready: Ready) -> None:
        """There is a warden, and nothing is left of the one before."""
        self.tier, self.unconfined = Tier(ready.tier), ready.missing
        self._unclean = False
        self._find(Finding(Health.UNKNOWN, "it was not probed since its warden started"))
        self._probe_wanted.set()

    def warden_down(self, why: str, health: Health) -> None:
        """There is no warden."""
        self._find(Finding(health, why))

    def unkillable(self, what: str) -> None:
        """The kill ladder has failed: the device is bad, and its power hook is tried."""
        self._unclean = True
        why = f"{what} cannot be killed"
        self._find(Finding(Health.BAD, "; ".join(filter(None, (why, self._hook.outcome)))))
        if self._hook.due:
            self._spawn(self._pull(why))

    async def _pull(self, why: str) -> None:
        outcome = await self._hook.pull(why)
        self._around.note(self.spec.name, f"{why}; {outcome}")
        if self._unclean:
            self._find(Finding(Health.BAD, f"{why}; {outcome}"))
        self._probe_wanted.set()

    # --- health ---

    async def _tend(self) -> None:
        """Probe when that is wanted and nobody has the device."""
        while True:
            cool = self._around.options.timers.cool_s if self.canary.off else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(cool):
                    await self._probe_wanted.wait()
            if self._door.locked() or self._serving is not None or not self._keeper.alive:
                await asyncio.sleep(_BUSY_S)
            else:
                await self._probe()

    async def _probe(self) -> None:
        """Find out whether the device does its work and is as fast as it was."""
        async with self._door:
            self._probe_wanted.clear()
            if self._serving is not None:
                return
            if self.health is not Health.DRIFT:
                self._find(Finding(Health.PROBING, "a probe runs"))
            try:
                worker = await self._keeper.worker(self._around.clock() + _PROBE_S, 0.0)
                try:
                    found = await self._try(worker)
                finally:
                    over = await worker.end()
            except WorkerLost as error:
                if self._keeper.alive and not self._unclean:
                    self._find(Finding(Health.BAD, f"the probe failed: {error}"))
                return
            if over.clean:  # else that was found already
                self._unclean = False
                self._find(found)

    async def _try(self, worker: Worker) -> Finding:
        """Judge by a process that was just started, and what it sings with the host's runtime.

        What a client brought has no say in whether the device is lent to others.
        """
        own = self._around.machine.runtime
        if own:
            times = CALM_RUNS if self.canary.known else BASELINE_RUNS
            return await self._sing(worker.run, times, own)
        if self._modules.hopeless:
            why = "no native runtime, and --signed-only takes none of clients: install llvmlite"
            return Finding(Health.BAD, why)
        return Finding(Health.GOOD, "no native runtime of its own: clients bring theirs")

    async def _sing(self, ask: checkup.Asker, times: int, code: bytes) -> Finding:
        """What the canary in `code` says."""
        song = checkup.song(code, self._around.machine.canary, self.spec.cores)
        gained = self.canary.gained
        found = await checkup.sing(ask, song, times, self.canary, self._around.clock)
        self._sung_at = self._around.clock()
        if self.canary.gained != gained:
            self._around.note(self.spec.name, found.detail)
        return found

    def _find(self, found: Finding) -> None:
        """The device's health is this from now on."""
        if found.health is Health.GOOD:
            self._hook.outcome = ""
        if (found.health, found.detail) != (self.health, self.detail):
            self.health, self.detail = found.health, found.detail
            self._around.changed()


def _verdict(serving: asyncio.Task[EndReason]) -> Ended:
    """Why a session ended that nobody ended."""
    if serving.cancelled():
        return Ended(EndReason.CLIENT_LOST, "the connection is gone")
    error = serving.exception()
    if error is not None:
        return Ended(EndReason.DEVICE_LOST, f"the agent failed: {type(error).__name__}: {error}")
    return Ended(serving.result(), "")

"""One device of an agent: its warden, its session, its health, and what it reports."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from loopwright.errors import EnvironmentFailure, FleetError
from loopwright.fleet.agent import heat, runs
from loopwright.fleet.agent.blobs import BlobCache, BlobError
from loopwright.fleet.agent.canary import BASELINE_RUNS, CALM_RUNS, Canary
from loopwright.fleet.agent.describe import Machine
from loopwright.fleet.agent.modules import Modules
from loopwright.fleet.agent.options import AgentOptions, Chance, DeviceOptions
from loopwright.fleet.agent.session import Ran, Session
from loopwright.fleet.agent.standing import Ended, Standing
from loopwright.fleet.agent.wardens import Warden, WardenOptions, Worker, WorkerLost
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
    RunItem,
)
from loopwright.fleet.words import RUNTIME, EndReason, Health, Occupancy, RunStatus, Tier
from loopwright.measure.types import FailureKind
from loopwright.measure.wire import RunReply, RunRequest

Asker: TypeAlias = Callable[[RunRequest, float], Awaitable[RunReply]]
_LOSSES = 4096  # candidates whose losses are remembered
_PROBE_S = 60.0
_CANARY_S = 10.0
_BUSY_S = 0.05
_OVERHEAD_BYTES = 4 << 30  # of a session beside what a candidate may have: inputs that are kept


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the devices of an agent share. `changed` is called when a report would differ."""

    options: AgentOptions
    machine: Machine
    blobs: BlobCache
    incarnation: str
    clock: Callable[[], float]
    rng: Chance
    changed: Callable[[], None]
    allow: Callable[[RunItem], None]
    addresses: Callable[[], tuple[str, ...]]


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
        self._warden: Warden | None = None
        self._worker: Worker | None = None
        self._serving: asyncio.Task[EndReason] | None = None
        self._verdict: Ended | None = None  # why the session in progress is being ended
        self._cleaning = False
        self._door = asyncio.Lock()  # held while a session begins or ends, and while probing
        self._lost: OrderedDict[bytes, int] = OrderedDict()
        self._heat = heat.zones()
        self._temperature: float | None = None
        self._probe_wanted = asyncio.Event()
        self._sung_at = around.clock()
        self._keeper: asyncio.Task[None] | None = None

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
        return 0 if self._warden is None else self._warden.pid

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
            self.spec.name,
            labels,
            machine.target_of(self.spec.cores),
            machine.device,
            self.spec.cores,
            self._around.addresses(),
            int(self.tier),
        )

    def report(self) -> DeviceReport:
        """How the device is now."""
        standing = self.standing
        busy = self._serving is not None or self._cleaning
        return DeviceReport(
            self.spec.name,
            self.occupancy.value,
            self.health.value,
            standing.lease if busy else standing.reserved,
            standing.epoch if busy else 0,
            standing.last_epoch,
            self.canary.drift,
            self._temperature,
            self.detail,
        )

    # --- life ---

    def start(self) -> None:
        """Begin to keep a warden and to probe."""
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End everything the device started."""
        await self.end_session(Ended(EndReason.DEVICE_LOST, "the agent stops"))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        warden, self._warden = self._warden, None
        if warden is not None:
            await warden.close()

    def beat(self) -> None:
        """Tell the warden that the agent's loop turns."""
        if self._warden is not None:
            self._warden.beat()

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
                self._say(link, Error("device", str(error)))
                link.close(str(error))
                return
            try:
                self._check(link, ticket)  # an order may have ended the lease meanwhile
            except FleetError:
                await worker.end()
                raise
            self._worker = worker
            self._verdict = None
            session = Session(link, self)
            self._serving = asyncio.create_task(session.serve())
            self._around.changed()
        self._say(link, self._opened(ticket))  # a client that is gone is met by its session
        await self._follow(link, self._serving)

    def _check(self, link: Link, ticket: Ticket) -> None:
        """Whether a ticket is still good; others may have come in since it was verified."""
        try:
            self._check_owner()
            check_ticket(ticket, self.standing.state)
        except FleetError as error:
            self._say(link, Error("auth", str(error)))
            link.close(str(error))
            raise

    def _check_owner(self) -> None:
        if self.superseded:
            raise FleetError(f"another agent has {self.spec.name} now; lease it again")

    def _opened(self, ticket: Ticket) -> Opened:
        left = self.standing.left_s(self._around.clock())
        return Opened(
            ticket.lease,
            ticket.epoch,
            int(left * 1000),
            self.info(),
            int(self.tier),
            int(self.limits.wall_s * 1000),
            self.limits.memory,
            self.limits.blob,
            self._modules.shown(),
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
                over = await worker.end()
                if not over.clean:
                    self._set_health(Health.BAD, "what a session left behind cannot be killed")
        finally:
            self._cleaning = False
            if self.canary.off:  # it went off while nobody probed
                self._probe_wanted.set()
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

    async def run(self, item: RunItem) -> Ran:
        """Run one item; never raises for what the candidate does."""
        sentence = runs.excess(item, self.limits, self.spec.cores)
        if sentence is not None:
            return self._ran(runs.failed(item, RunStatus.INFRA, sentence))
        try:
            code = self.blobs.read(item.code)
        except BlobError as error:
            return self._ran(runs.failed(item, RunStatus.INFRA, str(error)))
        request = runs.request_of(item, code, self.spec.cores)
        start = self._around.clock()
        try:
            worker = await self._the_worker()
            limit_s = request.run_timeout_s + self._around.options.timers.grace_s
            reply = await self._ask(worker, request, limit_s)
            result = runs.result_of(item, reply, self._around.clock() - start)
            if reply.kind == FailureKind.WORKER_LOST.value:
                self._probe_wanted.set()  # the sandbox is not what it was
            if reply.output and result.status == RunStatus.OK.value:
                return self._ran(result, memoryview(worker.output(reply.output)))
            return self._ran(result)
        except WorkerLost as error:
            await self._lose_worker()
            return self._ran(self._blame(item, error))

    async def _ask(self, worker: Worker, request: RunRequest, limit_s: float) -> RunReply:
        """What comes of a request, with the native runtime that is in place."""
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
        self._temperature = heat.temperature(self._heat)
        told = msgspec.structs.replace(
            result,
            tier=int(self.tier),
            temperature_c=self._temperature,
            drift=self.canary.drift,
            canary=self.canary.runs,
        )
        return Ran(told, memoryview(b"") if output is None else output)  # it will be released

    def _blame(self, item: RunItem, error: WorkerLost) -> Result:
        """The measuring process was lost: once may be chance, twice is the candidate."""
        losses = self._lost.pop(item.code, 0) + 1
        self._lost[item.code] = losses
        if len(self._lost) > _LOSSES:
            self._lost.popitem(last=False)
        if losses == 1:
            return runs.failed(item, RunStatus.INFRA, f"the measuring process was lost: {error}")
        detail = f"the measuring process was lost {losses} times while it ran this candidate"
        return runs.failed(item, RunStatus.CRASH, detail)

    async def between(self) -> None:
        """A batch is done: sing, if it is time."""
        now = self._around.clock()
        due = now >= self._sung_at + self._around.options.timers.canary_s
        if self.canary.allowed and (due or self._probe_wanted.is_set() or self.canary.off):
            self._probe_wanted.clear()
            with contextlib.suppress(WorkerLost):
                ask = functools.partial(self._ask, await self._the_worker())
                await self._sing(ask, 1, self._modules.runtime_code())

    def allow(self, item: RunItem) -> None:
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
        if self._warden is None or not self._warden.alive:
            await self._wait_for_warden()
        if self._warden is None:
            raise WorkerLost("the warden is not there")
        return await self._warden.begin(self.standing.deadline)

    async def _lose_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end()

    # --- the warden, and health ---

    async def _wait_for_warden(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._around.options.timers.grace_s):
                while self._warden is None or not self._warden.alive:
                    await asyncio.sleep(0.01)

    async def _keep(self) -> None:
        """Keep a warden running and the device probed."""
        wait = self._around.options.timers.restart_s
        while True:
            gone = asyncio.Event()
            options = self._around.options
            told = WardenOptions(
                self.spec.name,
                options.cache_dir,
                self.spec.cores,
                options.tier,
                self.spec.uid,
                self.limits.memory + _OVERHEAD_BYTES,
                options.timers.watchdog_s,
                self._modules.own,
            )
            warden = Warden(told, functools.partial(_set, gone))
            try:
                ready = await warden.start()
            except EnvironmentFailure as error:
                self._set_health(Health.BAD, str(error))
                await warden.close()
                await asyncio.sleep(wait * (0.5 + self._around.rng.random()))
                continue
            except BaseException:  # closed while it starts
                await warden.close()
                raise
            self._warden = warden
            self.tier, self.unconfined = Tier(ready.tier), ready.missing
            self._probe_wanted.set()
            try:
                await self._watch(gone)
            finally:
                if gone.is_set():
                    self._set_health(Health.UNKNOWN, "the warden was lost")
                    self._warden = None
                    await warden.close()

    async def _watch(self, gone: asyncio.Event) -> None:
        """Probe when wanted, until the warden is gone."""
        lost = asyncio.create_task(gone.wait())
        try:
            while not gone.is_set():
                wanted = asyncio.create_task(self._probe_wanted.wait())
                cool = self._around.options.timers.cool_s if self.canary.off else None
                await asyncio.wait(
                    (lost, wanted), timeout=cool, return_when=asyncio.FIRST_COMPLETED
                )
                wanted.cancel()
                if self._door.locked() or self._serving is not None:
                    await asyncio.wait((lost,), timeout=_BUSY_S)
                elif not gone.is_set():
                    await self._probe()
        finally:
            lost.cancel()

    async def _probe(self) -> None:
        """Find out whether the device does its work and is as fast as it was."""
        async with self._door:
            self._probe_wanted.clear()
            warden = self._warden
            if warden is None or self._serving is not None:
                return
            if self.health is not Health.DRIFT:
                self._set_health(Health.PROBING, "a probe runs")
            try:
                worker = await warden.begin(self._around.clock() + _PROBE_S)
                try:
                    await self._try(worker)
                finally:
                    over = await worker.end()
                if not over.clean:
                    self._set_health(Health.BAD, "what a probe left behind cannot be killed")
            except WorkerLost as error:
                self._set_health(Health.BAD, f"the probe failed: {error}")

    async def _try(self, worker: Worker) -> None:
        """Judge by a process that was just started, and what it sings with the host's runtime.

        What a client brought has no say in whether the device is lent to others.
        """
        own = self._around.machine.runtime
        if own:
            times = CALM_RUNS if self.canary.known else BASELINE_RUNS
            await self._sing(worker.run, times, own)
        elif self._modules.hopeless:
            why = "it has no native runtime, and takes none that is not signed: install llvmlite"
            self._set_health(Health.BAD, why)
        else:
            self._set_health(Health.GOOD, "no native runtime of its own: clients bring theirs")

    async def _sing(self, ask: Asker, times: int, code: bytes) -> None:
        """Run the canary in `code` and judge."""
        for _ in range(times):
            reply = await ask(self._canary_request(code), _CANARY_S)
            if reply.kind and code != self._around.machine.runtime:
                return  # of a runtime that a client brought
            if reply.kind:
                self._set_health(Health.BAD, f"the canary failed: {reply.detail}")
                return
            self.canary.observe(min(reply.ns))
        self._sung_at = self._around.clock()
        if self.canary.off and self.canary.allowed:
            detail = f"the canary is off by {self.canary.drift:+.1%}"
            self._set_health(Health.DRIFT, detail)
        else:
            self._set_health(Health.GOOD, "")

    def _canary_request(self, code: bytes) -> RunRequest:
        entry, cores = self._around.machine.canary, self.spec.cores
        return RunRequest(
            code, entry, (), 0, 0, 1, tuple(cores[-1:]), 0,
            False, 1, 3, 0.001, _CANARY_S / 2, 64 << 20, None,
        )  # fmt: skip

    def _set_health(self, health: Health, detail: str) -> None:
        if (health, detail) != (self.health, self.detail):
            self.health, self.detail = health, detail
            self._around.changed()


def _verdict(serving: asyncio.Task[EndReason]) -> Ended:
    """Why a session ended that nobody ended."""
    if serving.cancelled():
        return Ended(EndReason.CLIENT_LOST, "the connection is gone")
    error = serving.exception()
    if error is not None:
        return Ended(EndReason.DEVICE_LOST, f"the agent failed: {type(error).__name__}: {error}")
    return Ended(serving.result(), "")


def _set(event: asyncio.Event, _why: str) -> None:
    event.set()

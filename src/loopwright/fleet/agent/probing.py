"""Whether a device does its work and is as fast as it was: its health, and what finds it out."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from loopwright.fleet.agent import heat
from loopwright.fleet.agent.canary import BASELINE_RUNS, CALM_RUNS, Canary
from loopwright.fleet.agent.context import DeviceContext
from loopwright.fleet.agent.driver import CanaryFailed, CanaryRun, DriverError, calling
from loopwright.fleet.agent.power import PowerHook
from loopwright.fleet.words import RUNTIME, Health, Tier

_PROBE_S = 60.0
_BUSY_S = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """What a device's health is, and why."""

    health: Health
    detail: str = ""


async def judge(run: Callable[[], Awaitable[CanaryRun]], times: int, canary: Canary) -> Finding:
    """Run the canary a few times and say what that makes of the device.

    Raises: DriverError as `run` does, and for times that are not valid.
    """
    for _ in range(times):
        found = await run()
        if found.ns is None:
            return Finding(Health.GOOD, found.note)
        if not (math.isfinite(found.ns) and found.ns > 0):
            raise CanaryFailed(f"the canary failed: {found.ns} ns is not a valid time")
        canary.observe(found.ns)
    return verdict(canary)


def verdict(canary: Canary) -> Finding:
    """What the canary's runs so far say."""
    if canary.off and canary.allowed:
        return Finding(Health.DRIFT, f"the canary is off by {canary.drift:+.1%}")
    if canary.gained > 0:
        return Finding(
            Health.GOOD,
            f"the canary takes {canary.gained:.1%} less than when the agent started; "
            "what it takes now counts",
        )
    return Finding(Health.GOOD)


class Prober:
    """The health of one device. It probes from `start` to `stop`, and hears the driver's events."""

    def __init__(self, context: DeviceContext) -> None:
        timers = context.agent.options.timers
        spec, clock = context.spec, context.agent.clock
        self.health = Health.UNKNOWN
        self.detail = "it was not probed yet"
        self.tier = Tier.T0
        self.unconfined: tuple[str, ...] = ()  # words for what the sandbox lacks here
        self.unclean = False  # something is left of a session, as far as is known
        self.canary = Canary(context.agent.options.drift)
        self.thermometer = heat.Thermometer(heat.zones(), clock)
        self.wanted = asyncio.Event()  # a probe, as soon as the device is free
        self._context = context
        self._driver = context.driver
        self._clock = clock
        self._hook = PowerHook(
            spec.name, spec.power_hook, clock, limit_s=timers.hook_s, again_s=timers.hook_again_s
        )
        self._timed_at = clock()  # the canary
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life ---

    def start(self) -> None:
        """Begin to keep the device able to work, and to probe it."""
        self._spawn(self._keep())
        self._spawn(self._tend())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, DriverError):
            self.find(Health.BAD, str(error))
        elif error is not None:
            self.find(Health.BAD, f"the agent failed: {type(error).__name__}: {error}")

    async def _keep(self) -> None:
        with calling(self._context.facts.kind, "keep its device"):
            await self._driver.keep(self)

    async def stop(self) -> None:
        """Probe no more."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def beat(self) -> None:
        """See that what the device needs is there."""
        try:
            with calling(self._context.facts.kind, "look after its device"):
                self._driver.beat(self._clock())
        except DriverError as error:
            self.fault(error)

    # --- what is found ---

    def find(self, health: Health, detail: str = "") -> None:
        """The device's health is this from now on."""
        if health is Health.GOOD:
            self._hook.outcome = ""
        if (health, detail) != (self.health, self.detail):
            self.health, self.detail = health, detail
            self._context.agent.changed()

    def fault(self, error: DriverError) -> None:
        """The driver has failed: the device is bad until a probe says otherwise."""
        self.find(Health.BAD, str(error))
        self.wanted.set()

    def up(self, tier: Tier, unconfined: tuple[str, ...]) -> None:
        """Sessions can begin, and nothing is left of earlier ones."""
        self.tier, self.unconfined = tier, unconfined
        self.unclean = False
        self.find(Health.UNKNOWN, "it was not probed since it came up")
        self.wanted.set()

    def down(self, why: str, health: Health) -> None:
        """No session can begin."""
        self.find(health, why)

    def stuck(self, why: str) -> None:
        """A session cannot be cleaned up: the device is bad, and its power hook is tried."""
        self.unclean = True
        self.find(Health.BAD, "; ".join(filter(None, (why, self._hook.outcome))))
        if self._hook.due:
            self._spawn(self._cycle_power(why))

    async def _cycle_power(self, why: str) -> None:
        outcome = await self._hook.run(why)
        self._context.agent.note(self._context.spec.name, f"{why}; {outcome}")
        if self.unclean:
            self.find(Health.BAD, f"{why}; {outcome}")
        self.wanted.set()

    # --- probes: nobody has the device ---

    async def _tend(self) -> None:
        """Probe when that is wanted and nobody has the device."""
        door = self._context.door
        while True:
            cool_s = self._context.agent.options.timers.cool_s if self.canary.off else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(cool_s):
                    await self.wanted.wait()
            if door.lock.locked() or door.session is not None or not self._driver.ready:
                await asyncio.sleep(_BUSY_S)
            else:
                await self._probe()

    async def _probe(self) -> None:
        """Find out whether the device does its work and is as fast as it was."""
        async with self._context.door.lock:
            self.wanted.clear()
            if self._context.door.session is not None:
                return
            if self.health is not Health.DRIFT:
                self.find(Health.PROBING, "a probe runs")
            try:
                await self.begin(self._clock() + _PROBE_S, 0.0)
                try:
                    found = await self._try()
                finally:
                    clean = await self.clean()
            except DriverError as error:
                if self._driver.ready and not self.unclean:
                    self.find(Health.BAD, f"the probe failed: {error}")
                return
            if clean:  # else that was found already
                self.unclean = False
                self.find(found.health, found.detail)

    async def _try(self) -> Finding:
        """Judge by a session that was just begun, with what the device itself has.

        What a client brought has no say in whether the device is lent to others.
        """
        if self._context.modules.unusable:
            why = "no native runtime, and --signed-only takes none of clients: install llvmlite"
            return Finding(Health.BAD, why)
        return await self._judge(CALM_RUNS if self.canary.known else BASELINE_RUNS)

    async def begin(self, deadline: float, patience_s: float) -> None:
        """Have the driver begin a session. Raises: DriverError."""
        with calling(self._context.facts.kind, "begin a session"):
            await self._driver.begin(deadline, patience_s)

    async def clean(self) -> bool:
        """Clean up after a session; whether nothing of it is left."""
        try:
            with calling(self._context.facts.kind, "clean up"):
                return await self._driver.clean()
        except DriverError as error:
            self.stuck(str(error))
            return False

    # --- the canary ---

    async def _judge(self, times: int) -> Finding:
        gained = self.canary.gained
        try:
            found = await judge(self._canary_run, times, self.canary)
        except CanaryFailed as error:
            found = Finding(Health.BAD, str(error))
        self._timed_at = self._clock()
        if self.canary.gained != gained:
            self._context.agent.note(self._context.spec.name, found.detail)
        return found

    async def _canary_run(self) -> CanaryRun:
        with calling(self._context.facts.kind, "time its canary"):
            return await self._driver.canary()

    @property
    def _canary_due(self) -> bool:
        due_at = self._timed_at + self._context.agent.options.timers.canary_s
        return self.canary.allowed > 0 and self._clock() >= due_at

    @property
    def _biased(self) -> bool:
        """Whether a client's runtime is in place where the host has one: it does not judge."""
        return self._context.modules.foreign and bool(self._context.modules.own)

    @property
    def session_wanted(self) -> bool:
        """Whether the canary is to be run in the session in progress."""
        wanted = self.wanted.is_set() or self.canary.off
        if not self.canary.allowed or not (self._canary_due or wanted):
            return False
        return not self.unclean and not self._biased  # else a probe will see

    async def judge_in_session(self) -> None:
        """Run the canary once in the session in progress. Raises: DriverError."""
        self.wanted.clear()
        found = await self._judge(1)
        if found.health is not Health.BAD or not self._context.modules.foreign:
            self.find(found.health, found.detail)

    def session_over(self) -> None:
        """A session has ended: probe if its canaries were off, or could not be run."""
        if self.canary.off or (self._canary_due and self._biased):
            self.wanted.set()

    def configured(self, changed: tuple[str, ...]) -> None:
        """Modules have changed: what the canary took before may be another runtime's."""
        if RUNTIME in changed and not self._context.modules.own:
            self.canary = Canary(self.canary.allowed)

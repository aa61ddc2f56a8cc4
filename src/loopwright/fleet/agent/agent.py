"""The agent: keeps a host's devices, tells a tracker of them, and serves direct sessions.

It runs in one event loop: that of a process of its own (`python -m loopwright.fleet.agent`), or
one inside another process, with links from `pair()` and no listener. It imports no compiler;
short-lived processes do what needs one. What touches a device is its driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from loopwright.errors import AuthError, ConfigError, EnvironmentFailure, FleetError
from loopwright.fleet.agent import keyfile
from loopwright.fleet.agent.blobs import BlobCache
from loopwright.fleet.agent.context import AgentContext
from loopwright.fleet.agent.device import AgentDevice
from loopwright.fleet.agent.driver import (
    Driver,
    DriverContext,
    DriverError,
    DriverFacts,
    calling,
)
from loopwright.fleet.agent.drivers import driver_of
from loopwright.fleet.agent.options import AgentOptions, DeviceOptions, RandomSource
from loopwright.fleet.security.handshake import (
    Anonymous,
    ByCode,
    ByKey,
    Credential,
    accept_session,
    greet,
)
from loopwright.fleet.security.tickets import DeviceState
from loopwright.fleet.wire.codec import Incoming
from loopwright.fleet.wire.faults import Fault
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import (
    Desired,
    DeviceInfo,
    Error,
    Ping,
    Pong,
    Register,
    Superseded,
    Sync,
)
from loopwright.fleet.words import ErrorCode, Health
from loopwright.kernel_call import KernelCall

Dial: TypeAlias = Callable[[], Awaitable[Link]]
_Known: TypeAlias = tuple[DeviceInfo, dict[str, str]]
_PAGE = 32  # devices of one Register or Sync: they must fit a frame
_JITTER = 0.2


class Agent:
    """Devices of this host. `start` before anything else, `close` at the end.

    Args:
        options: who the agent is, and its limits.
        devices: what it has. Names must differ; cores are those of this process, each of one
            device only. Each kind has its driver, which is made here: ConfigError without one.
        clock: seconds of a monotonic clock, which must be CLOCK_MONOTONIC.
        rng: for jitter.
        drivers: makes the driver of a device.
        blobs: where uploads are kept; in the options' `cache_dir` when None.
        on_away: told why there is no tracker: once, until there is one or the reason changes.
        on_here: called when a tracker has let this agent in.
        on_note: given the name of a device and what its operator should know.
    """

    def __init__(
        self,
        options: AgentOptions,
        devices: Sequence[DeviceOptions],
        clock: Callable[[], float],
        rng: RandomSource,
        *,
        drivers: Callable[[DeviceOptions, DriverContext], Driver] = driver_of,
        blobs: BlobCache | None = None,
        on_away: Callable[[str], None] = lambda _: None,
        on_here: Callable[[], None] = lambda: None,
        on_note: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        _check_devices(devices)
        self.incarnation = uuid.uuid4().hex
        self.devices: dict[str, AgentDevice] = {}
        self._working: list[AgentDevice] = []  # those that have been described
        self.key = options.key
        self.addresses = options.addresses  # where clients reach it
        self.synced = 0  # answers of a tracker so far
        self._options = options
        context = DriverContext(options, clock, rng)
        self._drivers = tuple((spec, drivers(spec, context)) for spec in devices)
        self._clock = clock
        self._rng = rng
        self._blobs = blobs
        self._join = options.join
        self._on_away = on_away
        self._on_here = on_here
        self._on_note = on_note
        self._away = ""  # why there is no tracker, as last told
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
        self._registered: tuple[_Known, ...] = ()
        self._seq = 0
        self._sync_s = options.timers.sync_s

    # --- life ---

    async def start(self) -> None:
        """Find out what the devices are and begin to probe them; does not wait for that.

        Raises: EnvironmentFailure when that cannot be found out for any of them.
        """
        options, limits = self._options, self._options.limits
        blobs = self._blobs
        if blobs is None:
            blobs = BlobCache(options.cache_dir / "uploads", limits.blobs, limits.blob)
        context = AgentContext(
            options,
            blobs,
            self.incarnation,
            clock=self._clock,
            changed=self._on_change,
            allow=self._allow,
            addresses=lambda: self.addresses,
            note=self._on_note,
        )
        for spec, driver in self._drivers:
            self.devices[spec.name] = await self._described(spec, driver, context)
        if self.devices and not self._working:
            raise EnvironmentFailure("; ".join(d.detail for d in self.devices.values()))
        for device in self._working:
            device.start()
        self._beating = asyncio.create_task(self._beat())

    async def _described(
        self, spec: DeviceOptions, driver: Driver, context: AgentContext
    ) -> AgentDevice:
        """A device; one whose driver cannot say what it is stays bad."""
        try:
            with calling(spec.kind, "say what its device is"):
                device = AgentDevice(spec, driver, await driver.describe(), context)
        except DriverError as error:
            unknown = DriverFacts(spec.kind, target="", device="")
            device = AgentDevice(spec, driver, unknown, context)
            device.prober.find(Health.BAD, str(error))
        else:
            self._working.append(device)
        return device

    async def close(self) -> None:
        """End every session and everything the agent started; calling it again is harmless."""
        if self._timer is not None:
            self._timer.cancel()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        ends = (device.close() for device in self.devices.values())
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(error, BaseException) and not isinstance(error, DriverError):
                raise error

    async def __aenter__(self) -> Agent:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _beat(self) -> None:
        while True:
            for device in self._working:
                device.beat()
            await asyncio.sleep(self._options.timers.beat_s)

    def _on_change(self) -> None:
        """The state has changed: report soon, and see when the next lease ends."""
        self._changed.set()
        self._arm()

    def _arm(self) -> None:
        """End leases in time, whether or not there is a tracker."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((d.standing.due for d in self.devices.values()), default=float("inf"))
        if due != float("inf"):
            delay = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        for device in self.devices.values():
            device.tick()
        self._arm()

    # --- sessions ---

    async def serve_session(self, link: Link) -> None:
        """Serve one client's connection, from its first message to the end of its session.

        Raises: FleetError for a client that was refused, which was told.
        """
        if not self.key:
            link.close("the agent has no key yet")
            raise FleetError("a session before the agent has a key", retryable=True)
        timeout_s = self._options.timers.handshake_s
        ticket = await accept_session(link, self.key, self._state, timeout_s=timeout_s)
        await self.devices[ticket.device].serve(link, ticket)

    def _state(self, device: str) -> DeviceState | None:
        known = self.devices.get(device)
        return None if known is None else known.standing.state

    def _allow(self, item: KernelCall) -> None:
        """Check that an item's signatures allow its code to run. Raises: AuthError."""
        if not self._options.signed_only:
            return
        from loopwright.fleet.security.signing import verify

        verify(item.code, item.signature, self._options.builders)

    # --- the tracker ---

    async def run(self, connect: Dial) -> None:
        """Keep a connection with a tracker until cancelled, or superseded.

        Args:
            connect: makes a new link to it, or raises FleetError.

        Raises: AuthError when the tracker refuses this agent; FleetError when other agents have
            all of its devices; EnvironmentFailure when the key that it got cannot be kept.
        """
        timers = self._options.timers
        wait = timers.reconnect_s
        while True:
            before = self.synced
            try:
                await self.talk(await connect())
            except AuthError:
                raise
            except (FleetError, OSError, TimeoutError) as error:
                self._tell_away(str(error))  # sessions go on, until their time is up
            if self.devices and all(d.superseded for d in self.devices.values()):
                names = ", ".join(self.devices)
                raise FleetError(f"another agent has {names}; stop one of the two")
            wait = timers.reconnect_s if self.synced != before else wait * 2
            wait = min(wait, timers.reconnect_max_s)
            await asyncio.sleep(wait * (0.5 + self._rng.random()))

    def _tell_away(self, why: str) -> None:
        if why != self._away:
            self._away = why
            self._on_away(why)

    async def talk(self, link: Link) -> None:
        """Log in to a tracker, register, and report until the link is closed.

        Raises: LinkClosed, AuthError, FleetError; EnvironmentFailure when the key that the tracker
            gives cannot be kept.
        """
        path = self._options.key_file
        try:
            if path is not None and not self.key:
                keyfile.check(path)
            welcome = await greet(link, "agent", self._credential())
            if welcome.device_key:
                self._keep_key(welcome.device_key)
            self._away = ""
            self._on_here()
            self._sync_s = welcome.sync_ms / 1000
            self._register(link)
            listening = asyncio.create_task(self._listen(link))
            reporting = asyncio.create_task(self._report(link))
            try:
                done, _ = await asyncio.wait(
                    (listening, reporting), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
            finally:
                listening.cancel()
                reporting.cancel()
                await asyncio.gather(listening, reporting, return_exceptions=True)
        finally:
            link.close("the agent is done")

    def _credential(self) -> Credential:
        if self.key:
            return ByKey(self._options.name, self.key)
        if self._join:
            return ByCode(self._options.name, self._join)
        return Anonymous(self._options.name)

    def _keep_key(self, key: bytes) -> None:
        """Save a key for later starts, then use it."""
        path = self._options.key_file
        if path is not None:
            keyfile.keep(path, key)
        self.key = key

    def _register(self, link: Link) -> None:
        known = self._known()
        pages = [known[at : at + _PAGE] for at in range(0, len(known), _PAGE)] or [()]
        for number, page in enumerate(pages):
            infos, modules = tuple(info for info, _ in page), tuple(have for _, have in page)
            link.send(Register(self.incarnation, infos, number + 1 < len(pages), modules))
        self._registered = known

    def _known(self) -> tuple[_Known, ...]:
        """What a tracker is told of the devices, apart from their reports."""
        return tuple((device.info(), dict(device.modules)) for device in self.devices.values())

    async def _listen(self, link: Link) -> None:
        while True:
            self._take(link, await link.receive())

    def _take(self, link: Link, message: Incoming) -> None:
        match message:
            case Desired():
                self.synced += 1
                self._sync_s = message.next_sync_ms / 1000
                for order in message.orders:
                    device = self.devices.get(order.name)
                    if device is not None:
                        device.apply(order)
                self._arm()
            case Superseded(name, incarnation):
                device = self.devices.get(name)
                if device is not None and incarnation == self.incarnation:
                    device.supersede()
                if all(d.superseded for d in self.devices.values()):
                    raise FleetError(f"another agent has {name}")
            case Ping(seq):
                link.send(Pong(seq))
            case Error(code=code, detail=detail, fatal=fatal):
                if code == ErrorCode.AUTH:
                    raise AuthError(detail)
                if fatal:
                    raise LinkClosed(detail)
            case Pong():
                pass
            case _:
                link.tally.count(Fault.UNEXPECTED)
                raise FleetError(f"a tracker sent {type(message).__name__}")

    async def _report(self, link: Link) -> None:
        """Report how the devices are: each period, and at once when something changed."""
        while True:
            self._changed.clear()
            if self._known() != self._registered:
                self._register(link)
            reports = [device.report() for device in self.devices.values()]
            for at in range(0, max(1, len(reports)), _PAGE):
                self._seq += 1
                link.send(Sync(self._seq, tuple(reports[at : at + _PAGE])))
            await link.drain()
            period = self._sync_s * (1 - _JITTER / 2 + _JITTER * self._rng.random())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._changed.wait()


def _check_devices(devices: Sequence[DeviceOptions]) -> None:
    allowed = os.sched_getaffinity(0)
    names: set[str] = set()
    owners: dict[int, str] = {}
    for device in devices:
        if device.name in names:
            raise ConfigError(f"two devices are named {device.name}")
        names.add(device.name)
        missing = sorted(set(device.cores) - allowed)
        if missing:
            raise ConfigError(
                f"device {device.name}: cores {missing} are not this process's; "
                f"it has {sorted(allowed)}"
            )
        for core in device.cores:
            if core in owners:
                raise ConfigError(
                    f"devices {owners[core]} and {device.name} both have core {core}: what one "
                    "runs would slow the other down; give each core to one device, once"
                )
            owners[core] = device.name


__all__ = ["Agent", "Dial"]

"""The client of a fleet for callers with an event loop. `api` is the same for those without."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from loopwright.errors import (
    AuthError,
    ConfigError,
    DeviceLostError,
    FleetError,
    UnknownNameError,
)
from loopwright.fields import MAX_MS
from loopwright.fleet.client.control import Control
from loopwright.fleet.client.lease import HeldLease
from loopwright.fleet.client.pending import OnQueued, new_request_id
from loopwright.fleet.client.runtimes import Runtimes
from loopwright.fleet.client.session import Blob, DeviceSession, SessionConfig
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.security.signing import BuilderKeys
from loopwright.fleet.selector import parse
from loopwright.fleet.views import DeviceView, EventView, ExplanationView, LeaseView
from loopwright.fleet.wire.fields import MAX_DEVICES
from loopwright.fleet.wire.link import Link
from loopwright.fleet.wire.messages import Acquire
from loopwright.fleet.words import RUNTIME, Priority

DialDevice: TypeAlias = Callable[[str], Awaitable[Link]]
_MOST_S = MAX_MS / 1000


def check(asked: LeaseRequest) -> LeaseRequest:
    """`asked` with its selector as `str(parse(...))` writes it.

    Raises: ConfigError for what is not a valid selector, and for a number that no tracker takes.
    """
    _require("a ttl", asked.ttl_s, 1.0, _MOST_S, " s")
    _require("a wait", asked.max_wait_s, 0.0, _MOST_S, " s")
    _require("a count", asked.count, 1, MAX_DEVICES, " devices")
    _require("a priority", int(asked.priority), min(Priority), max(Priority))
    return msgspec.structs.replace(asked, selector=str(parse(asked.selector)))


def _require(what: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:
        raise ConfigError(f"{what} of {value}{unit} is not within {low:.0f} to {high:.0f}{unit}")


class AsyncFleet:
    """A fleet. It belongs to one event loop; `start` before anything else, `close` at the end.

    Args:
        control: the connection with the tracker, not started yet.
        dial: makes a link to a device, given one of its addresses.
        clock: seconds of a monotonic clock.
        runtimes: what is brought to devices that have another native runtime, or none.
        builder: signs the code that is to run, for devices that run no other.
    """

    def __init__(
        self,
        control: Control,
        dial: DialDevice,
        clock: Callable[[], float],
        sessions: SessionConfig = SessionConfig(),  # noqa: B008  # frozen
        runtimes: Runtimes | None = None,
        builder: BuilderKeys | None = None,
    ) -> None:
        self.control = control
        self._dial = dial
        self._clock = clock
        self._sessions = sessions
        self._runtimes = runtimes
        self._builder = builder
        self._held: dict[str, HeldLease] = {}

    async def start(self) -> None:
        """Connect to the tracker.

        Raises: AuthError, FleetError, ConfigError.
        """
        await self.control.start()

    async def close(self) -> None:
        """Give back what is held, and disconnect."""
        for lease in tuple(self._held.values()):
            await lease.release()
        self._held.clear()
        await self.control.close()

    # --- leases and sessions ---

    async def acquire(
        self, asked: LeaseRequest, on_queued: OnQueued = lambda _, __: None
    ) -> tuple[HeldLease, ...]:
        """Leases on the devices of `asked`, renewed until they are released.

        Args:
            on_queued: told of the position in the queue, and why it waits.

        Raises: NoDeviceError, QueueTimeoutError, AuthError, ConfigError, FleetError.
        """
        grants = await self.control.acquire(Acquire.of(new_request_id(), check(asked)), on_queued)
        held = tuple(HeldLease(self.control, grant, self._clock) for grant in grants)
        for lease in held:
            lease.begin()
            self._held[lease.id] = lease
            lease.on_end(functools.partial(self._forget, lease.id))
        return held

    def _forget(self, lease: str) -> None:
        self._held.pop(lease, None)

    @contextlib.asynccontextmanager
    async def lease(
        self, asked: LeaseRequest, on_queued: OnQueued = lambda _, __: None
    ) -> AsyncIterator[tuple[HeldLease, ...]]:
        """`acquire`, released at the end."""
        held = await self.acquire(asked, on_queued)
        try:
            yield held
        finally:
            await asyncio.gather(*(lease.release() for lease in held))

    async def open(
        self, lease: HeldLease, modules: Mapping[str, Blob] | None = None
    ) -> DeviceSession:
        """A session on a leased device, closed by the caller. It ends with the lease.

        Raises: DeviceLostError, also when the device says that the lease is over; FleetError.
        """
        lease.check()
        name = lease.device.name
        link = await self._reach(lease.device.addresses, name)
        try:
            session = await DeviceSession.open(
                link, lease.grant, self._clock, self._sessions, self._builder
            )
        except AuthError as error:
            raise DeviceLostError(
                f"{name} does not open lease {lease.id}: {error}; lease a device again",
                retryable=True,
            ) from error
        lease.on_end(lambda: _end_with(lease, session))
        session.on_end(lambda error: lease.session_ended(error.reason, str(error)))
        try:
            wanted = await self._modules(session, modules or {})
            if wanted:
                await session.configure(wanted)
        except BaseException:
            await session.close()
            raise
        return session

    async def _modules(
        self, session: DeviceSession, modules: Mapping[str, Blob]
    ) -> Mapping[str, Blob]:
        """`modules`, and the native runtime if the device does not have the one of this side."""
        if self._runtimes is None or RUNTIME in modules:
            return modules
        runtime = await self._runtimes.lacking(session.opened)
        return modules if runtime is None else {**modules, RUNTIME: runtime}

    async def _reach(self, addresses: Sequence[str], name: str) -> Link:
        failure: FleetError | ConfigError = FleetError(f"device {name} has no address")
        for address in addresses:
            try:
                return await self._dial(address)
            except (FleetError, ConfigError) as error:
                failure = error
        raise failure

    # --- what there is ---

    async def devices(self, selector: str = "") -> tuple[DeviceView, ...]:
        """The devices that match, ordered by name.

        Raises: ConfigError for an invalid selector.
        """
        return await self.control.rows("devices", DeviceView, selector=str(parse(selector)))

    async def leases(self) -> tuple[LeaseView, ...]:
        """The leases that live and the requests that wait."""
        return await self.control.rows("leases", LeaseView)

    async def explain(self, name: str) -> ExplanationView:
        """Why a lease or request is where it is.

        Raises: UnknownNameError.
        """
        body, _ = await self.control.page("explain", name=name)
        found = msgspec.json.decode(body, type=ExplanationView | None)
        if found is None:
            raise UnknownNameError(f"no lease or request {name!r} lives; see `loopwright lease ls`")
        return found

    async def status(self) -> dict[str, object]:
        """The tracker's status: its figures by name."""
        body, _ = await self.control.page("status")
        return msgspec.json.decode(body, type=dict[str, object])

    async def events(self, after: int = 0) -> tuple[EventView, ...]:
        """What happened after the event with that number, as far as it is kept."""
        found: list[EventView] = []
        more = str(after)
        while more:
            body, more = await self.control.page("events", more)
            found += msgspec.json.decode(body, type=list[EventView])
        return tuple(found)

    async def command(self, what: str, **arguments: str) -> object:
        """The result of an operator's command, by the names of the tracker's table.

        Raises: AuthError without the role for it; ConfigError, FleetError.
        """
        return msgspec.json.decode(await self.control.command(what, arguments))


def _end_with(lease: HeldLease, session: DeviceSession) -> None:
    if session.over is None:
        reason = "" if lease.reason is None else lease.reason.value
        session.abort(f"the lease is over, {reason}: {lease.detail}", lease.reason)

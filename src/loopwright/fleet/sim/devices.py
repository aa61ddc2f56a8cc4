"""Simulated devices: an agent whose devices do what a function says, for tests and load.

Protocol, epochs, uploads and sessions are those of real agents; only what a run does is made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from loopwright.errors import FleetError
from loopwright.fleet.agent.blobs import BlobCache, BlobError
from loopwright.fleet.agent.driver import ItemOutcome
from loopwright.fleet.agent.options import SessionLimits
from loopwright.fleet.agent.session import ServedSession
from loopwright.fleet.agent.standing import Ended, Standing
from loopwright.fleet.security.handshake import Anonymous, ByKey, accept_session, greet
from loopwright.fleet.security.tickets import DeviceState, Ticket
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import (
    Closed,
    Desired,
    DeviceInfo,
    DeviceReport,
    Opened,
    Register,
    Result,
    Sync,
)
from loopwright.fleet.words import EndReason, Health, Occupancy, RunStatus
from loopwright.kernel_call import KernelCall

_QUOTA = 1 << 30


class Crash(Exception):  # noqa: N818  # the device ends, it does not fail
    """Raised by a behaviour: the device is gone, in the middle of the run."""


Behaviour: TypeAlias = Callable[[str, KernelCall, bytes], Awaitable[Result]]
"""What a device does with an item, given its name and the code; see `timed`."""


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """What a simulated device says of itself."""

    name: str
    target: str
    device: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = (0,)


def timed(item: KernelCall, ns: float) -> Result:
    """The result of an item that takes `ns` a call."""
    return Result(id=item.id, status=RunStatus.OK.value, ns=(ns,) * item.repeats, run_s=ns / 1e9)


class _Device:
    """One device: the `SessionHost` of its session."""

    def __init__(
        self, spec: SimulatedDevice, agent: SimulatedAgent, blobs: BlobCache, incarnation: str
    ) -> None:
        self.spec = spec
        self.limits = SessionLimits(wall_s=3600.0, memory=1 << 50)
        self.blobs = blobs
        self.standing = Standing(spec.name, incarnation)
        self.busy_s = 0.0
        self.runs = 0
        self._agent = agent
        self._serving: asyncio.Task[EndReason] | None = None
        self._modules: dict[str, str] = {}
        self._verdict: Ended | None = None

    @property
    def info(self) -> DeviceInfo:
        spec, agent = self.spec, self._agent
        labels = {"kind": "simulated", **spec.labels, "name": spec.name}
        return DeviceInfo(
            name=spec.name,
            labels=labels,
            target=spec.target,
            device=spec.device,
            cores=spec.cores,
            addresses=agent.addresses,
            tier=0,
        )

    def report(self) -> DeviceReport:
        standing = self.standing
        if self._serving is not None:
            occupancy, lease, epoch = Occupancy.ACTIVE, standing.lease, standing.epoch
        else:
            occupancy = Occupancy.RESERVED if standing.reserved else Occupancy.IDLE
            lease, epoch = standing.reserved, 0
        return DeviceReport(
            name=self.spec.name,
            occupancy=occupancy.value,
            health=Health.GOOD.value,
            lease=lease,
            epoch=epoch,
            last_epoch=standing.last_epoch,
        )

    def doom(self, ended: Ended) -> None:
        if self._serving is not None:
            self._verdict = ended
            self._serving.cancel()

    async def serve(self, link: Link, ticket: Ticket) -> None:
        agent = self._agent
        self.doom(Ended(EndReason.EXPIRED, "a newer session has the device"))
        while self._serving is not None:
            await asyncio.sleep(0)
        self.standing.accept(ticket, agent.clock())
        self._verdict = None
        self._serving = serving = asyncio.create_task(ServedSession(link, self).serve())
        agent.changed()
        left_ms = int(self.standing.left_s(agent.clock()) * 1000)
        link.send(
            Opened(
                lease=ticket.lease,
                epoch=ticket.epoch,
                ttl_ms=left_ms,
                device=self.info,
                tier=0,
                max_wall_ms=3_600_000,
                max_memory=1 << 50,
                max_blob=_QUOTA,
            )
        )
        try:
            await asyncio.wait((serving,))
        finally:
            serving.cancel()
            self._serving = None
            crashed = not serving.cancelled() and isinstance(serving.exception(), Crash)
            if crashed:
                link.abort("the device is gone")
            else:
                verdict = self._verdict or Ended(EndReason.RELEASED, "")
                with contextlib.suppress(LinkClosed):
                    link.send(Closed(verdict.reason.value, verdict.detail))
                link.close("the session ended")
            agent.changed()

    async def run(self, item: KernelCall) -> ItemOutcome:
        """Do what the agent's behaviour says."""
        try:
            code = self.blobs.read(item.code)
        except BlobError as error:
            lost = Result(
                id=item.id, status=RunStatus.INFRA.value, kind="worker-lost", detail=str(error)
            )
            return ItemOutcome(lost)
        start = self._agent.clock()
        try:
            return ItemOutcome(await self._agent.behave(self.spec.name, item, code))
        finally:
            self.busy_s += self._agent.clock() - start
            self.runs += 1

    async def between(self) -> None:
        """Nothing."""

    def allow(self, item: KernelCall) -> None:
        """Anything goes."""
        del item

    def configure(self, modules: Mapping[str, str]) -> tuple[str, ...]:
        """Note the modules."""
        changed = tuple(
            kind for kind, digest in modules.items() if self._modules.get(kind) != digest
        )
        self._modules.update(modules)
        return changed


class SimulatedAgent:
    """Agent `name` with devices that do as `behave` says; uploads are kept in `folder`.

    Use `run` as a task, with what connects to a tracker, and `serve_session` for each link of a
    client.
    """

    def __init__(
        self,
        name: str,
        devices: Sequence[SimulatedDevice],
        behave: Behaviour,
        folder: Path,
        clock: Callable[[], float],
        addresses: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.behave = behave
        self.clock = clock
        self.addresses = addresses
        self.registered = asyncio.Event()
        blobs = BlobCache(folder, _QUOTA, _QUOTA)
        self.incarnation = uuid.uuid4().hex
        self.devices = {d.name: _Device(d, self, blobs, self.incarnation) for d in devices}
        self._key = b""
        self._changed = asyncio.Event()
        self._sync_s = 1.0
        self._seq = 0

    def changed(self) -> None:
        """A report would differ."""
        self._changed.set()

    async def serve_session(self, link: Link) -> None:
        """Serve one client. Raises: FleetError for one that was refused."""
        ticket = await accept_session(link, self._key, self._state)
        await self.devices[ticket.device].serve(link, ticket)

    def _state(self, name: str) -> DeviceState | None:
        device = self.devices.get(name)
        return None if device is None else device.standing.state

    async def run(self, connect: Callable[[], Awaitable[Link]]) -> None:
        """Keep a connection with a tracker until cancelled."""
        while True:
            with contextlib.suppress(FleetError, OSError, TimeoutError):
                await self._talk(await connect())
            await asyncio.sleep(0.05)

    async def _talk(self, link: Link) -> None:
        who = ByKey(self.name, self._key) if self._key else Anonymous(self.name)
        reporting: asyncio.Task[None] | None = None
        try:
            welcome = await greet(link, "agent", who)
            self._key = welcome.device_key or self._key
            self._sync_s = welcome.sync_ms / 1000
            link.send(Register(self.incarnation, tuple(d.info for d in self.devices.values())))
            reporting = asyncio.create_task(self._report(link))
            while True:
                message = await link.receive()
                if isinstance(message, Desired):
                    self._obey(message)
        finally:
            if reporting is not None:
                reporting.cancel()
            link.close("the agent is done")

    def _obey(self, message: Desired) -> None:
        self._sync_s = message.next_sync_ms / 1000
        for order in message.orders:
            device = self.devices.get(order.name)
            if device is None:
                continue
            before = device.standing.reserved
            ended = device.standing.order(order, self.clock(), 10.0)
            if ended is not None:
                device.doom(ended)
            if ended is not None or device.standing.reserved != before:
                self.changed()
        self.registered.set()

    async def _report(self, link: Link) -> None:
        while True:
            self._changed.clear()
            self._seq += 1
            link.send(Sync(self._seq, tuple(d.report() for d in self.devices.values())))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sync_s):
                    await self._changed.wait()

"""The tracker's end of an agent's connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from loopwright.errors import FleetError
from loopwright.fleet.book.effects import DesiredState, TellDesired, TellSuperseded
from loopwright.fleet.book.events import AgentUp, DeviceSpec, ReportedState, Synced
from loopwright.fleet.tracker.directory import AccessDirectory
from loopwright.fleet.tracker.sessions import Allowance, Host
from loopwright.fleet.wire.codec import Data, Incoming
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.fields import clip
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import (
    Desired,
    DeviceInfo,
    DeviceOrder,
    DeviceReport,
    Error,
    Ping,
    Pong,
    Register,
    Superseded,
    Sync,
)
from loopwright.fleet.words import Health, Occupancy

_ORDERS_A_MESSAGE = 256
_OCCUPANCIES = {value.value: value for value in Occupancy}
_HEALTHS = {value.value: value for value in Health}


class AgentsHost(Host, Protocol):
    """What an agent's session needs of the tracker."""

    directory: AccessDirectory

    def next_sync_s(self, *, active: bool) -> float:
        """When an agent should report next."""
        ...

    def synced(self) -> None:
        """An agent reported."""
        ...

    def agent_came(self, session: AgentSession) -> None:
        """An agent said which devices it has."""
        ...

    def agent_left(self, session: AgentSession, why: str) -> None:
        """The connection of an agent is gone."""
        ...


class AgentSession:
    """One agent while it is connected.

    Orders gather for a few milliseconds, of several for one device the last is sent: a device
    believes a ticket without them. Those to kill or to probe go out with this turn of the loop.
    """

    def __init__(self, tracker: AgentsHost, link: Link, agent: str, *, bound: bool) -> None:
        self.agent = agent
        self.incarnation = ""
        self.link = link
        self.devices: dict[str, DeviceInfo] = {}
        self._tracker = tracker
        self._bound = bound  # may have devices under its own name only
        self._arriving: dict[str, DeviceInfo] = {}
        self._modules: dict[str, Mapping[str, str]] = {}
        self._orders: dict[str, DesiredState] = {}
        self._leased: set[str] = set()
        self._seq = 0
        self._owes = False  # a report that was not answered yet
        self._due = tracker.clock() + tracker.next_sync_s(active=True)  # its next report
        self._flush: asyncio.Handle | None = None
        config = tracker.config
        self._allowance = Allowance(config.messages_per_s, config.burst, tracker.clock)

    def on_message(self, message: Incoming, _: int) -> None:
        """A message of the agent."""
        wait = self._allowance.take()
        try:
            if type(message) is Sync:
                self._sync(message)
            elif type(message) is Register:
                self._register(message)
            elif type(message) is Ping:
                self.link.send(Pong(message.seq))
            elif type(message) is Error:
                self.link.close(f"agent {self.agent} failed: {message.detail}")
            elif type(message) is not Pong:
                name = type(message.head if isinstance(message, Data) else message).__name__
                raise Denied(Fault.UNEXPECTED, f"an agent does not send {name}")
        except LinkClosed:
            return
        except FleetError as error:
            self._tracker.refuse(self.link, error, self.agent)
        if wait:
            self._tracker.slow_down(self.link, wait)

    def on_closed(self, why: str) -> None:
        """The connection is gone."""
        if self._flush is not None:
            self._flush.cancel()
        self._tracker.agent_left(self, why)

    # --- what it says ---

    def _register(self, message: Register) -> None:
        limit = self._tracker.config.devices_per_agent
        if self.incarnation and message.incarnation != self.incarnation:
            raise Denied(Fault.UNEXPECTED, "another incarnation on the same connection")
        modules = message.modules or ({},) * len(message.devices)
        if len(modules) != len(message.devices):
            raise Denied(Fault.UNEXPECTED, "modules of other devices than were registered")
        for device, have in zip(message.devices, modules, strict=True):
            self._check_name(device.name)
            self._arriving[device.name] = device
            self._modules[device.name] = have
        if len(self._arriving) > limit:
            raise Denied(Fault.TOO_MANY, f"{len(self._arriving)} devices; {limit} are allowed")
        self.incarnation = message.incarnation
        if message.more:
            return
        self.devices, self._arriving = self._arriving, {}
        self._modules = {name: self._modules[name] for name in self.devices}
        if not self.agent:
            self.agent = next(iter(self.devices), message.incarnation).partition("/")[0]
        self._leased.intersection_update(self.devices)
        self._tracker.agent_came(self)
        forced = self._tracker.directory.labels(self.agent)
        specs = tuple(
            DeviceSpec(d.name, {**d.labels, **forced, "name": d.name}, self._modules[d.name])
            for d in self.devices.values()
        )
        self._tracker.happened(AgentUp(self.agent, self.incarnation, specs))

    def _check_name(self, name: str) -> None:
        if self._bound and name != self.agent and not name.startswith(f"{self.agent}/"):
            raise Denied(
                Fault.BAD_NAME,
                f"agent {self.agent} may not have a device named {name}; name it {self.agent}/...",
            )

    def _sync(self, message: Sync) -> None:
        if not self.incarnation:
            raise Denied(Fault.UNEXPECTED, "a report before Register")
        reports = tuple(map(_report, message.reports))
        self._seq = message.seq
        self._owes = True
        self._flush_soon()
        tracker = self._tracker
        tracker.synced()
        wait_s = tracker.next_sync_s(active=self.active)
        self._due = tracker.clock() + wait_s
        event = Synced(self.agent, self.incarnation, message.seq, reports, wait_s)
        tracker.happened(event)

    # --- what it is told ---

    def tell(self, effect: TellDesired) -> None:
        """Note what its devices should do."""
        urgent = False
        for order in effect.orders:
            self._orders[order.device] = order
            if order.lease:
                self._leased.add(order.device)
            else:
                self._leased.discard(order.device)
                urgent = urgent or order.kill or order.probe
        if urgent:
            self._flush_soon()
        elif self._flush is None:
            wait_s = self._tracker.config.orders_s
            self._flush = asyncio.get_running_loop().call_later(wait_s, self._send_orders)

    def superseded(self, effect: TellSuperseded) -> None:
        """Another process has a device of this one."""
        self._send(Superseded(effect.device, effect.incarnation))

    @property
    def active(self) -> bool:
        """Whether it has a lease."""
        return bool(self._leased)

    def _flush_soon(self) -> None:
        if isinstance(self._flush, asyncio.TimerHandle):
            self._flush.cancel()
            self._flush = None
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self._send_orders)

    def _send_orders(self) -> None:
        self._flush = None
        if not self._orders and not self._owes:
            return
        self._owes = False
        orders, self._orders = list(self._orders.values()), {}
        wait_ms = self._wait_ms()
        for start in range(0, max(1, len(orders)), _ORDERS_A_MESSAGE):
            some = orders[start : start + _ORDERS_A_MESSAGE]
            self._send(Desired(self._seq, tuple(map(_order, some)), wait_ms))

    def _wait_ms(self) -> int:
        """How long until its next report: less than it was told before, never more."""
        now = self._tracker.clock()
        if self.active and self._due > now + self._tracker.config.sync_active_s:
            self._due = min(self._due, now + self._tracker.next_sync_s(active=True))
        return max(1, int((self._due - now) * 1000))

    def _send(self, message: Desired | Superseded) -> None:
        try:
            self.link.send(message)
        except LinkClosed:
            return


def _report(told: DeviceReport) -> ReportedState:
    occupancy, health = _OCCUPANCIES.get(told.occupancy), _HEALTHS.get(told.health)
    if occupancy is None or health is None:
        raise Denied(
            Fault.BAD_MESSAGE,
            f"device {told.name} reports {told.occupancy!r} and {told.health!r}; update this side",
        )
    return ReportedState(
        device=told.name,
        occupancy=occupancy,
        health=health,
        lease=told.lease,
        epoch=told.epoch,
        last_epoch=told.last_epoch,
        drift=told.drift,
        detail=told.detail,
    )


def _order(order: DesiredState) -> DeviceOrder:
    return DeviceOrder(
        name=order.device,
        lease=order.lease,
        epoch=order.epoch,
        ttl_ms=int(order.ttl_s * 1000),
        admin=order.admin.value,
        probe=order.probe,
        kill=order.kill,
        why=clip(order.why),
        fence=order.fence,
    )

"""The LeaseBook: who may use which device, until when. A pure state machine.

`apply(event, now)` returns what must be done, in order; it does no I/O, reads no clock and draws no
random number, so that a whole fleet can be simulated step by step. Its caller calls `apply`
with a `Tick` when `deadline` is reached.

Safety does not rest on any of this being on time: a device accepts a session only with its own
incarnation and an epoch above all it has seen, and ends an older one first. What the book's timers
decide is only when a device is offered again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, TypeAlias

from loopwright.fleet.book import (
    agents,
    devices,
    events,
    leases,
    requests,
    restore,
    standing,
)
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.effects import Effect, TellDesired
from loopwright.fleet.book.events import Event
from loopwright.fleet.book.explain import explain
from loopwright.fleet.book.records import NEVER, Boot, DeviceRecord, LeaseRecord, RequestRecord
from loopwright.fleet.book.state import BookState
from loopwright.fleet.book.views import (
    Counts,
    TenantView,
    counts,
    device_view,
    lease_view,
    request_view,
    tenant_views,
)
from loopwright.fleet.selector import parse
from loopwright.fleet.views import DeviceView, ExplanationView, LeaseView

_Handler: TypeAlias = Callable[[BookState, Any], None]


def _store_down(state: BookState, event: events.StoreDown) -> None:
    requests.store_down(state, event.why, event.lost)


def _store_up(state: BookState, _: events.StoreUp) -> None:
    requests.store_up(state)


def _tick(state: BookState, _: events.Tick) -> None:
    """Timers run before each event anyway."""


_HANDLERS: dict[type[Event], _Handler] = {
    events.AgentUp: agents.agent_up,
    events.AgentDown: agents.agent_down,
    events.Synced: agents.synced,
    events.Requested: requests.requested,
    events.Cancelled: requests.cancelled,
    events.Renewal: leases.renewal,
    events.GiveBack: leases.give_back,
    events.ClientDown: requests.client_down,
    events.TokenOver: requests.token_over,
    events.Revoked: requests.revoked,
    events.AdminSet: devices.admin_set,
    events.ProbeAsked: devices.probe_asked,
    events.EpochsReserved: standing.epochs_reserved,
    events.StoreDown: _store_down,
    events.StoreUp: _store_up,
    events.Restored: restore.restored,
    events.Tick: _tick,
}
_DUE: dict[type, _Handler] = {
    Boot: agents.boot_due,
    DeviceRecord: devices.device_due,
    LeaseRecord: leases.lease_due,
    RequestRecord: requests.request_due,
}


class LeaseBook:
    """Devices, leases and the queue of a fleet."""

    def __init__(self, config: BookConfig = BookConfig()) -> None:  # noqa: B008  # it is frozen
        self.config = config
        self._state = BookState(config=config)

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        """What must be done about an event at `now`, which never goes back."""
        state = self._state
        if now > state.now:
            self._slept(now)
            state.now = now
        self._run_timers()
        _HANDLERS[type(event)](state, event)
        if state.freed or state.reopened or state.shrunk or state.held_for or state.gangs:
            requests.settle(state)
        if state.orders:
            self._order()
        out = tuple(state.out)
        state.out.clear()
        return out

    @property
    def deadline(self) -> float | None:
        """When the next Tick is due; None while nothing depends on time."""
        state = self._state
        due = state.next_due()
        if state.settling_until != -NEVER:
            due = min(due, state.settling_until)
        return None if due == NEVER else due

    @property
    def read_only(self) -> str:
        """Why nothing is granted now; empty when the store can be written."""
        return self._state.read_only

    @property
    def settling_s(self) -> float:
        """For how long, in seconds, devices known before the last start may still come back."""
        return self._state.settling_s

    @property
    def counts(self) -> Counts:
        """The counts of everything."""
        return counts(self._state)

    def tenants(self, most: int) -> tuple[TenantView, ...]:
        """Tenants that hold or want something, and those with a quota of their own, by name."""
        return tenant_views(self._state, most)

    def devices(self, selector: str = "") -> tuple[DeviceView, ...]:
        """The devices that `selector` means, in order of name.

        Raises: ConfigError for an invalid selector.
        """
        state = self._state
        wanted = parse(selector)
        return tuple(
            device_view(state, device)
            for name, device in sorted(state.devices.items())
            if wanted.matches(device.labels)
        )

    def names(self, selector: str = "") -> tuple[str, ...]:
        """The names of the devices that `selector` means, in order.

        Raises: ConfigError for an invalid selector.
        """
        wanted = parse(selector)
        devices = self._state.devices.values()
        return tuple(sorted(d.name for d in devices if wanted.matches(d.labels)))

    def device(self, name: str) -> DeviceView | None:
        """A device by its name."""
        device = self._state.devices.get(name)
        return None if device is None else device_view(self._state, device)

    def leases(self, now: float = 0.0) -> tuple[LeaseView, ...]:
        """The leases that live, and those whose devices are not clean yet, as they are at `now`."""
        now = max(now, self._state.now)
        return tuple(lease_view(lease, now) for lease in self._state.leases.values())

    def lease(self, name: str) -> LeaseView | None:
        """A lease by its id."""
        lease = self._state.leases.get(name)
        return None if lease is None else lease_view(lease, self._state.now)

    def held_with(self, token: str) -> tuple[str, ...]:
        """The leases that are held with a token."""
        leases = self._state.leases.values()
        held = (one for one in leases if one.reason is None and one.request.token == token)
        return tuple(lease.id for lease in held)

    def requests(self, now: float = 0.0) -> tuple[LeaseView, ...]:
        """The requests that wait, oldest first, as they are at `now`."""
        now = max(now, self._state.now)
        return tuple(request_view(request, now) for request in self._state.waiting)

    def request(self, name: str) -> LeaseView | None:
        """A request that waits, by its id."""
        request = self._state.requests.get(name)
        if request is None or request not in self._state.waiting:
            return None
        return request_view(request, self._state.now)

    def explain(self, subject: str, now: float) -> ExplanationView | None:
        """Why a request waits or how a lease stands; None for an id that is not known."""
        self._state.now = max(now, self._state.now)
        return explain(self._state, subject)

    def _slept(self, now: float) -> None:
        """After a pause of this process, agents' reports lie unread: their silence is ours."""
        state = self._state
        due = state.next_due()
        pause = now - due
        if pause > state.config.suspect_s:
            for boot in state.boots.values():
                if boot.connected:
                    boot.heard = max(boot.heard, now - state.config.sync_s)

    def _run_timers(self) -> None:
        state = self._state
        timers = state.timers
        while timers and timers[0][0] <= state.now:
            due, _, timed = heapq.heappop(timers)
            if timed.timer != due:
                state.stale -= 1
                continue
            timed.timer = NEVER
            _DUE[type(timed)](state, timed)
            timers = state.timers
        if -NEVER < state.settling_until <= state.now:
            state.settled()

    def _order(self) -> None:
        """One message to each agent for whose devices something changed."""
        state = self._state
        orders, state.orders = state.orders, {}
        for boot, changed in orders.items():
            told = tuple(
                standing.order_of(state, device) for device in changed if device.boot is boot
            )
            if told:
                state.out.append(TellDesired(boot.agent, boot.incarnation, told))

"""What must hold in a simulated fleet, checked on what devices and the store saw.

The rules: no two live sessions on a device; epochs of a device grow strictly, over restarts of
everything; each lease ends once, with a reason; a device is not granted while it is leased, nor
before it reported to this tracker; no lease is lost with its holder while its device says that its
session is open, or right after its holder renewed it; nothing outlives its token, or is above the
limits of its role and tenant; after each event no free device and no request that it could serve
stand side by side; and once all faults are healed, each device is free again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loopwright.fleet.book import queue
from loopwright.fleet.book.effects import (
    Effect,
    EndLease,
    SaveLease,
    TellGranted,
    TellRefused,
)
from loopwright.fleet.book.events import (
    Event,
    LeaseRow,
    Renewal,
    Requested,
    Restored,
    Synced,
    TokenOver,
)
from loopwright.fleet.book.standing import grantable
from loopwright.fleet.book.state import BookState
from loopwright.fleet.selector import parse
from loopwright.fleet.words import Admin, EndReason, Occupancy, Refusal

_MAX_KEPT = 20


class Labelled(Protocol):
    """A device as far as requests ask for it."""

    name: str
    labels: dict[str, str]


@dataclass(slots=True)
class FleetChecker:
    """Notes violations; `checks` counts what was looked at."""

    violations: list[str] = field(default_factory=list)
    checks: int = 0
    opens: int = 0
    top: dict[str, int] = field(default_factory=dict)  # highest epoch ever granted
    accepted: dict[str, int] = field(default_factory=dict)  # highest ever accepted by the device
    live: dict[str, tuple[str, int]] = field(default_factory=dict)  # sessions on devices
    leased: dict[str, str] = field(default_factory=dict)  # device -> lease, as the book says
    ended: dict[str, str] = field(default_factory=dict)
    told: dict[tuple[str, int], str] = field(default_factory=dict)  # (device, epoch) -> lease
    reported: set[tuple[str, str]] = field(default_factory=set)  # device, incarnation
    met: set[str] = field(default_factory=set)  # leases that devices reported to this tracker
    open: dict[str, int] = field(default_factory=dict)  # device -> session that it reported last
    renewed: dict[str, float] = field(default_factory=dict)  # lease -> when
    now: float = 0.0

    def wrong(self, what: str) -> None:
        """Note a violation."""
        if len(self.violations) < _MAX_KEPT:
            self.violations.append(f"{self.now:.3f} s: {what}")

    # --- the tracker ---

    def restarted(self, kept: Restored) -> None:
        """Another tracker begins, with what was kept."""
        self.reported.clear()
        self.open.clear()
        self.met.clear()
        self.leased = {row.device: row.lease for row in kept.leases}
        # An end that was not durable is in no log: what is still known of such a lease ends again.
        self.ended = {lease: reason.value for lease, reason in kept.ended}

    def applied(self, state: BookState, event: Event, effects: tuple[Effect, ...]) -> None:
        """The book answered an event."""
        if isinstance(event, Synced):
            boot = state.boots.get((event.agent, event.incarnation))
            for report in event.reports:
                self.reported.add((report.device, event.incarnation))
                device = state.devices.get(report.device)
                owned = device is not None and device.boot is boot
                if owned and boot is not None and boot.seq == event.seq:
                    active = report.occupancy is Occupancy.ACTIVE
                    self.open[report.device] = report.epoch if active else 0
                    if report.lease:
                        self.met.add(report.lease)
        elif isinstance(event, Renewal):
            self.renewed[event.lease] = self.now
        elif isinstance(event, TokenOver):
            self._not_held(state, event.token)
        for effect in effects:
            if isinstance(effect, SaveLease):
                self._saved(effect.row)
                self._allowed(state, effect.row)
            elif isinstance(effect, EndLease):
                self._ended(effect)

    def _saved(self, row: LeaseRow) -> None:
        device = row.device
        self.checks += 1
        if row.epoch <= self.top.get(device, 0):
            self.wrong(f"{device}: epoch {row.epoch} granted after {self.top[device]}")
        self.top[device] = max(row.epoch, self.top.get(device, 0))
        if device in self.leased:
            self.wrong(f"{device}: granted as {row.lease} while leased as {self.leased[device]}")
        self.leased[device] = row.lease
        if (device, row.incarnation) not in self.reported:
            self.wrong(f"{device}: granted before it reported to this tracker")
        if row.lease in self.ended:
            self.wrong(f"lease {row.lease} begins after its end")

    def _allowed(self, state: BookState, row: LeaseRow) -> None:
        for limits in state.config.limits(row.role, row.tenant):
            if row.priority > limits.max_class or row.ttl_s > limits.max_ttl_s:
                self.wrong(f"lease {row.lease} is above the limits of {row.role} and {row.tenant}")

    def _not_held(self, state: BookState, token: str) -> None:
        self.checks += 1
        for request in state.requests.values():
            if request.token == token:
                self.wrong(f"request {request.id} outlives its token {token}")

    def _ended(self, effect: EndLease) -> None:
        if effect.reason is EndReason.CLIENT_LOST:
            self._lost(effect)
        if effect.lease in self.ended:
            self.wrong(
                f"lease {effect.lease} ended as {effect.reason.value} "
                f"after {self.ended[effect.lease]}"
            )
        self.ended[effect.lease] = effect.reason.value
        if self.leased.get(effect.device) == effect.lease:
            del self.leased[effect.device]

    def _lost(self, effect: EndLease) -> None:
        self.checks += 1
        if self.open.get(effect.device) == effect.epoch:
            self.wrong(f"lease {effect.lease} is lost while its session is open")
        if self.now - self.renewed.get(effect.lease, -1e9) < 1.0:
            self.wrong(f"lease {effect.lease} is lost right after its holder renewed it")

    def no_lost_wakeup(self, state: BookState) -> None:
        """No request waits for devices that are there."""
        if not state.waiting or state.read_only:
            return
        able = [device for device in state.devices.values() if grantable(device)]
        if not able:
            return
        self.checks += 1
        for request in state.waiting:
            match = request.match
            if match is None or queue.blocked(request.tenant, request.asked.count):
                continue
            fitting = [
                device
                for device in able
                if match.selector.matches(device.labels)
                and not queue.held_from(state, device, request)
            ]
            if len(fitting) >= request.asked.count:
                self.wrong(f"request {request.id} waits while {fitting[0].name} is free")

    def not_hopeless(
        self,
        state: BookState,
        event: Event,
        effects: tuple[Effect, ...],
        devices: Sequence[Labelled],
    ) -> None:
        """Soon after a start no request is refused that `devices`, there or not, could serve."""
        for effect in effects:
            if not isinstance(effect, TellRefused) or effect.code is not Refusal.UNSATISFIABLE:
                continue
            self.checks += 1
            if not isinstance(event, Requested) or event.request != effect.request:
                continue  # one that waited: its devices went while it did
            selector = parse(event.asked.selector)
            retired = {d.name for d in state.devices.values() if d.admin is Admin.RETIRED}
            fitting = [
                device
                for device in devices
                if device.name not in retired and selector.matches(device.labels)
            ]
            if len(fitting) >= event.asked.count:
                self.wrong(f"request {effect.request} is refused while devices may come back")

    def whole(self, state: BookState, expected: int) -> None:
        """Devices and leases belong together, and none is missing."""
        self.checks += 1
        if len(state.devices) != expected:
            self.wrong(f"{len(state.devices)} devices of {expected} are known")
        for name in self.met - self.ended.keys() - set(self.leased.values()):
            self.wrong(f"lease {name} was reported and has no end")
        self.met.intersection_update(self.leased.values())
        for device in state.devices.values():
            if device.free is not grantable(device):
                self.wrong(f"{device.name}: in the index of free devices: {device.free}")
            for lease in (device.lease, device.releasing):
                if lease is not None and state.leases.get(lease.id) is not lease:
                    self.wrong(f"{device.name}: has lease {lease.id}, which is not known")
        for lease in state.leases.values():
            if lease.reason is None and lease.ends_at < min(self.now, lease.expires) - 1.0:
                self.wrong(f"lease {lease.id} is held for longer than allowed")
            if lease not in (lease.device.lease, lease.device.releasing):
                self.wrong(f"lease {lease.id} is on no device")
        for tenant in state.tenants.values():
            mine = (lease for lease in state.leases.values() if lease.reason is None)
            live = sum(1 for lease in mine if lease.request.tenant is tenant)
            if tenant.live != live:
                self.wrong(f"tenant {tenant.name} holds {live}, counted as {tenant.live}")

    # --- clients and devices ---

    def granted(self, effect: TellGranted) -> None:
        """A client hears of a grant."""
        for given in effect.given:
            before = self.told.setdefault((given.device, given.epoch), given.lease)
            if before != given.lease:
                self.wrong(f"{given.device}: epoch {given.epoch} is {before} and {given.lease}")

    def opened(self, device: str, lease: str, epoch: int) -> None:
        """A device accepted a session."""
        self.checks += 1
        self.opens += 1
        if device in self.live:
            self.wrong(f"{device}: {lease} opened while {self.live[device][0]} is live")
        last = self.accepted.get(device, 0)
        if epoch < last or (epoch == last and self.told.get((device, epoch)) != lease):
            self.wrong(f"{device}: accepted epoch {epoch} after {last}")
        self.accepted[device] = max(epoch, last)
        self.live[device] = (lease, epoch)

    def closed(self, device: str) -> None:
        """A session on a device ended."""
        self.live.pop(device, None)

    def healed(self, state: BookState) -> None:
        """All faults ended long ago and no request waits: the fleet must be as at the start."""
        self.checks += 1
        for device in state.devices.values():
            if not grantable(device):
                self.wrong(f"{device.name} did not come back")
        for request in state.waiting:
            self.wrong(f"request {request.id} waits for ever")
        for lease in state.leases:
            self.wrong(f"lease {lease} lives on")

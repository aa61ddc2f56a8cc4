"""What a LeaseBook remembers: its records by name, timers, counters, and what is yet to be done."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field

from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.effects import Effect, Note, SaveDevice
from loopwright.fleet.book.events import DeviceRow
from loopwright.fleet.book.matching import Index
from loopwright.fleet.book.records import (
    NEVER,
    Boot,
    DeviceRecord,
    LeaseRecord,
    Match,
    RequestRecord,
    Tenant,
    Timed,
)
from loopwright.fleet.words import (
    EndReason,
    Refusal,
)

_TENANTS = 1024


@dataclass(slots=True, kw_only=True)
class Totals:
    """Counters since the start."""

    granted: int = 0
    renewed: int = 0
    yields: int = 0
    denied: int = 0
    ended: dict[EndReason, int] = field(default_factory=lambda: dict.fromkeys(EndReason, 0))
    refused: dict[Refusal, int] = field(default_factory=lambda: dict.fromkeys(Refusal, 0))


@dataclass(slots=True, kw_only=True)
class BookState:
    """All of a book. `freed` and `reopened` are looked at when an event is done."""

    config: BookConfig
    index: Index = field(default_factory=Index)
    now: float = 0.0
    read_only: str = ""  # why, if it is
    settling_until: float = -NEVER
    expected: set[str] = field(default_factory=set)  # devices of before that did not come back yet
    absent: set[str] = field(default_factory=set)  # agents of before that did not connect yet
    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    forgotten: dict[str, DeviceRow] = field(default_factory=dict)  # their epochs must not go back
    boots: dict[tuple[str, str], Boot] = field(default_factory=dict)
    agents: dict[str, Boot] = field(default_factory=dict)  # the newest of each
    history: dict[str, list[Boot]] = field(default_factory=dict)  # of each, oldest first
    leases: dict[str, LeaseRecord] = field(default_factory=dict)  # living and releasing
    requests: dict[str, RequestRecord] = field(
        default_factory=dict
    )  # waiting or with living leases
    waiting: dict[RequestRecord, None] = field(default_factory=dict)
    by_client: dict[str, dict[RequestRecord, None]] = field(default_factory=dict)  # its holder's
    tenants: dict[str, Tenant] = field(default_factory=dict)
    tenant_of: dict[int, Tenant] = field(default_factory=dict)
    tenants_limit: int = _TENANTS  # with so many, those who have nothing are forgotten
    ended: OrderedDict[str, tuple[EndReason, str]] = field(default_factory=OrderedDict)
    over: OrderedDict[str, tuple[str, str]] = field(default_factory=OrderedDict)
    """Of requests that are over: the tenant, and what came of it."""
    totals: Totals = field(default_factory=Totals)
    vtime: float = 0.0
    counter: int = 0
    freed: dict[DeviceRecord, None] = field(default_factory=dict)
    reopened: dict[Match, None] = field(default_factory=dict)
    shrunk: dict[Match, None] = field(default_factory=dict)
    gangs: list[tuple[int, RequestRecord]] = field(
        default_factory=list
    )  # overdue ones, oldest first
    held_for: RequestRecord | None = None  # the gang that devices are held for
    out: list[Effect] = field(default_factory=list)
    orders: dict[Boot, dict[DeviceRecord, None]] = field(default_factory=dict)
    timers: list[tuple[float, int, Timed]] = field(default_factory=list)
    stale: int = 0

    def number(self) -> int:
        """A number that was not used before."""
        self.counter += 1
        return self.counter

    def arm(self, timed: Timed, due: float) -> None:
        """Make sure that `timed` is looked at when `due` is reached, or before."""
        if due < timed.timer:
            if timed.timer != NEVER:
                self.stale += 1
            timed.timer = due
            self.counter += 1
            heapq.heappush(self.timers, (due, self.counter, timed))

    def disarm(self, timed: Timed) -> None:
        """Cancel the timer of `timed`."""
        if timed.timer == NEVER:
            return
        timed.timer = NEVER
        self.stale += 1
        if self.stale > 1024 and self.stale * 2 > len(self.timers):
            self.timers = [entry for entry in self.timers if entry[2].timer == entry[0]]
            heapq.heapify(self.timers)
            self.stale = 0

    def next_due(self) -> float:
        """When the first timer is due; those that no longer count are dropped."""
        timers = self.timers
        while timers and timers[0][2].timer != timers[0][0]:
            heapq.heappop(timers)
            self.stale -= 1
        return timers[0][0] if timers else NEVER

    def tell(self, device: DeviceRecord) -> None:
        """Have the device's agent told what is wanted of it when this event is done."""
        boot = device.boot
        if boot is not None:
            self.orders.setdefault(boot, {})[device] = None

    def note(self, what: str, subject: str, detail: str = "") -> None:
        """Write to the event log."""
        self.out.append(Note(what, subject, detail))

    def remember(self, lease: str, reason: EndReason, detail: str) -> None:
        """A lease ended: those who ask for it later are told why."""
        self.ended[lease] = (reason, detail)
        if len(self.ended) > self.config.remembered:
            self.ended.popitem(last=False)

    def device(self, name: str) -> DeviceRecord:
        """The device of this name, made when it is new; one that was forgotten goes on."""
        device = self.devices.get(name)
        if device is None:
            device = DeviceRecord(name=name, lost_at=self.now)
            self.devices[name] = device
            kept = self.forgotten.pop(name, None)
            if kept is not None:
                device.top = device.reserved = device.asked = kept.epochs
                device.admin, device.why = kept.admin, kept.why
                back = DeviceRow(name, kept.epochs, kept.admin, kept.why)
                self.out.append(SaveDevice(back))
        return device

    def tenant(self, name: str) -> Tenant:
        """The tenant of this name, made at its first use."""
        tenant = self.tenants.get(name)
        if tenant is None:
            if len(self.tenants) >= self.tenants_limit:
                self._forget_tenants()
            kind = self.config.of_tenant(name)
            tenant = Tenant(
                name=name,
                weight=kind.weight,
                max_live=kind.max_live,
                max_queued=kind.max_queued,
                lowest=self.config.lowest(name),
                number=self.number(),
                passed=self.vtime,
            )
            self.tenants[name] = tenant
            self.tenant_of[tenant.number] = tenant
        return tenant

    def _forget_tenants(self) -> None:
        """Drop tenants that have nothing, want nothing and owe next to nothing."""
        for name, tenant in list(self.tenants.items()):
            if not tenant.live and not tenant.queued and tenant.passed <= self.vtime + 2.0:
                del self.tenants[name], self.tenant_of[tenant.number]
        self.tenants_limit = max(_TENANTS, 2 * len(self.tenants))

    @property
    def settling(self) -> bool:
        """Whether devices known before a restart may still come back."""
        return self.now < self.settling_until

    @property
    def settling_s(self) -> float:
        """For how long, in seconds, they may still; 0 when they are here or given up."""
        return max(0.0, self.settling_until - self.now)

    def returned(self) -> None:
        """A known agent may be back with its devices: see whether all are."""
        if self.settling and not self.expected and not self.absent:
            self.settled()

    def settled(self) -> None:
        """Devices from before a restart are there, or gone: see which requests can be met."""
        self.expected.clear()
        self.absent.clear()
        self.settling_until = -NEVER
        for match in self.index.matches.values():
            if match.waiting:
                self.shrunk[match] = None

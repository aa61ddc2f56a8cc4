"""A LeaseBook's rules again, small and slow: every question is answered by looking at everything.

`Model` is told what the book was told and checks what the book said. It holds no index, no timer
and no queue. It leaves out what has tests of its own: order between tenants, gangs that devices
are held for, preemption, devices there twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loopwright.fleet.book.config import BookConfig, LeaseLimits, TenantConfig
from loopwright.fleet.selector import parse
from loopwright.fleet.words import (
    Admin,
    EndReason,
    Health,
    LinkState,
    Occupancy,
    Priority,
    Refusal,
    Role,
)

NEVER = float("inf")
CONFIG = BookConfig(
    epoch_block=4,
    max_queued=6,
    overdue_s=1e6,  # nothing is held for gangs
    age_s=20.0,
    yield_s=1e6,  # nobody is made to yield
    tenants={
        "poor": TenantConfig(max_live=1, max_queued=2),
        "brief": TenantConfig(limits=LeaseLimits(max_class=Priority.BATCH, max_lease_s=25.0)),
    },
    roles={Role.USER: LeaseLimits(max_class=Priority.INTERACTIVE, max_ttl_s=15, max_lease_s=50.0)},
)


@dataclass
class ModelDevice:
    name: str
    agent: str
    labels: dict[str, str]
    known: bool = False  # registered at this tracker
    synced: bool = False
    health: Health = Health.UNKNOWN  # as reported
    admin: Admin = Admin.ENABLED
    busy: bool = False  # reported busy, without a lease
    awaited: float = NEVER  # since when its session is expected to end
    open: int = 0  # epoch of the session that it reported last
    told_at: float = -NEVER
    top: int = 0
    reserved: int = 0
    # what is true of the device itself
    session: int = 0
    last: int = 0
    cleaning: bool = False
    well: Health = Health.GOOD


@dataclass
class ModelAgent:
    name: str
    incarnation: int = 0
    registered: bool = False
    heard: float = -NEVER
    down: float = NEVER
    seq: int = 0

    def link(self, now: float, config: BookConfig) -> LinkState:
        if not self.registered:
            return LinkState.LOST
        if now >= min(self.heard + config.lost_s, self.down + config.reconnect_s):
            return LinkState.LOST
        silent = now >= self.heard + config.suspect_s or self.down != NEVER
        return LinkState.SUSPECT if silent else LinkState.UP


@dataclass
class ModelLease:
    id: str
    request: str
    device: str
    epoch: int
    tenant: str
    client: str
    granted: float
    expires: float
    ttl: float
    ends: float = NEVER  # even if it is renewed
    opened: bool = False
    away: float = NEVER  # since when the connection of its holder is gone
    gone: float = NEVER  # since when its session is gone too


@dataclass
class ModelRequest:
    id: str
    client: str
    tenant: str
    selector: str
    count: int
    ttl: float
    priority: int
    since: float
    give_up: float
    seq: int
    role: Role = Role.ADMIN


@dataclass
class Model:
    config: BookConfig
    now: float = 0.0
    devices: dict[str, ModelDevice] = field(default_factory=dict)
    agents: dict[str, ModelAgent] = field(default_factory=dict)
    leases: dict[str, ModelLease] = field(default_factory=dict)
    waiting: dict[str, ModelRequest] = field(default_factory=dict)
    read_only: bool = False
    asked: int = 0
    settles_at: float = -NEVER
    missed: set[str] = field(default_factory=set)  # devices and agents of before, not back yet

    def restored(self) -> None:
        """It begins on a store that knows all devices and agents."""
        self.missed = {*self.devices, *self.agents}
        self.settles_at = self.now + self.config.settle_s

    @property
    def settling(self) -> bool:
        """Whether any of before may still come back."""
        return self.now < self.settles_at and bool(self.missed)

    def hopeless(self) -> set[str]:
        """The requests that wait for what will not come; they wait no longer."""
        gone = {request.id for request in self.waiting.values() if not self.possible(request)}
        for request in gone:
            del self.waiting[request]
        return gone

    def link(self, device: ModelDevice) -> LinkState:
        return self.agents[device.agent].link(self.now, self.config)

    def lease_on(self, device: ModelDevice) -> ModelLease | None:
        return next((one for one in self.leases.values() if one.device == device.name), None)

    def grantable(self, device: ModelDevice) -> bool:
        return (
            self.link(device) is LinkState.UP
            and device.known
            and device.synced
            and device.health is Health.GOOD
            and device.admin is Admin.ENABLED
            and self.lease_on(device) is None
            and not device.busy
            and device.awaited == NEVER
            and device.top < device.reserved
            and not self.read_only
        )

    def held_by(self, tenant: str) -> int:
        return sum(1 for lease in self.leases.values() if lease.tenant == tenant)

    def fitting(self, request: ModelRequest) -> list[ModelDevice]:
        selector = parse(request.selector)
        return [device for device in self.devices.values() if selector.matches(device.labels)]

    def possible(self, request: ModelRequest) -> bool:
        if self.settling:
            return True
        there = [d for d in self.fitting(request) if d.known and d.admin is not Admin.RETIRED]
        return len(there) >= request.count

    def servable(self, request: ModelRequest) -> bool:
        free = [device for device in self.fitting(request) if self.grantable(device)]
        limit = self.config.of_tenant(request.tenant).max_live
        return len(free) >= request.count and self.held_by(request.tenant) + request.count <= limit

    def allowed(self, request: ModelRequest) -> bool:
        """Whether its role and its tenant may ask for that."""
        user, brief = request.role is Role.USER, request.tenant == "brief"
        highest = 0 if brief else 2 if user else 3
        return request.priority <= highest and not (user and request.ttl > 15.0)

    def lease_time(self, request: ModelRequest) -> float:
        """How long its leases may be held."""
        of_role = 50.0 if request.role is Role.USER else NEVER
        return min(of_role, 25.0 if request.tenant == "brief" else NEVER)

    def rank(self, request: ModelRequest) -> int:
        waited = self.now - request.since
        if waited >= self.config.overdue_s:
            return 4
        return min(3, request.priority + int(waited / self.config.age_s))

    # --- time ---

    def moments(self) -> list[float]:
        """When something may happen by time alone."""
        config, times = self.config, []
        for lease in self.leases.values():
            times.append(lease.expires)
            if not lease.opened:
                times.append(lease.granted + config.open_s)
            times.append(lease.gone + config.holder_s)
        times += [request.give_up for request in self.waiting.values()]
        for agent in self.agents.values():
            if agent.registered:
                times += [agent.heard + config.suspect_s, agent.heard + config.lost_s]
                times.append(agent.down + config.reconnect_s)
        times += [device.awaited + config.grace_s for device in self.devices.values()]
        times.append(self.settles_at)
        return [time for time in times if self.now < time < NEVER]

    def pass_time(self) -> tuple[set[tuple[str, EndReason]], set[tuple[str, Refusal]]]:
        """What ends now by time alone: leases with their reasons, requests."""
        config, ended = self.config, set()
        for lease in list(self.leases.values()):
            device = self.devices[lease.device]
            reason = None
            if self.now >= lease.expires:
                reason = EndReason.EXPIRED
            elif self.link(device) is LinkState.LOST:
                reason = EndReason.DEVICE_LOST
            elif not lease.opened and self.now >= lease.granted + config.open_s:
                heard = self.agents[device.agent].heard
                if heard + 1.5 * config.sync_s >= self.now:
                    reason = EndReason.OPEN_TIMEOUT
            if reason is None and self.lost(lease):
                reason = EndReason.CLIENT_LOST
            if reason is not None:
                ended.add((lease.id, reason))
                self.end(lease)
        for device in self.devices.values():
            if self.link(device) is LinkState.LOST:
                device.synced = False
                device.awaited = NEVER
            elif self.now >= device.awaited + config.grace_s:
                device.awaited = NEVER
                device.busy = False
        gone = {
            (request.id, Refusal.MAX_WAIT)
            for request in self.waiting.values()
            if self.now >= request.give_up
        }
        for request, _ in gone:
            del self.waiting[request]
        if self.missed and self.now >= self.settles_at:
            self.missed.clear()
            gone |= {(request, Refusal.UNSATISFIABLE) for request in self.hopeless()}
        return ended, gone

    def lost(self, lease: ModelLease) -> bool:
        """Neither its holder nor its session are there, for a while, as its device has said."""
        over = self.now >= lease.gone + self.config.holder_s
        return over and self.devices[lease.device].told_at >= lease.gone

    # --- what happens ---

    def look(self, lease: ModelLease) -> None:
        """See since when neither its holder nor its session are there."""
        device = self.devices[lease.device]
        if lease.away == NEVER or not device.synced or device.open == lease.epoch:
            lease.gone = NEVER
        elif lease.gone == NEVER:
            lease.gone = self.now

    def back(self, lease: ModelLease) -> None:
        """The holder of a lease says something about it."""
        for other in self.leases.values():
            if other.request == lease.request:
                other.away = other.gone = NEVER

    def end(self, lease: ModelLease) -> None:
        device = self.devices[lease.device]
        del self.leases[lease.id]
        if lease.opened and self.link(device) is not LinkState.LOST:
            device.awaited = self.now

    def lose_agent(self, agent: ModelAgent) -> set[tuple[str, EndReason]]:
        """Its process is another: all that the older had is over."""
        ended = set()
        for device in self.devices.values():
            if device.agent != agent.name:
                continue
            lease = self.lease_on(device)
            if lease is not None:
                ended.add((lease.id, EndReason.DEVICE_LOST))
                del self.leases[lease.id]
            device.synced = device.busy = False
            device.awaited = NEVER
            device.health = Health.UNKNOWN
            device.session = device.last = 0
            device.cleaning = False
        return ended

    def told(self, device: ModelDevice, occupancy: Occupancy) -> set[tuple[str, EndReason]]:
        """A report of the device came; what ends by it."""
        device.synced = True
        device.health = device.well
        lease = self.lease_on(device)
        at_work = occupancy is not Occupancy.IDLE
        ended: set[tuple[str, EndReason]] = set()
        device.open, device.told_at = device.session, self.now
        if lease is not None:
            device.busy = False
            if lease.epoch in (device.session, device.last):
                lease.opened = True
            self.look(lease)
            if not self.lost(lease):
                return set()
            self.end(lease)
            ended = {(lease.id, EndReason.CLIENT_LOST)}
        if at_work:
            device.busy = True
            if device.awaited != NEVER:
                device.awaited = NEVER  # it is heard of: no grace, it must say that it is clean
        else:
            device.busy = False
            device.awaited = NEVER
        return ended

"""The mutable records of a LeaseBook: agents' processes, devices, leases, requests and tenants.

Only the modules of this package touch these; others see the frozen views of `views`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from loopwright.fleet.book.config import LeaseLimits
from loopwright.fleet.book.effects import DesiredState
from loopwright.fleet.book.events import DeviceSpec, LeaseRow
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.selector import Selector
from loopwright.fleet.words import Admin, EndReason, Health, LeaseState, LinkState, Occupancy, Role

NEVER = math.inf


@dataclass(slots=True, eq=False, kw_only=True)
class Boot:
    """One incarnation of an agent: the process that owns devices until a newer one claims them."""

    agent: str
    incarnation: str
    link: LinkState = LinkState.UP
    connected: bool = True
    heard: float = 0.0
    down_at: float = NEVER  # when its connection closed
    seq: int = -1
    period: float = 0.0  # how often it was told to report
    specs: dict[str, DeviceSpec] = field(default_factory=dict)
    devices: dict[str, DeviceRecord] = field(default_factory=dict)  # those it owns
    timer: float = NEVER


@dataclass(slots=True, eq=False, kw_only=True)
class DeviceRecord:
    """A device, whether it is there or not.

    `top` is the highest epoch given out or reported, `reserved` how far epochs are durable,
    `asked` how far the store was asked to make them durable.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    matches: dict[Match, None] = field(default_factory=dict)  # selectors in use that mean it
    boot: Boot | None = None
    registered: bool = False
    synced: bool = False
    health: Health = Health.UNKNOWN
    drift: float = 0.0
    detail: str = ""
    admin: Admin = Admin.ENABLED
    why: str = ""
    busy: bool = False  # reported a session or cleaning that no lease accounts for
    stuck: bool = False  # did not get clean in time
    session: int = 0  # epoch of the session it reported last
    open: int = 0  # the same while that is open, not only being cleaned up after
    told_at: float = -NEVER  # when it reported last
    lease: LeaseRecord | None = None
    releasing: LeaseRecord | None = None
    over: str = ""  # the lease that ended on it last
    ending_since: float = NEVER  # when the session began to end
    told_since: bool = False  # it reported after that
    top: int = 0
    reserved: int = 0
    asked: int = 0
    free: bool = False  # in the index of devices to grant
    probe: bool = False
    probe_until: float = NEVER
    probe_at: float = NEVER
    claims: deque[float] = field(default_factory=deque)  # when it was taken from a live agent
    flapping: bool = False  # two agents have it, and it goes to and fro
    lost_at: float = NEVER
    calm: DesiredState | None = None  # the order while nothing is wanted of it, made once
    timer: float = NEVER


@dataclass(slots=True, eq=False, kw_only=True)
class LeaseRecord:
    """A lease of one device, from the grant on."""

    id: str
    request: RequestRecord
    device: DeviceRecord
    boot: Boot
    epoch: int
    granted_at: float
    expires: float
    open_by: float
    ends_at: float  # even if it is renewed
    state: LeaseState = LeaseState.GRANTED
    reason: EndReason | None = None
    charged_at: float = 0.0
    yield_by: float = NEVER
    yield_for: RequestRecord | None = None
    gone_since: float = NEVER  # when it had neither its holder nor a session any more
    timer: float = NEVER


@dataclass(slots=True, eq=False, kw_only=True)
class RequestRecord:
    """A request for devices: it waits in `line`, or has `leases`, or is over.

    `client` is the connection of its holder, `token` what that came with.
    """

    id: str
    client: str
    tenant: Tenant
    asked: LeaseRequest
    match: Match | None
    token: str = ""
    role: Role = Role.ADMIN
    away_since: float = NEVER  # when the connection of its holder was gone
    away_until: float = -NEVER  # so long at least it may take to come back
    seq: int = 0
    since: float = 0.0
    give_up: float = NEVER
    line: QueueLine | None = None
    leases: list[LeaseRecord] = field(default_factory=list)
    owed: bool = False  # its client is not told of the leases before their agents are back
    yielding: list[LeaseRecord] = field(default_factory=list)  # leases asked to yield to it
    timer: float = NEVER


@dataclass(slots=True, eq=False, kw_only=True)
class Tenant:
    """A tenant. `passed` is its virtual time: use divided by weight."""

    name: str
    weight: float
    max_live: int
    max_queued: int
    lowest: tuple[LeaseLimits, ...]  # what may be asked for, by role
    number: int
    live: int = 0
    queued: int = 0
    passed: float = 0.0
    parked: dict[QueueLine, None] = field(
        default_factory=dict
    )  # lines that its quota keeps it out of


@dataclass(slots=True, eq=False, kw_only=True)
class QueueLine:
    """Requests that wait for `count` devices of one selector in one class, by tenant.

    `heap` has (key, tenant's number) of each tenant in `queues` that is not parked; keys only
    grow, so one that is out of date is corrected when it comes to the top.
    """

    match: Match
    rank: int
    count: int
    queues: dict[int, list[tuple[int, RequestRecord]]] = field(default_factory=dict)
    heap: list[tuple[float, int]] = field(default_factory=list)
    listed: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False, kw_only=True)
class Match:
    """A selector in use."""

    selector: Selector
    devices: dict[DeviceRecord, None] = field(default_factory=dict)
    free: dict[DeviceRecord, None] = field(default_factory=dict)
    lines: dict[tuple[int, int], QueueLine] = field(default_factory=dict)  # (rank, count)
    waiting: dict[RequestRecord, None] = field(default_factory=dict)
    pressing: dict[int, dict[RequestRecord, None]] = field(default_factory=dict)  # by priority


Timed: TypeAlias = Boot | DeviceRecord | LeaseRecord | RequestRecord


def link_of(device: DeviceRecord) -> LinkState:
    """Whether the book hears of a device."""
    return LinkState.LOST if device.boot is None else device.boot.link


def health_of(device: DeviceRecord) -> Health:
    """How well a device is: what it says, unless it did not get clean in time."""
    return Health.BAD if device.stuck else device.health


def occupancy_of(device: DeviceRecord) -> Occupancy:
    """What a device is doing, as far as grants go."""
    if device.lease is not None:
        opened = device.lease.state is LeaseState.ACTIVE
        return Occupancy.ACTIVE if opened else Occupancy.RESERVED
    if device.busy or device.releasing is not None:
        return Occupancy.CLEANING
    return Occupancy.IDLE


def row_of(lease: LeaseRecord) -> LeaseRow:
    """A lease as the store keeps it."""
    request, boot = lease.request, lease.boot
    return LeaseRow(
        lease=lease.id,
        request=request.id,
        device=lease.device.name,
        agent=boot.agent,
        incarnation=boot.incarnation,
        epoch=lease.epoch,
        client=request.client,
        tenant=request.tenant.name,
        selector=request.asked.selector,
        ttl_s=request.asked.ttl_s,
        priority=request.asked.priority,
        tags=request.asked.tags,
        token=request.token,
        role=request.role,
    )

"""What others see of a LeaseBook: frozen copies, made when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from loopwright.fleet.book import queue
from loopwright.fleet.book.explain import kept_because
from loopwright.fleet.book.records import (
    DeviceRecord,
    LeaseRecord,
    RequestRecord,
    health_of,
    link_of,
    occupancy_of,
)
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import (
    Admin,
    EndReason,
    Health,
    LeaseState,
    LinkState,
    Occupancy,
    Refusal,
)


class DeviceView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A device. `epoch` is the highest given out or reported, `held_for` a gang that waits."""

    name: str
    labels: Mapping[str, str]
    modules: Mapping[str, str]
    agent: str
    incarnation: str
    link: LinkState
    health: Health
    admin: Admin
    occupancy: Occupancy
    synced: bool
    grantable: bool
    lease: str
    epoch: int
    reserved: int
    drift: float
    detail: str
    why: str  # the operator's reason
    kept: str  # what keeps it from being granted, empty when leased or free
    flapping: bool
    held_for: str


class LeaseView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A lease that lives, or whose device is not clean yet. Times are those of `now`."""

    id: str
    request: str
    device: str
    agent: str
    incarnation: str
    epoch: int
    client: str
    tenant: str
    selector: str
    priority: int
    tags: Mapping[str, str]
    state: LeaseState
    reason: EndReason | None
    granted_at: float
    expires: float
    ttl_s: float


class RequestView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A request that waits."""

    id: str
    client: str
    tenant: str
    selector: str
    count: int
    priority: int
    rank: int  # the class it has by now; above URGENT: overdue
    since: float
    give_up: float
    tags: Mapping[str, str]
    over_quota: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """What a tenant holds and waits for, and what it may."""

    name: str
    leases: int
    max_leases: int
    queued: int
    max_queued: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many there are, and how many there were since the start."""

    devices: int
    free: int
    by_link: Mapping[LinkState, int]
    by_health: Mapping[Health, int]
    by_admin: Mapping[Admin, int]
    by_occupancy: Mapping[Occupancy, int]
    leases: int
    waiting: int
    agents: int
    granted: int
    renewed: int
    yields: int
    denied: int
    ended: Mapping[EndReason, int]
    refused: Mapping[Refusal, int]


def device_view(state: BookState, device: DeviceRecord) -> DeviceView:
    """A copy of a device."""
    boot, lease, gang = device.boot, device.lease, state.held_for
    held = gang is not None and device.free and gang.match in device.matches
    return DeviceView(
        name=device.name,
        labels=dict(device.labels),
        modules=dict(device.modules),
        agent=boot.agent if boot is not None else "",
        incarnation=boot.incarnation if boot is not None else "",
        link=link_of(device),
        health=health_of(device),
        admin=device.admin,
        occupancy=occupancy_of(device),
        synced=device.synced,
        grantable=device.free and not state.read_only,
        lease=lease.id if lease is not None else "",
        epoch=device.top,
        reserved=device.reserved,
        drift=device.drift,
        detail=device.detail,
        why=device.why,
        kept=_kept(state, device),
        flapping=device.flapping,
        held_for=gang.id if held and gang is not None else "",
    )


def _kept(state: BookState, device: DeviceRecord) -> str:
    if device.free or device.lease is not None:
        return ""
    kind, why = kept_because(state, device)
    return f"{kind}: {why}" if why else kind


def lease_view(lease: LeaseRecord) -> LeaseView:
    """A copy of a lease."""
    request = lease.request
    return LeaseView(
        id=lease.id,
        request=request.id,
        device=lease.device.name,
        agent=lease.boot.agent,
        incarnation=lease.boot.incarnation,
        epoch=lease.epoch,
        client=lease.client,
        tenant=request.tenant.name,
        selector=request.asked.selector,
        priority=request.asked.priority,
        tags=dict(request.asked.tags),
        state=lease.state,
        reason=lease.reason,
        granted_at=lease.granted_at,
        expires=lease.expires,
        ttl_s=request.asked.ttl_s,
    )


def request_view(request: RequestRecord) -> RequestView:
    """A copy of a request that waits."""
    return RequestView(
        id=request.id,
        client=request.client,
        tenant=request.tenant.name,
        selector=request.asked.selector,
        count=request.asked.count,
        priority=request.asked.priority,
        rank=request.line.rank if request.line is not None else request.asked.priority,
        since=request.since,
        give_up=request.give_up,
        tags=dict(request.asked.tags),
        over_quota=queue.blocked(request.tenant, request.asked.count),
    )


def tenant_views(state: BookState, most: int) -> tuple[TenantView, ...]:
    """Tenants that hold or want something, and those with a quota of their own: at most `most`."""
    here = {name for name, tenant in state.tenants.items() if tenant.live or tenant.queued}
    views: list[TenantView] = []
    for name in here | set(state.config.tenants):
        known, may = state.tenants.get(name), state.config.of_tenant(name)
        live, queued = (0, 0) if known is None else (known.live, known.queued)
        views.append(
            TenantView(
                name=name,
                leases=live,
                max_leases=may.max_live,
                queued=queued,
                max_queued=may.max_queued,
                weight=may.weight,
            )
        )
    views.sort(key=lambda view: (-view.leases - view.queued, view.name))
    return tuple(sorted(views[:most], key=lambda view: view.name))


def counts(state: BookState) -> Counts:
    """All the counts; takes time in proportion to the devices."""
    devices = state.devices.values()
    totals = state.totals
    return Counts(
        devices=len(devices),
        free=state.index.free,
        by_link=Counter(map(link_of, devices)),
        by_health=Counter(map(health_of, devices)),
        by_admin=Counter(device.admin for device in devices),
        by_occupancy=Counter(map(occupancy_of, devices)),
        leases=len(state.leases),
        waiting=len(state.waiting),
        agents=sum(1 for boot in state.agents.values() if boot.connected),
        granted=totals.granted,
        renewed=totals.renewed,
        yields=totals.yields,
        denied=totals.denied,
        ended=dict(totals.ended),
        refused=dict(totals.refused),
    )

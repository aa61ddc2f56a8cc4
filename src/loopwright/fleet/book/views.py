"""What others see of a LeaseBook: frozen copies, made when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from loopwright.fleet.book import queue
from loopwright.fleet.book.explain import kept_because
from loopwright.fleet.book.state import (
    BookState,
    DeviceRecord,
    LeaseRecord,
    RequestRecord,
    health_of,
    link_of,
    occupancy_of,
)
from loopwright.fleet.words import (
    Admin,
    EndReason,
    Health,
    LeaseState,
    LinkState,
    Occupancy,
    Refusal,
)


class DeviceView(msgspec.Struct, frozen=True, gc=False):
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


class LeaseView(msgspec.Struct, frozen=True, gc=False):
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


class RequestView(msgspec.Struct, frozen=True, gc=False):
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


@dataclass(frozen=True, slots=True)
class TenantView:
    """What a tenant holds and waits for, and what it may."""

    name: str
    leases: int
    max_leases: int
    queued: int
    max_queued: int
    weight: float


@dataclass(frozen=True, slots=True)
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
    boot, lease, hoarder = device.boot, device.lease, state.held_for
    held = hoarder is not None and device.free and hoarder.match in device.matches
    return DeviceView(
        device.name,
        dict(device.labels),
        dict(device.modules),
        boot.agent if boot is not None else "",
        boot.incarnation if boot is not None else "",
        link_of(device),
        health_of(device),
        device.admin,
        occupancy_of(device),
        device.synced,
        device.free and not state.read_only,
        lease.id if lease is not None else "",
        device.top,
        device.reserved,
        device.drift,
        device.detail,
        device.why,
        _kept(state, device),
        device.flapping,
        hoarder.id if held and hoarder is not None else "",
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
        lease.id,
        request.id,
        lease.device.name,
        lease.boot.agent,
        lease.boot.incarnation,
        lease.epoch,
        lease.client,
        request.tenant.name,
        request.selector,
        request.priority,
        dict(request.tags),
        lease.state,
        lease.reason,
        lease.granted_at,
        lease.expires,
        request.ttl_s,
    )


def request_view(request: RequestRecord) -> RequestView:
    """A copy of a request that waits."""
    return RequestView(
        request.id,
        request.client,
        request.tenant.name,
        request.selector,
        request.count,
        request.priority,
        request.line.rank if request.line is not None else request.priority,
        request.since,
        request.give_up,
        dict(request.tags),
        queue.blocked(request.tenant, request.count),
    )


def tenant_views(state: BookState, most: int) -> tuple[TenantView, ...]:
    """Tenants that hold or want something, and those with a quota of their own: at most `most`."""
    here = {name for name, tenant in state.tenants.items() if tenant.live or tenant.queued}
    views: list[TenantView] = []
    for name in here | set(state.config.tenants):
        known, may = state.tenants.get(name), state.config.of_tenant(name)
        live, queued = (0, 0) if known is None else (known.live, known.queued)
        views.append(TenantView(name, live, may.max_live, queued, may.max_queued, may.weight))
    views.sort(key=lambda view: (-view.leases - view.queued, view.name))
    return tuple(sorted(views[:most], key=lambda view: view.name))


def counts(state: BookState) -> Counts:
    """All the counts; takes time in proportion to the devices."""
    devices = state.devices.values()
    totals = state.totals
    return Counts(
        len(devices),
        state.index.free,
        Counter(map(link_of, devices)),
        Counter(map(health_of, devices)),
        Counter(device.admin for device in devices),
        Counter(map(occupancy_of, devices)),
        len(state.leases),
        len(state.waiting),
        sum(1 for boot in state.agents.values() if boot.connected),
        totals.granted,
        totals.renewed,
        totals.yields,
        totals.denied,
        dict(totals.ended),
        dict(totals.refused),
    )

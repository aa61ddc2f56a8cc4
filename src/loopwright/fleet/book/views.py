"""What others see of a LeaseBook: frozen copies, made when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from loopwright.fleet.book import queue
from loopwright.fleet.book.config import LeaseLimits
from loopwright.fleet.book.explain import kept_because
from loopwright.fleet.book.records import (
    NEVER,
    DeviceRecord,
    LeaseRecord,
    RequestRecord,
    health_of,
    link_of,
    occupancy_of,
)
from loopwright.fleet.book.state import BookState
from loopwright.fleet.views import DeviceView, LeaseView
from loopwright.fleet.words import (
    Admin,
    EndReason,
    Health,
    LeaseState,
    LinkState,
    Occupancy,
    Refusal,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """What a tenant holds and waits for, and what it may."""

    name: str
    leases: int
    max_leases: int
    queued: int
    max_queued: int
    weight: float
    limits: LeaseLimits


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
    """A copy of a device; what its agent alone knows is left out."""
    boot, lease = device.boot, device.lease
    return DeviceView(
        name=device.name,
        labels=dict(device.labels),
        link=link_of(device),
        health=health_of(device),
        admin=device.admin,
        occupancy=occupancy_of(device),
        grantable=device.free and not state.read_only,
        kept=_kept(state, device),
        why=device.why,
        lease=lease.id if lease is not None else "",
        agent=boot.agent if boot is not None else "",
        incarnation=boot.incarnation if boot is not None else "",
        epoch=device.top,
        drift=device.drift,
        detail=device.detail,
        modules=dict(device.modules),
        flapping=device.flapping,
    )


def _kept(state: BookState, device: DeviceRecord) -> str:
    if device.free or device.lease is not None:
        return ""
    kind, why = kept_because(state, device)
    return f"{kind}: {why}" if why else kind


def lease_view(lease: LeaseRecord, now: float) -> LeaseView:
    """A copy of a lease."""
    request = lease.request
    return LeaseView(
        id=lease.id,
        state=lease.state,
        client=request.client,
        tenant=request.tenant.name,
        selector=request.asked.selector,
        priority=request.asked.priority,
        tags=dict(request.asked.tags),
        reason=lease.reason,
        request=request.id,
        device=lease.device.name,
        agent=lease.boot.agent,
        epoch=lease.epoch,
        age_s=now - lease.granted_at,
        ttl_s=request.asked.ttl_s,
        expires_s=lease.expires - now,
        away_s=max(0.0, now - request.away_since),
        ends_s=None if lease.ends_at == NEVER else lease.ends_at - now,
    )


def request_view(request: RequestRecord, now: float) -> LeaseView:
    """A copy of a request that waits."""
    return LeaseView(
        id=request.id,
        state=LeaseState.QUEUED,
        client=request.client,
        tenant=request.tenant.name,
        selector=request.asked.selector,
        priority=request.asked.priority,
        tags=dict(request.asked.tags),
        count=request.asked.count,
        waited_s=now - request.since,
        gives_up_s=request.give_up - now,
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
                limits=may.limits,
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

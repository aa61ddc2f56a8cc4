"""What a book makes of the store's rows after a start: the devices have the last word."""

from __future__ import annotations

from loopwright.fleet.book import holders, limits
from loopwright.fleet.book.agents import new_boot
from loopwright.fleet.book.effects import EndLease
from loopwright.fleet.book.events import LeaseRow, Restored
from loopwright.fleet.book.records import Boot, DeviceRecord, LeaseRecord, RequestRecord
from loopwright.fleet.book.state import BookState
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.words import Admin, EndReason, LinkState


def restored(state: BookState, event: Restored) -> None:
    """Remember epochs, leases and operators' settings; no device is granted before it reports.

    All epochs that were reserved count as used. Known devices may take `settle_s` to come
    back: until then no request is refused for want of devices. It ends early when each device that
    is known and each agent that may connect is there. Devices alone would not do: the store hears
    of one only when it is first seen, and may be a copy made before that, or have lost it.
    A store with neither is new: nobody is waited for.
    """
    for lease, reason in event.ended:
        state.remember(lease, reason, "before the tracker started")
    for kept in event.devices:
        if kept.forgotten:
            state.forgotten[kept.device] = kept
            continue
        device = _device(state, kept.device)
        device.admin, device.why = kept.admin, kept.why
        device.top = device.reserved = device.asked = max(device.top, kept.epochs)
        if kept.admin is not Admin.RETIRED:
            state.expected.add(kept.device)
    for row in sorted(event.leases, key=lambda row: -row.epoch):
        device = _device(state, row.device)
        device.top = max(device.top, row.epoch)
        device.reserved = device.asked = max(device.reserved, device.top)
        if device.lease is None and row.lease not in state.leases:
            _lease(state, row, device)
        else:
            detail, reason = f"{row.device} has a newer lease", EndReason.EXPIRED
            state.out.append(
                EndLease(
                    lease=row.lease,
                    device=row.device,
                    tenant=row.tenant,
                    epoch=row.epoch,
                    reason=reason,
                    detail=detail,
                )
            )
            state.totals.ended[reason] += 1
            state.remember(row.lease, reason, detail)
    state.absent.update(event.agents)
    if state.expected or state.absent:
        state.settling_until = state.now + state.config.settle_s


def _device(state: BookState, name: str) -> DeviceRecord:
    device = state.device(name)
    if not device.labels:
        device.labels = {"name": name}
        state.arm(device, state.now + state.config.forget_s)
    return device


def _boot(state: BookState, row: LeaseRow) -> Boot:
    """The process that had the lease: it has `lost_s` to be heard of."""
    boot = state.boots.get((row.agent, row.incarnation))
    if boot is None:
        boot = new_boot(state, row.agent, row.incarnation)
        boot.link, boot.connected = LinkState.SUSPECT, False
        boot.heard = state.now
        state.arm(boot, state.now + state.config.lost_s)
    return boot


def _lease(state: BookState, row: LeaseRow, device: DeviceRecord) -> None:
    boot, config, now = _boot(state, row), state.config, state.now
    if device.boot is None:
        device.boot = boot
        boot.devices[device.name] = device
    tenant = state.tenant(row.tenant)
    request = state.requests.get(row.request)
    if request is None:
        request = RequestRecord(
            id=row.request,
            client=row.client,
            tenant=tenant,
            asked=LeaseRequest(
                selector=row.selector, ttl_s=row.ttl_s, priority=row.priority, tags=row.tags
            ),
            match=None,
            token=row.token,
            role=row.role,
            seq=state.number(),
            since=now,
        )
        holders.take(state, request)
        holders.leave(state, request, config.settle_s)
    ends_at = now + limits.lease_time(request)
    lease = LeaseRecord(
        id=row.lease,
        request=request,
        device=device,
        boot=boot,
        epoch=row.epoch,
        granted_at=now,
        expires=min(now + row.ttl_s, ends_at),
        open_by=now + max(config.open_s, config.settle_s),
        ends_at=ends_at,
        charged_at=now,
    )
    device.lease = lease
    request.leases.append(lease)
    state.leases[lease.id] = lease
    tenant.live += 1
    state.arm(lease, min(lease.expires, lease.open_by))

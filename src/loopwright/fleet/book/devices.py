"""What devices report, and what operators want of them."""

from __future__ import annotations

from loopwright.fleet.book import holders
from loopwright.fleet.book.effects import SaveDevice
from loopwright.fleet.book.events import AdminSet, DeviceRow, ProbeAsked, ReportedState
from loopwright.fleet.book.leases import end, end_unknown
from loopwright.fleet.book.records import NEVER, DeviceRecord, LeaseRecord, link_of
from loopwright.fleet.book.standing import refresh, released, reserve
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import Admin, EndReason, Health, LeaseState, LinkState, Occupancy

_AT_WORK = (Occupancy.ACTIVE, Occupancy.CLEANING)


def report(state: BookState, device: DeviceRecord, told: ReportedState) -> None:
    """Take a device at its word."""
    top = max(told.epoch, told.last_epoch)
    if top > device.top:
        state.note("epoch-raised", device.name, f"from {device.top} to {top}, as it reports")
        device.top = top
        reserve(state, device)
    at_work = told.occupancy in _AT_WORK
    if told.lease:
        end_unknown(state, device, told.lease, told.epoch)
    _health(state, device, told)
    device.synced = True
    device.told_since = True
    device.told_at = state.now
    device.session = told.epoch if at_work else 0
    device.open = told.epoch if told.occupancy is Occupancy.ACTIVE else 0
    if device.lease is not None:
        device.busy = False
        _adopt(state, device, device.lease, told)
    if device.lease is None:
        _unleased(state, device, at_work=at_work)
    refresh(state, device)


def _adopt(state: BookState, device: DeviceRecord, lease: LeaseRecord, told: ReportedState) -> None:
    """What a report says about the lease that the book has for the device.

    Of a lease whose session is over nothing follows while its holder is there, not even when the
    tracker was away meanwhile: it may open another, or is about to say that it gives it back.
    """
    top = max(told.epoch, told.last_epoch)
    if top > lease.epoch:
        detail = f"{device.name} serves epoch {top}, newer than {lease.epoch}"
        end(state, lease, EndReason.DEVICE_LOST, detail)
        return
    if top == lease.epoch and lease.state is LeaseState.GRANTED:
        lease.state = LeaseState.ACTIVE
    if lease.request.away_since != NEVER:
        holders.look(state, lease)
        if holders.lost(state, lease):
            end(state, lease, EndReason.CLIENT_LOST, holders.LOST)


def _unleased(state: BookState, device: DeviceRecord, *, at_work: bool) -> None:
    """A report of a device without a lease: it is clean, or has still something to end."""
    if at_work:
        if not device.busy and device.releasing is None:
            device.ending_since = state.now
        device.busy = True
        state.arm(device, device.ending_since + cleaning_limit(state, device))
    else:
        device.busy = device.stuck = False
        device.ending_since = NEVER
        released(state, device)


def _health(state: BookState, device: DeviceRecord, told: ReportedState) -> None:
    """Note how well a device says it is, and when to probe it."""
    health, before = told.health, device.health
    device.drift = told.drift
    device.detail = told.detail
    device.health = health
    if health is Health.PROBING:
        device.probe = False
    if health is before and device.synced:
        return
    if health is not before:
        state.note("health", device.name, f"{before.value} to {health.value}: {told.detail}")
    config = state.config
    wait = {
        Health.UNKNOWN: 0.0,
        Health.DRIFT: config.drift_cool_s,
        Health.BAD: config.bad_probe_s,
    }.get(health, NEVER)
    device.probe_at = state.now + wait
    if wait == 0.0:
        device_due(state, device)
    elif wait != NEVER:
        state.arm(device, device.probe_at)


def cleaning_limit(state: BookState, device: DeviceRecord) -> float:
    """How long a device may take to become clean."""
    fpga = device.labels.get("kind") == "fpga"
    return state.config.cleaning_fpga_s if fpga else state.config.cleaning_s


def device_due(state: BookState, device: DeviceRecord) -> None:
    """A device's time has come: to be clean, to be probed, to flap no more, to be forgotten."""
    now, config = state.now, state.config
    due = NEVER
    if device.releasing is not None and not device.told_since:
        if now >= device.ending_since + config.grace_s:
            released(state, device)  # silent: safe, as the next epoch ends whatever still runs
            device.busy = False
            device.ending_since = NEVER
        else:
            due = min(due, device.ending_since + config.grace_s)
    if device.ending_since != NEVER and not device.stuck:
        limit = device.ending_since + cleaning_limit(state, device)
        if now < limit:
            due = min(due, limit)
        elif link_of(device) is LinkState.UP:
            device.stuck = True
            released(state, device)
            device.busy = True
            state.note("stuck", device.name, f"not clean after {now - device.ending_since:.0f} s")
        else:
            due = min(due, now + config.sync_s)
    due = min(due, _probe_due(state, device), calm_due(state, device))
    if device.boot is None or device.boot.link is LinkState.LOST:
        due = min(due, _forget_due(state, device))
    refresh(state, device)
    if due != NEVER and device.name in state.devices:
        state.arm(device, due)


def calm_due(state: BookState, device: DeviceRecord) -> float:
    """Count only the last times that a device was taken from a live agent.

    Returns: when the next of them is too long ago to count; without any it does not flap.
    """
    claims, window = device.claims, state.config.flap_window_s
    while claims and claims[0] + window <= state.now:
        claims.popleft()
    if not claims:
        device.flapping = False
        return NEVER
    return claims[0] + window


def _probe_due(state: BookState, device: DeviceRecord) -> float:
    """Order a probe where one is due; returns when to look again."""
    now = state.now
    if device.probe and now >= device.probe_until:
        device.probe = False
        device.probe_at = now + state.config.bad_probe_s
    if device.probe_at == NEVER:
        return device.probe_until if device.probe else NEVER
    if now < device.probe_at:
        return device.probe_at
    kept = device.admin in (Admin.ENABLED, Admin.DRAIN)
    if not kept or link_of(device) is not LinkState.UP or device.lease is not None or device.busy:
        device.probe_at = now + state.config.sync_s
        return device.probe_at
    return order_probe(state, device)


def order_probe(state: BookState, device: DeviceRecord) -> float:
    """Have a device probed; returns how long that is repeated."""
    device.probe = True
    device.probe_at = NEVER
    device.probe_until = state.now + state.config.probe_s
    state.tell(device)
    state.arm(device, device.probe_until)
    return device.probe_until


def _forget_due(state: BookState, device: DeviceRecord) -> float:
    """Forget a device that was lost long ago; returns when to look again."""
    if device.lost_at == NEVER or device.lease is not None:
        return NEVER
    at = device.lost_at + state.config.forget_s
    if state.now < at:
        return at
    for match in state.index.remove(device):
        if match.waiting:
            state.shrunk[match] = None
    if device.boot is not None:
        device.boot.devices.pop(device.name, None)
    del state.devices[device.name]
    epochs = max(device.asked, device.top)
    kept = DeviceRow(device.name, epochs, device.admin, device.why, forgotten=True)
    state.forgotten[device.name] = kept
    state.out.append(SaveDevice(kept))
    state.note("forgotten", device.name, f"not heard of for {state.config.forget_s / 86400:g} days")
    return NEVER


def admin_set(state: BookState, event: AdminSet) -> None:
    """An operator says what a device is for."""
    device = state.devices.get(event.device)
    if device is None:
        state.note("unknown-device", event.device, f"{event.admin.value} by {event.by}")
        return
    before, device.admin, device.why = device.admin, event.admin, event.why
    device.calm = None
    state.note("admin", device.name, f"{event.admin.value} by {event.by}: {event.why}")
    row = DeviceRow(device.name, device.asked, device.admin, device.why)
    state.out.append(SaveDevice(row))
    if device.registered and (before is Admin.RETIRED) is not (device.admin is Admin.RETIRED):
        if device.admin is Admin.RETIRED:
            for match in state.index.remove(device):
                if match.waiting:
                    state.shrunk[match] = None
        else:
            state.index.add(device)
    if device.lease is not None and device.admin in (Admin.MAINTENANCE, Admin.RETIRED):
        detail = f"{device.name} is in {device.admin.value}: {event.why}"
        end(state, device.lease, EndReason.REVOKED, detail)
    refresh(state, device)
    state.tell(device)


def probe_asked(state: BookState, event: ProbeAsked) -> None:
    """An operator wants a device probed."""
    device = state.devices.get(event.device)
    if device is None:
        state.note("unknown-device", event.device, "probe")
        return
    order_probe(state, device)

"""Whether a device may be granted, and what it should do: both follow from its record alone."""

from __future__ import annotations

from loopwright.fleet.book.effects import DesiredState, ReserveEpochs
from loopwright.fleet.book.events import EpochsReserved
from loopwright.fleet.book.records import DeviceRecord
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import Admin, EndReason, Health, LeaseState, LinkState


def grantable(device: DeviceRecord) -> bool:
    """Whether a device may be granted now."""
    boot = device.boot
    return (
        boot is not None
        and boot.link is LinkState.UP
        and device.synced
        and device.lease is None
        and device.releasing is None
        and not device.busy
        and not device.stuck
        and device.health is Health.GOOD
        and device.admin is Admin.ENABLED
        and device.top < device.reserved
    )


def refresh(state: BookState, device: DeviceRecord) -> None:
    """Bring the index of free devices up to date."""
    free = grantable(device)
    if free is not device.free:
        state.index.set_free(device, free=free)
        if free:
            state.freed[device] = None


def reserve(state: BookState, device: DeviceRecord) -> None:
    """Ask for more epochs well before those that are durable are used up."""
    block = state.config.epoch_block
    if device.top + block // 2 >= device.asked:
        device.asked = device.top + block
        state.out.append(ReserveEpochs(device.name, device.asked))


def epochs_reserved(state: BookState, event: EpochsReserved) -> None:
    """The store did as asked."""
    device = state.devices.get(event.device)
    if device is not None:
        device.reserved = max(device.reserved, event.upto)
        device.asked = max(device.asked, event.upto)
        refresh(state, device)


def order_of(state: BookState, device: DeviceRecord) -> DesiredState:
    """What a device should do now."""
    lease = device.lease
    if lease is not None:
        left = max(0.0, min(lease.expires, lease.yield_by) - state.now)
        yields = lease.yield_for is not None and lease.yield_by <= lease.expires
        return DesiredState(
            device=device.name,
            lease=lease.id,
            epoch=lease.epoch,
            ttl_s=left,
            admin=device.admin,
            why=EndReason.PREEMPTED.value if yields else "",
            fence=lease.epoch - 1,
        )
    calm = device.calm
    probe = device.probe and state.now < device.probe_until
    ending = device.releasing
    kill = device.session > 0 and (
        ending is None or ending.reason in (EndReason.REVOKED, EndReason.PREEMPTED)
    )
    if (
        calm is not None
        and calm.fence == device.top
        and calm.probe is probe
        and calm.kill is kill
        and calm.admin is device.admin
    ):
        return calm
    why = device.why
    if ending is not None and ending.reason is not None:
        why = ending.reason.value
    device.calm = DesiredState(
        device=device.name,
        lease="",
        epoch=0,
        ttl_s=0.0,
        admin=device.admin,
        probe=probe,
        kill=kill,
        why=why,
        fence=device.top,
    )
    return device.calm


def released(state: BookState, device: DeviceRecord) -> None:
    """The session of a lease that ended is known to be over."""
    lease = device.releasing
    if lease is not None:
        lease.state = LeaseState.ENDED
        device.releasing = None
        del state.leases[lease.id]

"""Leases: granted, renewed, given back, expired, taken away."""

from __future__ import annotations

from loopwright.fleet.book import holders, queue
from loopwright.fleet.book.effects import (
    EndLease,
    GrantedLease,
    SaveLease,
    TellGranted,
    TellQueued,
    TellRefused,
    TellReleased,
    TellRenewed,
)
from loopwright.fleet.book.events import GiveBack, Renewal
from loopwright.fleet.book.limits import lease_time, lease_time_over, runs_out
from loopwright.fleet.book.records import (
    NEVER,
    DeviceRecord,
    LeaseRecord,
    Match,
    RequestRecord,
    link_of,
    row_of,
)
from loopwright.fleet.book.standing import refresh, reserve
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import EndReason, LeaseState, LinkState, Priority, Refusal, Verdict

_AFFINITY_LOOKS = 64


def grant(state: BookState, request: RequestRecord, devices: list[DeviceRecord]) -> None:
    """Lease the devices, which are free, to a request."""
    now, config, tenant = state.now, state.config, request.tenant
    for device in devices:
        boot = device.boot
        if boot is None:
            continue
        state.index.set_free(device, free=False)
        device.top += 1
        ends_at = now + lease_time(request)
        lease = LeaseRecord(
            id=_new_id(state),
            request=request,
            device=device,
            boot=boot,
            epoch=device.top,
            granted_at=now,
            expires=min(now + request.asked.ttl_s, ends_at),
            open_by=now + config.open_s,
            ends_at=ends_at,
            charged_at=now + 1.0,
        )
        device.lease = lease
        state.leases[lease.id] = lease
        request.leases.append(lease)
        state.arm(lease, min(lease.open_by, lease.expires))
        state.out.append(SaveLease(row_of(lease)))
        reserve(state, device)
        state.tell(device)
    tenant.live += len(devices)
    state.totals.granted += len(devices)
    queue.served(state, tenant, len(devices))
    tell_granted(state, request)


def _new_id(state: BookState) -> str:
    """An id that no lease has; another start's prefix differs, unless somebody set it wrong."""
    while True:
        name = f"{state.config.prefix}{state.number()}"
        if name not in state.leases and name not in state.ended:
            return name


def tell_granted(state: BookState, request: RequestRecord) -> None:
    """Tell the client of a request what it has, once all agents have said where their devices are.

    After a restart a client may be back before the agents; then it is told that it waits for them.
    """
    away = sorted(
        lease.device.name for lease in request.leases if lease.device.name not in lease.boot.specs
    )
    request.owed = bool(away)
    if away:
        why = f"granted before the tracker started; {away[0]} is not back yet"
        state.out.append(TellQueued(request.client, request.id, 0, why))
        return
    given = tuple(
        GrantedLease(
            lease=lease.id,
            device=lease.device.name,
            agent=lease.boot.agent,
            incarnation=lease.boot.incarnation,
            epoch=lease.epoch,
            ttl_s=max(0.0, lease.expires - state.now),
        )
        for lease in request.leases
    )
    state.out.append(TellGranted(request.client, request.id, request.tenant.name, given))


def choose(state: BookState, match: Match, request: RequestRecord) -> list[DeviceRecord]:
    """The devices to give: those that have the modules first, then those free for longest."""
    usable = queue.usable(state, match, request)
    chosen: dict[DeviceRecord, None] = {}
    if request.asked.modules:
        looked: dict[DeviceRecord, int] = {}
        for module in request.asked.modules.items():
            for _, device in zip(
                range(_AFFINITY_LOOKS), state.index.loaded.get(module, ()), strict=False
            ):
                if device in usable:
                    looked[device] = looked.get(device, 0) + 1
        ranked = sorted(looked, key=lambda device: -looked[device])
        chosen = dict.fromkeys(ranked[: request.asked.count])
    for device in usable:
        if len(chosen) == request.asked.count:
            break
        chosen[device] = None
    return list(chosen)


def end(state: BookState, lease: LeaseRecord, reason: EndReason, detail: str = "") -> None:
    """End a lease, for this reason and no other; its device follows when it is clean."""
    device, request, tenant = lease.device, lease.request, lease.request.tenant
    opened = lease.state is LeaseState.ACTIVE
    lease.reason = reason
    state.out.append(
        EndLease(
            lease=lease.id,
            device=device.name,
            tenant=tenant.name,
            epoch=lease.epoch,
            reason=reason,
            detail=detail,
        )
    )
    state.out.append(TellReleased(request.client, lease.id, reason))
    state.totals.ended[reason] += 1
    state.disarm(lease)
    state.remember(lease.id, reason, detail)
    device.over = lease.id
    use = state.now - lease.charged_at
    if use > 0:
        queue.charge(state, tenant, use)
    claimant = lease.yield_for
    if claimant is not None:
        _stop_asking(lease, claimant)
    tenant.live -= 1
    if tenant.parked:
        queue.unpark(state, tenant)
    request.leases.remove(lease)
    if not request.leases:
        forget_request(state, request, reason.value)
        if request.owed:
            over = f"request {request.id} is over: {reason.value}"
            state.totals.refused[Refusal.CANCELLED] += 1
            state.out.append(TellRefused(request.client, request.id, Refusal.CANCELLED, over))
    device.lease = None
    if opened and device.boot is lease.boot and link_of(device) is not LinkState.LOST:
        lease.state = LeaseState.RELEASING
        device.releasing = lease
        device.ending_since = state.now
        device.told_since = False
        device.modules.update(request.asked.modules)
        state.arm(device, state.now + state.config.grace_s)
    else:
        lease.state = LeaseState.ENDED
        del state.leases[lease.id]
    state.tell(device)
    refresh(state, device)


def end_unknown(state: BookState, device: DeviceRecord, lease: str, epoch: int) -> None:
    """End a lease that only a device knows, unless it ended before.

    The tracker that granted it wrote into another store than this one, which is an older copy, or
    has lost its newest rows. The device is told to end the session; the log has its end here.
    """
    if lease in state.leases or lease in state.ended or lease == device.over:
        return
    detail = "the store does not know it: it is an older copy, or has lost its newest rows"
    state.note("lease-unknown", lease, f"reported by {device.name}, epoch {epoch}")
    state.out.append(
        EndLease(
            lease=lease,
            device=device.name,
            tenant="",
            epoch=epoch,
            reason=EndReason.REVOKED,
            detail=detail,
        )
    )
    state.totals.ended[EndReason.REVOKED] += 1
    state.remember(lease, EndReason.REVOKED, detail)
    device.over = lease


def forget_request(state: BookState, request: RequestRecord, what: str) -> None:
    """A request is over; what came of it is remembered for a while."""
    holders.drop(state, request)
    over = state.over
    over[request.id] = (request.tenant.name, what)
    if len(over) > state.config.remembered:
        over.popitem(last=False)


def lease_due(state: BookState, lease: LeaseRecord) -> None:
    """A lease's time has come: to be opened, to be yielded, to be lost, or to end."""
    over = _over(state, lease)
    if over is not None:
        reason, detail = over
        end(state, lease, reason, detail)
        return
    now = state.now
    soon = now + state.config.sync_s / 2  # it may be open: ask again when its device is heard of
    due = min(lease.expires, lease.yield_by)
    for at in (_open_by(lease), holders.lost_at(state, lease)):
        due = min(due, at if at > now else soon)
    state.arm(lease, due)


def _over(state: BookState, lease: LeaseRecord) -> tuple[EndReason, str] | None:
    """Why a lease ends now by time alone, if it does."""
    now, config = state.now, state.config
    claimant = lease.yield_for
    if claimant is not None and lease.yield_by <= min(now, lease.expires):
        return EndReason.PREEMPTED, _to(claimant)
    if now >= lease.expires and runs_out(lease):
        return EndReason.EXPIRED, lease_time_over(state, lease)
    if now >= lease.expires:
        return EndReason.EXPIRED, f"not renewed for {lease.request.asked.ttl_s:g} s"
    if now >= _open_by(lease):
        heard = lease.device.boot.heard if lease.device.boot is not None else -NEVER
        if heard + 1.5 * config.sync_s >= now:
            return EndReason.OPEN_TIMEOUT, f"no session within {config.open_s:g} s of the grant"
    if holders.lost(state, lease):
        return EndReason.CLIENT_LOST, holders.LOST
    return None


def _open_by(lease: LeaseRecord) -> float:
    """When a lease must have been opened; NEVER once it was."""
    return lease.open_by if lease.state is LeaseState.GRANTED else NEVER


def renewal(state: BookState, event: Renewal) -> None:
    """A client renews."""
    lease = state.leases.get(event.lease)
    if lease is None or lease.reason is not None:
        _gone(state, event, _why_ended(state, event.lease), state.ended.get(event.lease))
        return
    request = lease.request
    if request.tenant.name != event.tenant or lease.epoch != event.epoch:
        state.totals.denied += 1
        state.note("denied", event.lease, f"renewal by {event.tenant} with epoch {event.epoch}")
        _gone(state, event, f"lease {event.lease} with epoch {event.epoch} is not yours")
        return
    now = state.now
    holders.hold(state, request, event.client, event.token)
    lease.expires = min(max(lease.expires, now + request.asked.ttl_s), lease.ends_at)
    use = now - lease.charged_at
    if use > 0:
        queue.charge(state, request.tenant, use)
        lease.charged_at = now
    state.totals.renewed += 1
    if request.asked.ttl_s < 3 * state.config.sync_s:
        state.tell(lease.device)  # answers to reports come too rarely to keep the session alive
    state.out.append(_answer(state, lease))


def _answer(state: BookState, lease: LeaseRecord) -> TellRenewed:
    """What its holder is told: go on, or give it back, within what time and why."""
    claimant = _claimant(state, lease)
    reason, why = None, ""
    if claimant is not None:
        reason = EndReason.PREEMPTED
        why = f"{_class_of(claimant)} request {claimant.id} waits for this device"
    else:
        lease.yield_by = NEVER
        if runs_out(lease):
            reason, why = EndReason.EXPIRED, lease_time_over(state, lease)
    state.totals.yields += claimant is not None
    return TellRenewed(
        client=lease.request.client,
        lease=lease.id,
        verdict=Verdict.OK if reason is None else Verdict.YIELD_PLEASE,
        ttl_s=max(0.0, min(lease.expires, lease.yield_by) - state.now),
        why=why,
        reason=reason,
    )


def _gone(
    state: BookState, event: Renewal, why: str, ended: tuple[EndReason, str] | None = None
) -> None:
    reason = None if ended is None else ended[0]
    state.out.append(
        TellRenewed(
            client=event.client,
            lease=event.lease,
            verdict=Verdict.GONE,
            ttl_s=0.0,
            why=why,
            reason=reason,
        )
    )


def _why_ended(state: BookState, lease: str) -> str:
    known = state.ended.get(lease)
    if known is None:
        return f"no lease {lease} is known"
    reason, detail = known
    return f"lease {lease} ended: {reason.value}{', ' + detail if detail else ''}"


def _claimant(state: BookState, lease: LeaseRecord) -> RequestRecord | None:
    """The request of a higher class for which the holder should give the device back."""
    if lease.yield_for is not None:
        return lease.yield_for
    mine = lease.request.asked.priority
    if mine == queue.TOP:
        return None
    for match in lease.device.matches:
        for priority in range(queue.TOP, mine, -1):
            for request in match.pressing.get(priority, ()):
                if queue.blocked(request.tenant, request.asked.count):
                    continue
                request.yielding.append(lease)
                if len(request.yielding) >= request.asked.count:
                    del match.pressing[priority][request]
                lease.yield_for = request
                lease.yield_by = state.now + state.config.yield_s
                state.arm(lease, lease.yield_by)
                return request
    return None


def _stop_asking(lease: LeaseRecord, claimant: RequestRecord) -> None:
    """A lease that was asked to yield ended; if the request waits on, another may be asked."""
    lease.yield_for = None
    lease.yield_by = NEVER
    if lease in claimant.yielding:
        claimant.yielding.remove(lease)
    if claimant.line is not None and claimant.match is not None:
        claimant.match.pressing.setdefault(claimant.asked.priority, {})[claimant] = None


def _class_of(request: RequestRecord) -> str:
    return Priority(request.asked.priority).name.lower()


def _to(claimant: RequestRecord) -> str:
    return f"to {_class_of(claimant)} request {claimant.id}"


def give_back(state: BookState, event: GiveBack) -> None:
    """A client releases; once more is harmless."""
    lease = state.leases.get(event.lease)
    if lease is None or lease.reason is not None:
        reason = state.ended.get(event.lease, (EndReason.RELEASED, ""))[0]
        state.out.append(TellReleased(event.client, event.lease, reason))
        return
    if lease.request.tenant.name != event.tenant or lease.epoch != event.epoch:
        state.totals.denied += 1
        state.note("denied", event.lease, f"release by {event.tenant} with epoch {event.epoch}")
        detail = f"lease {event.lease} with epoch {event.epoch} is not yours"
        state.out.append(TellRefused(event.client, event.lease, Refusal.BAD_REQUEST, detail))
        return
    holders.hold(state, lease.request, event.client, lease.request.token)
    reason, detail = _why_given_back(state, lease, event.reason)
    end(state, lease, reason, detail)


def _why_given_back(state: BookState, lease: LeaseRecord, said: EndReason) -> tuple[EndReason, str]:
    """Why a lease ends that its holder gives back, for the reason that it says.

    One whose time ran out after it was asked to yield was preempted, and no other was.
    """
    claimant = lease.yield_for
    if claimant is not None and said is EndReason.RELEASED:
        return said, f"yielded {_to(claimant)}"
    if claimant is not None and said in (EndReason.EXPIRED, EndReason.PREEMPTED):
        return EndReason.PREEMPTED, _to(claimant)
    if said in (EndReason.RELEASED, EndReason.PREEMPTED):
        return EndReason.RELEASED, ""
    if said is EndReason.EXPIRED and runs_out(lease):
        return said, lease_time_over(state, lease)
    return said, "as its holder says"

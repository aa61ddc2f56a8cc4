"""Why a request waits, why a lease ended: sentences for people, made from the state."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from loopwright.fleet.book import holders, queue
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
from loopwright.fleet.selector import Operator, Selector
from loopwright.fleet.views import ExplanationView
from loopwright.fleet.words import Admin, Health, LeaseState, LinkState, Occupancy, Refusal

_FEW = 16
_LABELS_SHOWN = 12
_ADMIN = {
    Admin.MAINTENANCE: "quarantined",
    Admin.DRAIN: "draining",
    Admin.RETIRED: "retired",
}
_OVER = {
    Refusal.MAX_WAIT.value: "no device was free within the wait that it asked for; its client was "
    "told what kept it",
    Refusal.CANCELLED.value: "its client or an operator took it back",
    Refusal.UNSATISFIABLE.value: "no device of the fleet can serve it any more",
}
"""What came of a request that waited -> the same for people."""


@dataclass(slots=True)
class _Tally:
    """Devices of one selector by what keeps them from being granted."""

    free: int = 0
    leased: int = 0
    until: float = 0.0
    others: dict[str, list[str]] | None = None
    flapping: list[str] = field(default_factory=list)  # names, whatever else they are

    def other(self, kind: str, why: str) -> None:
        """Count a device that is kept for another reason."""
        if self.others is None:
            self.others = {}
        reasons = self.others.setdefault(kind, [])
        reasons.append(why)


def explain(state: BookState, subject: str) -> ExplanationView | None:
    """What there is to say about a lease or a request; None for an unknown one."""
    lease = state.leases.get(subject)
    if lease is not None:
        return _of_lease(state, lease)
    request = state.requests.get(subject)
    if request is not None:
        if request in state.waiting:
            return _of_waiting(state, request)
        names = ", ".join(f"{lease.id} on {lease.device.name}" for lease in request.leases)
        return ExplanationView(subject=subject, state=LeaseState.GRANTED, text=f"granted: {names}")
    if subject in state.ended:
        text = _ended(state, subject)
        return ExplanationView(subject=subject, state=LeaseState.ENDED, text=text)
    if subject in state.over:
        word = state.over[subject][1]
        more = f", {_OVER[word]}" if word in _OVER else ""
        return ExplanationView(subject=subject, state=LeaseState.ENDED, text=f"over: {word}{more}")
    return None


def waiting_why(state: BookState, request: RequestRecord) -> str:
    """Why a request waits, in the time that a busy tracker has for it."""
    match = request.match
    if match is None:
        return ""
    if len(match.devices) <= _FEW:
        return _sentence(state, request, _tally(state, match.devices))
    limits = _limits(state, request)
    free = len(match.free)
    return f"{len(match.devices)} match, {free or 'none'} free{limits}"


def refusal_of(state: BookState, request: RequestRecord) -> str:
    """Why no device could ever serve a request."""
    match = request.match
    if match is None:
        return ""
    selector = match.selector
    if match.devices:
        n = len(match.devices)
        return f"{request.asked.count} devices are wanted and {n} match {selector.text!r}"
    if not state.index.devices:
        return "no device has registered"
    for term in selector.terms:
        alone = Selector((term,), str(term))
        if state.index.meant(alone):
            continue
        wanted = term.operator in (Operator.IN, Operator.EXISTS)
        if wanted and (term.key, None) not in state.index.by_label:
            keys = sorted({key for key, _ in state.index.by_label})
            shown = ", ".join(keys[:_LABELS_SHOWN]) + (", ..." if keys[_LABELS_SHOWN:] else "")
            return f"no device has a label {term.key!r}; there are {shown}"
        return f"no device matches {str(term)!r}{_values_of(state, term.key)}"
    return f"no device matches all of {selector.text!r}, though each term alone matches some"


def _values_of(state: BookState, key: str) -> str:
    values = sorted(value for name, value in state.index.by_label if name == key and value)
    if not values:
        return ""
    more = ", ..." if values[_LABELS_SHOWN:] else ""
    return f"; {key} is {', '.join(values[:_LABELS_SHOWN])}{more}"


def _of_lease(state: BookState, lease: LeaseRecord) -> ExplanationView:
    device, left = lease.device.name, lease.expires - state.now
    if lease.reason is not None:
        text = f"{_ended(state, lease.id)}; {device} is not clean yet"
    elif lease.yield_for is not None:
        text = f"on {device}, asked to yield within {lease.yield_by - state.now:.0f} s"
    elif lease.state is LeaseState.GRANTED:
        text = f"on {device}, to be opened within {max(0.0, lease.open_by - state.now):.0f} s"
    else:
        text = f"on {device}, for {left:.0f} s unless renewed"
    if lease.reason is None and lease.request.away_since != NEVER:
        text += f"; {_away(state, lease)}"
    if lease.device.flapping:
        text += f"; {device} is flapping: two agents have it"
    return ExplanationView(subject=lease.id, state=lease.state, text=text, free_within_s=left)


def _ended(state: BookState, lease: str) -> str:
    reason, detail = state.ended[lease]
    return f"ended: {reason.value}{', ' + detail if detail else ''}"


def _away(state: BookState, lease: LeaseRecord) -> str:
    """Where its holder is, whose connection is gone, and what becomes of the lease."""
    away = f"holder away for {state.now - lease.request.away_since:.0f} s"
    lost_at = holders.lost_at(state, lease)
    if lost_at == NEVER:
        there = lease.device.open == lease.epoch
        return f"{away}, {'its session goes on' if there else 'its device has not reported since'}"
    return f"{away}, lost in {max(0.0, lost_at - state.now):.0f} s unless it comes back"


def _of_waiting(state: BookState, request: RequestRecord) -> ExplanationView:
    match = request.match
    devices = match.devices if match is not None else {}
    tally = _tally(state, devices)
    until = tally.until - state.now + state.config.grace_s if tally.leased else None
    return ExplanationView(
        subject=request.id,
        state=LeaseState.QUEUED,
        text=_sentence(state, request, tally),
        matching=len(devices),
        free=tally.free,
        leased=tally.leased,
        free_within_s=until,
        ahead=_ahead(request),
    )


def _ahead(request: RequestRecord) -> int:
    """How many that wait for the same devices are of a higher class, or older in the same."""
    if request.match is None or request.line is None:
        return 0
    rank, seq = request.line.rank, request.seq
    return sum(
        1
        for other in request.match.waiting
        if other.line is not None and (-other.line.rank, other.seq) < (-rank, seq)
    )


def _tally(state: BookState, devices: Iterable[DeviceRecord]) -> _Tally:
    tally = _Tally()
    for device in devices:
        if device.flapping:
            tally.flapping.append(device.name)
        if device.free:
            tally.free += 1
        elif device.lease is not None and device.admin is not Admin.ENABLED:
            tally.other(f"leased, then {_ADMIN[device.admin]}", device.why)
        elif device.lease is not None:
            tally.leased += 1
            tally.until = max(tally.until, min(device.lease.expires, device.lease.yield_by))
        else:
            tally.other(*kept_because(state, device))
    return tally


def kept_because(state: BookState, device: DeviceRecord) -> tuple[str, str]:
    """What keeps a device without a lease from being granted, in a word and a reason."""
    link, health = link_of(device), health_of(device)
    named = _ADMIN.get(device.admin)
    if named is not None:
        return named, device.why
    if link is not LinkState.UP:
        return ("lost", "") if link is LinkState.LOST else ("silent", "")
    if not device.synced:
        return "not reported yet", ""
    if device.stuck:
        return "stuck", "not clean in time"
    if health is Health.DRIFT:
        return "drifting", f"canary {device.drift:+.0%}".replace("%", " %")
    if health is not Health.GOOD:
        return {Health.BAD: "bad", Health.PROBING: "being probed"}.get(
            health, "not probed yet"
        ), device.detail
    if occupancy_of(device) is Occupancy.CLEANING:
        return "cleaning", ""
    return "short of epochs", state.read_only or "the store is asked for more"


def _sentence(state: BookState, request: RequestRecord, tally: _Tally) -> str:
    match = request.match
    n = len(match.devices) if match is not None else 0
    parts = [f"{n} {'matches' if n == 1 else 'match'}"]
    if tally.free:
        parts.append(f"{tally.free} free")
    if tally.leased:
        within = math.ceil(max(0.0, tally.until - state.now + state.config.grace_s))
        parts.append(f"{tally.leased} leased and free in <= {within} s")
    for kind, reasons in (tally.others or {}).items():
        known = sorted({why for why in reasons if why})
        why = f": {'; '.join(known[:3])}" if known else ""
        parts.append(f"{len(reasons)} {kind}{why}")
    if tally.flapping:
        names = ", ".join(sorted(tally.flapping)[:3])
        parts.append(f"{len(tally.flapping)} flapping: two agents have {names}")
    return ", ".join(parts) + _limits(state, request)


def _limits(state: BookState, request: RequestRecord) -> str:
    """What keeps a request waiting besides the devices."""
    tenant, match, parts = request.tenant, request.match, ""
    if state.settling and match is not None and len(match.devices) < request.asked.count:
        within = f"{state.settling_s:.0f} s"
        parts += f"; the tracker has just started, devices may be back within {within}"
    if state.read_only:
        parts += f"; the tracker grants nothing now: {state.read_only}"
    if queue.blocked(tenant, request.asked.count):
        parts += f"; {tenant.name} holds {tenant.live} of the {tenant.max_live} it may"
    if request.asked.count > 1:
        parts += f"; {request.asked.count} are wanted at once"
    gang = state.held_for
    if gang is not None and gang is not request and match is not None:
        held = sum(1 for device in match.free if queue.held_from(state, device, request))
        if held:
            parts += f"; {held} held for request {gang.id}, which waits for longer"
    return parts

"""Requests: checked, served or queued, aged, refused; and what frees up is given to them."""

from __future__ import annotations

import math

import msgspec

from loopwright.errors import ConfigError
from loopwright.fleet.book import holders, limits, queue
from loopwright.fleet.book.devices import admin_set
from loopwright.fleet.book.effects import TellQueued, TellRefused, TellReleased
from loopwright.fleet.book.events import (
    AdminSet,
    Cancelled,
    ClientDown,
    Requested,
    Revoked,
    TokenOver,
)
from loopwright.fleet.book.explain import refusal_of, waiting_why
from loopwright.fleet.book.leases import choose, end, forget_request, grant, tell_granted
from loopwright.fleet.book.records import NEVER, Match, RequestRecord
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import Admin, EndReason, Refusal

_MAX_NAME = 128
_MAX_ENTRIES = 64


def requested(state: BookState, event: Requested) -> None:
    """A client wants devices: now, or in its turn, or never."""
    known = state.requests.get(event.request)
    if known is not None:
        _again(state, known, event)
        return
    over = state.over.get(event.request)
    if over is not None:
        _refuse(state, event, Refusal.CANCELLED, f"request {event.request} is over: {over[1]}")
        return
    wrong = _wrong(state, event)
    if wrong:
        _refuse(state, event, Refusal.BAD_REQUEST, wrong)
        return
    tenant = state.tenant(event.tenant)
    if limits.too_much(tenant, event):
        _refuse(state, event, Refusal.FORBIDDEN, limits.above(state, event))
        return
    try:
        match = state.index.match(event.asked.selector, state.config.idle_selectors)
    except ConfigError as error:
        _refuse(state, event, Refusal.BAD_REQUEST, str(error))
        return
    if tenant.queued == 0:
        tenant.passed = max(tenant.passed, state.vtime)
    request = RequestRecord(
        id=event.request,
        client=event.client,
        tenant=tenant,
        asked=msgspec.structs.replace(event.asked, selector=match.selector.text),
        match=match,
        token=event.token,
        role=event.role,
        seq=state.number(),
        since=state.now,
        give_up=state.now + event.asked.max_wait_s,
    )
    _serve(state, request, match)


def _serve(state: BookState, request: RequestRecord, match: Match) -> None:
    """Give a new request what it wants, or have it wait, or refuse it."""
    tenant, count, config = request.tenant, request.asked.count, state.config
    if state.read_only:
        detail = f"the tracker grants nothing now: {state.read_only}"
        _turn_away(state, request, Refusal.READ_ONLY, detail, config.retry_after_s)
        return
    if count > tenant.max_live:
        detail = f"{count} devices, and {tenant.name} may hold {tenant.max_live}"
        _turn_away(state, request, Refusal.QUOTA, detail)
        return
    if not queue.blocked(tenant, count) and len(match.free) >= count:
        usable = queue.usable(state, match, request)
        if len(usable) >= count:
            holders.take(state, request)
            grant(state, request, choose(state, match, request))
            return
    if len(match.devices) < count and not state.settling:
        _turn_away(state, request, Refusal.UNSATISFIABLE, refusal_of(state, request))
    elif request.give_up <= state.now:
        _turn_away(state, request, Refusal.MAX_WAIT, waiting_why(state, request))
    elif tenant.queued >= tenant.max_queued:
        detail = f"{tenant.queued} requests of {tenant.name} wait, and it may have no more"
        _turn_away(state, request, Refusal.QUOTA, detail, config.retry_after_s)
    elif len(state.waiting) >= config.max_queued:
        detail = f"{len(state.waiting)} requests wait, the queue is full"
        _turn_away(state, request, Refusal.QUEUE_FULL, detail, config.retry_after_s)
    else:
        holders.take(state, request)
        _enqueue(state, request, match)


def _enqueue(state: BookState, request: RequestRecord, match: Match) -> None:
    state.index.used(match)
    match.waiting[request] = None
    state.waiting[request] = None
    request.tenant.queued += 1
    if request.asked.priority > 0:
        match.pressing.setdefault(request.asked.priority, {})[request] = None
    queue.join(state, request, match)
    state.arm(request, min(request.give_up, queue.next_rank_at(state, request)))
    _tell_queued(state, request)


def _tell_queued(state: BookState, request: RequestRecord) -> None:
    ahead = len(request.match.waiting) if request.match is not None else 0
    why = waiting_why(state, request)
    state.out.append(TellQueued(request.client, request.id, ahead, why))


def _dequeue(state: BookState, request: RequestRecord) -> None:
    """A request waits no longer."""
    queue.leave(request)
    state.disarm(request)
    del state.waiting[request]
    request.tenant.queued -= 1
    match = request.match
    if match is not None:
        del match.waiting[request]
        match.pressing.get(request.asked.priority, {}).pop(request, None)
        if not match.waiting:
            state.index.unused(match)
    for lease in request.yielding:
        lease.yield_for = None
        lease.yield_by = NEVER
    request.yielding.clear()
    if state.held_for is request:
        queue.elect(state)


def _again(state: BookState, request: RequestRecord, event: Requested) -> None:
    """The same request came once more: from a client that connected again, or as a copy."""
    if request.tenant.name != event.tenant:
        state.totals.denied += 1
        detail = f"request id {event.request} is in use; take another"
        _refuse(state, event, Refusal.BAD_REQUEST, detail)
        return
    holders.hold(state, request, event.client, event.token)
    if request in state.waiting:
        _tell_queued(state, request)
    else:
        tell_granted(state, request)


def _refuse(
    state: BookState, event: Requested | Cancelled, code: Refusal, detail: str, retry_s: float = 0.0
) -> None:
    state.totals.refused[code] += 1
    state.out.append(TellRefused(event.client, event.request, code, detail, retry_s))


def _turn_away(
    state: BookState, request: RequestRecord, code: Refusal, detail: str, retry_s: float = 0.0
) -> None:
    """Refuse a request that does not wait (any more). It may be tried again."""
    state.totals.refused[code] += 1
    state.out.append(TellRefused(request.client, request.id, code, detail, retry_s))


def _wrong(state: BookState, event: Requested) -> str:
    """What is wrong with a request, if anything: all of it comes from outside."""
    config, asked = state.config, event.asked
    for what, name in (("request", event.request), ("client", event.client)):
        if not 0 < len(name) <= _MAX_NAME:
            return f"a {what} id of {len(name)} characters; 1 to {_MAX_NAME} are allowed"
    if not 1 <= asked.count <= config.max_count:
        return f"count {asked.count} is not within 1 to {config.max_count}"
    if not (math.isfinite(asked.ttl_s) and config.min_ttl_s <= asked.ttl_s <= config.max_ttl_s):
        return f"ttl {asked.ttl_s} s is not within {config.min_ttl_s:g} to {config.max_ttl_s:g} s"
    if not (math.isfinite(asked.max_wait_s) and 0 <= asked.max_wait_s <= config.max_wait_s):
        return f"a wait of {asked.max_wait_s} s is not within 0 to {config.max_wait_s:g} s"
    if asked.priority not in range(queue.TOP + 1):
        return f"priority {asked.priority} is not within 0 to {queue.TOP}"
    for what, named in (("modules", asked.modules), ("tags", asked.tags)):
        if len(named) > _MAX_ENTRIES:
            return f"{len(named)} {what}; at most {_MAX_ENTRIES} are allowed"
    return ""


def cancelled(state: BookState, event: Cancelled) -> None:
    """A client no longer wants a request that waits. One already granted it gives back."""
    request = state.requests.get(event.request)
    if request is None:
        if event.request not in state.over:
            state.over[event.request] = ("", "cancelled")  # a copy of it may come later
            if len(state.over) > state.config.remembered:
                state.over.popitem(last=False)
        _refuse(state, event, Refusal.CANCELLED, "no such request waits")
    elif request.client != event.client:
        state.totals.denied += 1
        state.note("denied", event.request, f"cancelled by {event.client}, who did not ask for it")
    elif request in state.waiting:
        cancel(state, request, Refusal.CANCELLED, "as asked")


def cancel(state: BookState, request: RequestRecord, code: Refusal, detail: str) -> None:
    """End a request that waits."""
    _dequeue(state, request)
    forget_request(state, request, code.value)
    _turn_away(state, request, code, detail)


def client_down(state: BookState, event: ClientDown) -> None:
    """A client's connection is gone: what it waits for ends, and it is away from its leases."""
    for request in list(state.by_client.get(event.client, ())):
        if request in state.waiting:
            _dequeue(state, request)
            holders.drop(state, request)  # it may be asked for again after connecting again
            state.note("request-ended", request.id, EndReason.CLIENT_LOST.value)
        else:
            holders.leave(state, request, state.config.holder_s)


def token_over(state: BookState, event: TokenOver) -> None:
    """A token is no longer good: what was asked for and is held with it ends."""
    for request in [one for one in state.requests.values() if one.token == event.token]:
        if request in state.waiting:
            cancel(state, request, Refusal.CANCELLED, event.why)
        for lease in list(request.leases):
            end(state, lease, EndReason.REVOKED, event.why)


def revoked(state: BookState, event: Revoked) -> None:
    """An operator takes a lease away, or ends a request that waits."""
    lease = state.leases.get(event.lease)
    if lease is not None and lease.reason is None:
        if event.drain:
            admin_set(state, AdminSet(lease.device.name, Admin.DRAIN, event.by, event.why))
        end(state, lease, EndReason.REVOKED, f"by {event.by}: {event.why}")
        return
    request = state.requests.get(event.lease)
    if request is not None and request in state.waiting:
        cancel(state, request, Refusal.CANCELLED, f"by {event.by}: {event.why}")
        return
    reason = state.ended.get(event.lease, (None, ""))[0]
    state.note("nothing-to-revoke", event.lease, reason.value if reason else "unknown")


def request_due(state: BookState, request: RequestRecord) -> None:
    """A request waited for too long, or long enough to rise."""
    if request not in state.waiting or request.match is None:
        return
    if state.now >= request.give_up:
        why = waiting_why(state, request)
        _dequeue(state, request)
        forget_request(state, request, Refusal.MAX_WAIT.value)
        _turn_away(state, request, Refusal.MAX_WAIT, why)
        return
    line = request.line
    if line is not None and queue.rank_of(state, request) != line.rank:
        queue.leave(request)
        queue.join(state, request, request.match)
        _tell_queued(state, request)
    rises = queue.next_rank_at(state, request)
    state.arm(request, min(request.give_up, rises if rises > state.now else NEVER))


# --- what frees up ---


def settle(state: BookState) -> None:
    """Give what became free, or allowed, to requests that wait; end those that cannot be met."""
    if state.shrunk:
        _end_unsatisfiable(state)
    while True:
        if state.gangs or state.held_for is not None:
            queue.elect(state)
        if state.read_only or not (state.freed or state.reopened):
            return
        freed, state.freed = state.freed, {}
        reopened, state.reopened = state.reopened, {}
        for device in freed:
            while device.free and (request := queue.best_for(state, device)) is not None:
                _give(state, request)
        for match in reopened:
            while match.free and (best := queue.best_of(state, match, None)) is not None:
                _give(state, best[1])


def _give(state: BookState, request: RequestRecord) -> None:
    match = request.match
    if match is None:
        return
    devices = choose(state, match, request)
    _dequeue(state, request)
    grant(state, request, devices)


def _end_unsatisfiable(state: BookState) -> None:
    """End requests whose devices are gone for good."""
    if state.settling:
        return
    shrunk, state.shrunk = state.shrunk, {}
    for match in shrunk:
        devices = len(match.devices)
        for request in [r for r in match.waiting if r.asked.count > devices]:
            detail = refusal_of(state, request)
            cancel(state, request, Refusal.UNSATISFIABLE, detail)


def store_down(state: BookState, why: str, lost: tuple[str, ...]) -> None:
    """No new grants; those nobody heard of are undone."""
    if not state.read_only:
        state.note("read-only", "store", why)
    state.read_only = why or "its store cannot be written"
    for name in lost:
        lease = state.leases.get(name)
        if lease is None or lease.reason is not None:
            continue
        request = lease.request
        before = len(state.out)
        end(state, lease, EndReason.CANCELLED, f"never told: {why}")
        state.out[before:] = [e for e in state.out[before:] if not isinstance(e, TellReleased)]
        if not request.leases:
            state.over.pop(request.id, None)  # it may be tried again
            detail = f"the tracker grants nothing now: {why}"
            _turn_away(state, request, Refusal.READ_ONLY, detail, state.config.retry_after_s)


def store_up(state: BookState) -> None:
    """Grants again, beginning with what became free meanwhile."""
    if not state.read_only:
        return
    state.read_only = ""
    state.note("writable", "store", "")
    for device in state.index.devices:
        if device.free:
            state.freed[device] = None

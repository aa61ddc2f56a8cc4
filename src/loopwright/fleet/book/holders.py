"""Who holds a request and its leases: a client's connection, with the token that it came with.

A holder whose connection is gone is *away*. Its session, if one is open, shows that it lives; when
that is gone too, the lease is lost after `holder_s`, unless the holder is back by then: it says so
by another connection, with a renewal or with its request again.
"""

from __future__ import annotations

from loopwright.fleet.book.records import NEVER, LeaseRecord, RequestRecord
from loopwright.fleet.book.state import BookState

LOST = "its client's connection and session are gone"
"""Why a lease is lost, for people."""


def take(state: BookState, request: RequestRecord) -> None:
    """A request waits from now on, or has leases: its client holds it."""
    state.requests[request.id] = request
    state.by_client.setdefault(request.client, {})[request] = None


def drop(state: BookState, request: RequestRecord) -> None:
    """A request is over."""
    del state.requests[request.id]
    _forget(state, request)


def hold(state: BookState, request: RequestRecord, client: str, token: str) -> None:
    """A client says that it holds a request: it is there."""
    request.token = token
    if request.client != client:
        _forget(state, request)
        request.client = client
        state.by_client.setdefault(client, {})[request] = None
    if request.away_since != NEVER:
        request.away_since = NEVER
        for lease in request.leases:
            lease.gone_since = NEVER


def leave(state: BookState, request: RequestRecord, grace_s: float) -> None:
    """The connection of a request's holder is gone; it may take `grace_s` at least to come back."""
    request.away_since = state.now
    request.away_until = state.now + grace_s
    for lease in request.leases:
        look(state, lease)


def look(state: BookState, lease: LeaseRecord) -> None:
    """Note since when neither its holder nor a session of a lease is there."""
    device = lease.device
    if lease.request.away_since == NEVER or not device.synced or device.open == lease.epoch:
        lease.gone_since = NEVER
    elif lease.gone_since == NEVER:
        lease.gone_since = state.now
        state.arm(lease, lost_at(state, lease))


def lost_at(state: BookState, lease: LeaseRecord) -> float:
    """When a lease is lost whose holder and session are gone; NEVER while one of them is there."""
    if lease.gone_since == NEVER:
        return NEVER
    return max(lease.gone_since + state.config.holder_s, lease.request.away_until)


def lost(state: BookState, lease: LeaseRecord) -> bool:
    """Whether a lease is lost: its device must have said since that it has no session of it."""
    return lost_at(state, lease) <= state.now and lease.device.told_at >= lease.gone_since


def _forget(state: BookState, request: RequestRecord) -> None:
    mine = state.by_client[request.client]
    del mine[request]
    if not mine:
        del state.by_client[request.client]

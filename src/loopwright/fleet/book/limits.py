"""What a request may ask for: the limits of its role and of its tenant; the lower counts."""

from __future__ import annotations

from collections.abc import Iterator

from loopwright.fleet.book.config import LeaseLimits
from loopwright.fleet.book.events import Requested
from loopwright.fleet.book.records import NEVER, LeaseRecord, RequestRecord, Tenant
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import Priority, Role


def too_much(tenant: Tenant, event: Requested) -> bool:
    """Whether a request is above a limit."""
    most, asked = tenant.lowest[event.role], event.asked
    return asked.priority > most.max_class or asked.ttl_s > most.max_ttl_s


def above(state: BookState, event: Requested) -> str:
    """Which limit a request is above, in words that name it; empty if it is above none."""
    priority, ttl_s = event.asked.priority, event.asked.ttl_s
    for most, limits in _named(state, event.role, event.tenant):
        if priority > limits.max_class:
            wanted, allowed = _class_name(priority), _class_name(limits.max_class)
            return f"class {wanted} is above {allowed}, {most} ask for (max_class)"
        if ttl_s > limits.max_ttl_s:
            allowed = f"{limits.max_ttl_s:g} s"
            return f"a ttl of {ttl_s:g} s is above {allowed}, {most} ask for (max_ttl_s)"
    return ""


def lease_time(request: RequestRecord) -> float:
    """For how many seconds a lease of the request may be held."""
    return request.tenant.lowest[request.role].max_lease_s


def runs_out(lease: LeaseRecord) -> bool:
    """Whether its lease time, and not its ttl, says when a lease ends."""
    return lease.ends_at != NEVER and lease.ends_at <= lease.expires


def lease_time_over(state: BookState, lease: LeaseRecord) -> str:
    """Why a lease ends whose lease time is over."""
    request = lease.request
    time_s = lease_time(request)
    named = _named(state, request.role, request.tenant.name)
    most = next(most for most, limits in named if limits.max_lease_s == time_s)
    return f"held for {time_s:g} s, {most} (max_lease_s)"


def _named(state: BookState, role: Role, tenant: str) -> Iterator[tuple[str, LeaseLimits]]:
    """The limits that hold, each with whose it is in words."""
    whose = f"role {role.name.lower()}", f"tenant {tenant}"
    for name, limits in zip(whose, state.config.limits(role, tenant), strict=True):
        yield f"the most that {name} may", limits


def _class_name(priority: int) -> str:
    return Priority(priority).name.lower()

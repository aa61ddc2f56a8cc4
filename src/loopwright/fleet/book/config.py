"""The numbers of a LeaseBook: timers, quotas, weights. All durations are seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from loopwright.fleet.words import Priority, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLimits:
    """What a request may ask for, and for how long its leases may be held, renewed or not."""

    max_class: Priority = Priority.URGENT
    max_ttl_s: float = math.inf
    max_lease_s: float = math.inf


_NO_LIMITS = LeaseLimits()


@dataclass(frozen=True, slots=True)
class TenantConfig:
    """A tenant's share: `weight` against the others', and how much it may hold and wait for."""

    weight: float = 1.0
    max_live: int = 1_000_000
    max_queued: int = 20_000
    limits: LeaseLimits = _NO_LIMITS


def _roles() -> Mapping[Role, LeaseLimits]:
    """By default nobody takes a device from others by a class that operators are for."""
    return {Role.USER: LeaseLimits(max_class=Priority.NORMAL)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BookConfig:
    """The settings of a LeaseBook. The defaults are those of the design.

    `prefix` begins each lease's id and must differ between starts of a tracker that share a store
    (its epoch does); the rest of the id counts.
    """

    prefix: str = "l"

    # Hearing of devices
    sync_s: float = 2.0  # how often agents report; the shell tells them no longer period
    suspect_s: float = 6.0  # silence after which a link is SUSPECT
    lost_s: float = 30.0  # silence after which it is LOST
    reconnect_s: float = 10.0  # the same after its connection closed: time for coming back
    forget_s: float = 7 * 86_400.0  # a device that is LOST for so long is forgotten
    settle_s: float = 15.0  # after a restart: how long devices of before may take to come back

    # Leases
    open_s: float = 10.0  # GRANTED to the session's OPEN
    holder_s: float = 3.0  # for a holder to come back whose connection and session are gone
    grace_s: float = 5.0  # after the end of a session that nobody saw end
    cleaning_s: float = 15.0
    cleaning_fpga_s: float = 60.0  # devices with the label kind=fpga restore a bitstream
    min_ttl_s: float = 0.05
    max_ttl_s: float = 3600.0
    yield_s: float = 10.0  # from YIELD_PLEASE to the end of the lease
    epoch_block: int = 1000

    # Probes
    probe_s: float = 30.0  # how long an order to probe is repeated until the device starts one
    drift_cool_s: float = 30.0
    bad_probe_s: float = 60.0

    # Requests
    max_count: int = 64
    max_wait_s: float = 7 * 86_400.0
    max_queued: int = 20_000
    retry_after_s: float = 5.0
    age_s: float = 60.0  # waiting so long lifts a request by one class
    overdue_s: float = 240.0  # waiting so long puts it before all that came later
    max_debt_s: float = 600.0  # how far a tenant's past use may set it back

    # Memory
    remembered: int = 10_000  # requests and leases that ended, for repeated messages
    idle_selectors: int = 64  # selectors nobody waits with, whose devices stay indexed
    flap_limit: int = 3
    flap_window_s: float = 600.0

    tenant: TenantConfig = TenantConfig()
    tenants: Mapping[str, TenantConfig] = field(default_factory=dict)
    roles: Mapping[Role, LeaseLimits] = field(default_factory=_roles)

    def of_tenant(self, name: str) -> TenantConfig:
        """The share of a tenant."""
        return self.tenants.get(name, self.tenant)

    def lowest(self, tenant: str) -> tuple[LeaseLimits, ...]:
        """For each role, what those of it may ask for who are of a tenant."""
        found = (self.limits(role, tenant) for role in Role)
        return tuple(
            LeaseLimits(
                max_class=min(mine.max_class, its.max_class),
                max_ttl_s=min(mine.max_ttl_s, its.max_ttl_s),
                max_lease_s=min(mine.max_lease_s, its.max_lease_s),
            )
            for mine, its in found
        )

    def limits(self, role: Role, tenant: str) -> tuple[LeaseLimits, LeaseLimits]:
        """The limits that hold for a request: those of the role, those of the tenant."""
        return self.roles.get(role, _NO_LIMITS), self.of_tenant(tenant).limits

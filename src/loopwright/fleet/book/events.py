"""What the LeaseBook is told. Times are never in events: `apply(event, now)` gets them separately.

`now` is seconds of a monotonic clock. Names and ids are text; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.words import Admin, EndReason, Health, Occupancy, Role


class DeviceSpec(msgspec.Struct, frozen=True, gc=False):
    """A device as its agent describes it. Labels hold `name` too."""

    name: str
    labels: Mapping[str, str]
    modules: Mapping[str, str] = msgspec.field(default_factory=dict)  # kind -> digest, loaded


class ReportedState(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How a device says it is. `epoch` is of its session (0 without), `last_epoch` the highest ever
    accepted in this incarnation.
    """

    device: str
    occupancy: Occupancy
    health: Health
    lease: str = ""
    epoch: int = 0
    last_epoch: int = 0
    drift: float = 0.0
    detail: str = ""


class AgentUp(msgspec.Struct, frozen=True, gc=False):
    """An agent connected, or connected again. A newer incarnation replaces an older one."""

    agent: str
    incarnation: str
    devices: tuple[DeviceSpec, ...]


class AgentDown(msgspec.Struct, frozen=True, gc=False):
    """The connection of an agent is gone (FIN or RST)."""

    agent: str
    incarnation: str


class Synced(msgspec.Struct, frozen=True, gc=False):
    """An agent reported. Of reports out of order, those with a lower `seq` are ignored.

    It was told to report again within `period_s`; the longer that is, the longer its silence means
    nothing.
    """

    agent: str
    incarnation: str
    seq: int
    reports: tuple[ReportedState, ...]
    period_s: float = 0.0


class Requested(msgspec.Struct, frozen=True, gc=False):
    """A client asks for devices. The same `request` again is the same request."""

    request: str
    client: str
    tenant: str
    asked: LeaseRequest
    token: str = ""  # id of what its client came with
    role: Role = Role.ADMIN


class Cancelled(msgspec.Struct, frozen=True, gc=False):
    """The client no longer wants a request that waits."""

    request: str
    client: str


class Renewal(msgspec.Struct, frozen=True, gc=False):
    """A client keeps a lease. Only the holder's tenant may."""

    lease: str
    epoch: int
    client: str
    tenant: str
    token: str = ""


class GiveBack(msgspec.Struct, frozen=True, gc=False):
    """A client releases a lease; twice is harmless. `reason` differs where it was forced to."""

    lease: str
    epoch: int
    client: str
    tenant: str
    reason: EndReason = EndReason.RELEASED


class ClientDown(msgspec.Struct, frozen=True, gc=False):
    """The connection of a client is gone: what it waits for ends, and so do its leases when their
    sessions are gone too and it does not come back.
    """

    client: str


class TokenOver(msgspec.Struct, frozen=True, gc=False):
    """A token is no longer good: what was asked for and is held with it ends at once."""

    token: str
    why: str


class Revoked(msgspec.Struct, frozen=True, gc=False):
    """An operator takes a lease away; with `drain` its device is not lent again."""

    lease: str
    by: str
    why: str
    drain: bool = False


class AdminSet(msgspec.Struct, frozen=True, gc=False):
    """An operator enables, drains, quarantines or retires a device."""

    device: str
    admin: Admin
    by: str
    why: str = ""


class ProbeAsked(msgspec.Struct, frozen=True, gc=False):
    """An operator wants a device probed."""

    device: str


class EpochsReserved(msgspec.Struct, frozen=True, gc=False):
    """The store has durably reserved epochs of a device up to and including `upto`."""

    device: str
    upto: int


class StoreDown(msgspec.Struct, frozen=True, gc=False):
    """The store cannot be written: no new grants until StoreUp; renewals and releases go on.

    `lost` names the leases whose SaveLease failed, so that nobody heard of them: they end, and
    their requests are refused with READ_ONLY. Other durable effects are the shell's to repeat.
    """

    why: str
    lost: tuple[str, ...] = ()


class StoreUp(msgspec.Struct, frozen=True, gc=False):
    """The store can be written again."""


class LeaseRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A lease as the store keeps it across a restart; only live ones are restored."""

    lease: str
    request: str
    device: str
    agent: str
    incarnation: str
    epoch: int
    client: str
    tenant: str
    selector: str
    ttl_s: float
    priority: int
    tags: Mapping[str, str]
    token: str = ""
    role: Role = Role.ADMIN


class DeviceRow(msgspec.Struct, frozen=True, gc=False):
    """What the store keeps of a device: how far its epochs are reserved and what operators want.

    One that is `forgotten` is neither shown nor waited for, but resumes if it comes back.
    """

    device: str
    epochs: int
    admin: Admin
    why: str = ""
    forgotten: bool = False


class Restored(msgspec.Struct, frozen=True, gc=False):
    """The first event after a start: what the store had. Devices say what is true of the leases.

    `agents` are those that may connect, `ended` the last leases that ended, oldest first, with the
    reasons that the log has.
    """

    leases: tuple[LeaseRow, ...]
    devices: tuple[DeviceRow, ...]
    agents: tuple[str, ...] = ()
    ended: tuple[tuple[str, EndReason], ...] = ()


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time passed: `LeaseBook.deadline` was reached, or nothing else happened for a while."""


Event: TypeAlias = (
    AgentUp
    | AgentDown
    | Synced
    | Requested
    | Cancelled
    | Renewal
    | GiveBack
    | ClientDown
    | TokenOver
    | Revoked
    | AdminSet
    | ProbeAsked
    | EpochsReserved
    | StoreDown
    | StoreUp
    | Restored
    | Tick
)

"""What the LeaseBook wants done, in order.

The shell around it first makes what `DURABLE` effects say durable, many at a time in one
transaction, and only then carries out the others that came with them: nobody hears of a grant that
a crash could undo. If the store fails it tells the book StoreDown and drops those grants.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from loopwright.fleet.book.events import DeviceRow, LeaseRow
from loopwright.fleet.words import Admin, EndReason, Refusal, Verdict


class ReserveEpochs(msgspec.Struct, frozen=True, gc=False):
    """Make durable that epochs of `device` up to and including `upto` may have been used.

    The shell answers with EpochsReserved. Until then the device is not granted.
    """

    device: str
    upto: int


class SaveLease(msgspec.Struct, frozen=True, gc=False):
    """Keep a living lease."""

    row: LeaseRow


class SaveDevice(msgspec.Struct, frozen=True, gc=False):
    """Keep what operators want of a device."""

    row: DeviceRow


class EndLease(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A lease ended: forget its row, keep the reason in the audit log."""

    lease: str
    device: str
    tenant: str
    epoch: int
    reason: EndReason
    detail: str


class TellQueued(msgspec.Struct, frozen=True, gc=False):
    """Tell `client` that its request waits."""

    client: str
    request: str
    position: int
    why: str


class GrantedLease(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One device of a grant."""

    lease: str
    device: str
    agent: str
    incarnation: str
    epoch: int
    ttl_s: float


class TellGranted(msgspec.Struct, frozen=True, gc=False):
    """Tell `client` that it has the devices; the shell makes a ticket for each."""

    client: str
    request: str
    tenant: str
    given: tuple[GrantedLease, ...]


class TellRefused(msgspec.Struct, frozen=True, gc=False):
    """Tell `client` that its request is not served."""

    client: str
    request: str
    code: Refusal
    detail: str
    retry_after_s: float = 0.0


class TellRenewed(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Answer a renewal; `reason` is why a lease that is gone ended, where that is known, or why one
    that is to be yielded will end.
    """

    client: str
    lease: str
    verdict: Verdict
    ttl_s: float
    why: str = ""
    reason: EndReason | None = None


class TellReleased(msgspec.Struct, frozen=True, gc=False):
    """Answer a release, or tell the holder that its lease ended."""

    client: str
    lease: str
    reason: EndReason


class DesiredState(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a device should do: serve `lease` with `epoch` (0: nobody), for `ttl_s` more seconds.

    `why` is why the lease ended, or will when those are over; of a calm device, why it is so.
    `fence`: sessions of epochs up to and including it are over, and tickets with them are refused.
    A session of a higher epoch than this order knows of is newer than the order: leave it alone.
    """

    device: str
    lease: str
    epoch: int
    ttl_s: float
    admin: Admin
    probe: bool = False
    kill: bool = False
    why: str = ""
    fence: int = 0


class TellDesired(msgspec.Struct, frozen=True, gc=False):
    """Tell an agent what its devices should do. Level-triggered: it may be lost or repeated."""

    agent: str
    incarnation: str
    orders: tuple[DesiredState, ...]


class TellSuperseded(msgspec.Struct, frozen=True, gc=False):
    """Tell an older agent that another one has its device now."""

    agent: str
    incarnation: str
    device: str


class Note(msgspec.Struct, frozen=True, gc=False):
    """Something for the event log: `what` is a fixed word, `subject` a device, lease or agent."""

    what: str
    subject: str
    detail: str


Effect: TypeAlias = (
    ReserveEpochs
    | SaveLease
    | SaveDevice
    | EndLease
    | TellQueued
    | TellGranted
    | TellRefused
    | TellRenewed
    | TellReleased
    | TellDesired
    | TellSuperseded
    | Note
)
DURABLE = (ReserveEpochs, SaveLease, SaveDevice, EndLease)

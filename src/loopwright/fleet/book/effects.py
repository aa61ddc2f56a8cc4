"""What the LeaseBook wants done, in order.

The shell around it first makes what `DURABLE` effects say durable, many at a time in one
transaction, and only then carries out the others that came with them: nobody hears of a grant that
a crash could undo. If the store fails it tells the book StoreDown and drops those grants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from loopwright.fleet.book.events import DeviceRow, LeaseRow
from loopwright.fleet.words import Admin, EndReason, Refusal, Verdict


@dataclass(frozen=True, slots=True)
class ReserveEpochs:
    """Make durable that epochs of `device` up to and including `upto` may have been used.

    The shell answers with EpochsReserved. Until then the device is not granted.
    """

    device: str
    upto: int


@dataclass(frozen=True, slots=True)
class SaveLease:
    """Keep a living lease."""

    row: LeaseRow


@dataclass(frozen=True, slots=True)
class SaveDevice:
    """Keep what people want of a device."""

    row: DeviceRow


@dataclass(frozen=True, slots=True)
class EndLease:
    """A lease ended: forget its row, keep the reason in the audit log."""

    lease: str
    device: str
    tenant: str
    epoch: int
    reason: EndReason
    detail: str


@dataclass(frozen=True, slots=True)
class TellQueued:
    """Tell `client` that its request waits."""

    client: str
    request: str
    position: int
    why: str


@dataclass(frozen=True, slots=True)
class Given:
    """One device of a grant."""

    lease: str
    device: str
    agent: str
    incarnation: str
    epoch: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class TellGranted:
    """Tell `client` that it has the devices; the shell makes a ticket for each."""

    client: str
    request: str
    tenant: str
    given: tuple[Given, ...]


@dataclass(frozen=True, slots=True)
class TellRefused:
    """Tell `client` that its request is not served."""

    client: str
    request: str
    code: Refusal
    detail: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TellRenewed:
    """Answer a renewal; `reason` is why a lease that is gone ended, where that is known."""

    client: str
    lease: str
    verdict: Verdict
    ttl_s: float
    why: str = ""
    reason: EndReason | None = None


@dataclass(frozen=True, slots=True)
class TellReleased:
    """Answer a release, or tell the holder that its lease ended."""

    client: str
    lease: str
    reason: EndReason


@dataclass(frozen=True, slots=True)
class Order:
    """What a device should do: serve `lease` with `epoch` (0: nobody), for `ttl_s` more seconds.

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


@dataclass(frozen=True, slots=True)
class TellDesired:
    """Tell an agent what its devices should do. Level-triggered: it may be lost or repeated."""

    agent: str
    incarnation: str
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class TellSuperseded:
    """Tell an older agent that another one has its device now."""

    agent: str
    incarnation: str
    device: str


@dataclass(frozen=True, slots=True)
class Note:
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

"""What the tracker keeps durably, and the seam behind which it is kept.

The LeaseBook's own durable effects (`ReserveEpochs`, `SaveLease`, `SaveDevice`, `EndLease`) are
changes as they are; the rest is here. Times are seconds since 1970, for people and for the expiry
of secrets; nothing of a lease depends on them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import msgspec

from loopwright.errors import FleetError
from loopwright.fleet.book.effects import EndLease, ReserveEpochs, SaveDevice, SaveLease
from loopwright.fleet.book.events import DeviceRow, LeaseRow
from loopwright.fleet.security.tokens import CodeRow, TokenRow

ENDED = "lease.end"
"""What the log calls the end of a lease, the lease being the subject."""
ENDS = 10_000
"""How many of them a tracker reads when it starts."""


class StoreError(FleetError):
    """The store failed: nothing of the commit counts, and it is reopened before the next."""


class StoreFencedError(StoreError):
    """Another tracker has begun on this store: this one must stop."""


class StoreBusyError(StoreError):
    """Another process writes just now, and the caller would not wait. Nothing was begun."""


class Pace(enum.Enum):
    """How long a commit may take, which decides where and when it is made."""

    INSTANT = "instant"  # a function call: at once
    PROMPT = "prompt"  # it waits for nothing: in the event loop, for all that came in one turn
    SLOW = "slow"  # it waits for a disk or a server: in a thread


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent that may connect. `key` seals the tickets of its devices.

    `labels` are put on each of its devices, over what the agent says.
    """

    name: str
    key: bytes
    labels: Mapping[str, str] = field(default_factory=dict)
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class JoinRow:
    """A code with which one agent may join, its devices getting `labels`; `used_by` names it."""

    code: CodeRow
    labels: Mapping[str, str] = field(default_factory=dict)
    used_by: str = ""


class AuditEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of the audit log: at `at`, `by` did `what` to `subject`."""

    at: float
    what: str
    subject: str
    by: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Logged:
    """An event as the log has it; ids grow."""

    id: int
    event: AuditEvent


Change: TypeAlias = (
    ReserveEpochs | SaveLease | SaveDevice | EndLease | AgentRow | TokenRow | JoinRow | AuditEvent
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreContents:
    """Everything, as a tracker reads it when it starts, but of the log the newest `ENDS` of leases.

    Those are `ended`, oldest first.
    """

    leases: tuple[LeaseRow, ...] = ()
    devices: tuple[DeviceRow, ...] = ()
    agents: tuple[AgentRow, ...] = ()
    tokens: tuple[TokenRow, ...] = ()
    joins: tuple[JoinRow, ...] = ()
    ended: tuple[AuditEvent, ...] = ()


class ChangeBatch:
    """Changes that become durable together; of several to one row the last counts."""

    __slots__ = ("admins", "agents", "epochs", "events", "joins", "leases", "tokens")

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self.epochs: dict[str, int] = {}
        self.admins: dict[str, DeviceRow] = {}
        self.leases: dict[str, LeaseRow | None] = {}  # None: forget it
        self.agents: dict[str, AgentRow] = {}
        self.tokens: dict[str, TokenRow] = {}
        self.joins: dict[str, JoinRow] = {}
        self.events: list[AuditEvent] = []
        for change in changes:
            self.add(change)

    def __len__(self) -> int:
        return (
            len(self.epochs)
            + len(self.admins)
            + len(self.leases)
            + len(self.agents)
            + len(self.tokens)
            + len(self.joins)
            + len(self.events)
        )

    @property
    def careful(self) -> bool:
        """Whether losing it with the power is not allowed: epochs, and who may do what."""
        return bool(self.epochs or self.admins or self.agents or self.tokens or self.joins)

    def __bool__(self) -> bool:
        return bool(self.leases or self.events or self.careful)

    def add(self, change: Change) -> None:
        """One more change, after those before."""
        match change:
            case SaveLease():
                self.leases[change.row.lease] = change.row
            case EndLease():
                self.leases[change.lease] = None
            case AuditEvent():
                self.events.append(change)
            case ReserveEpochs(device, upto):
                self.epochs[device] = max(upto, self.epochs.get(device, 0))
            case SaveDevice(row):
                self.admins[row.device] = row
            case AgentRow():
                self.agents[change.name] = change
            case TokenRow():
                self.tokens[change.id] = change
            case JoinRow():
                self.joins[change.code.id] = change

    def extend(self, later: ChangeBatch) -> None:
        """All of `later`, after what is here."""
        for device, upto in later.epochs.items():
            self.epochs[device] = max(upto, self.epochs.get(device, 0))
        self.admins.update(later.admins)
        self.leases.update(later.leases)
        self.agents.update(later.agents)
        self.tokens.update(later.tokens)
        self.joins.update(later.joins)
        self.events.extend(later.events)


class TrackerStore(Protocol):
    """Where a tracker keeps what must survive it. One tracker at a time writes; the newest wins."""

    def pace(self, batch: ChangeBatch) -> Pace:
        """How long the commit of `batch` may take."""
        ...

    def begin(self) -> int:
        """Become the writer: the tracker's epoch, durably higher than any before.

        Raises: StoreError.
        """
        ...

    def load(self) -> StoreContents:
        """What is kept. Raises: StoreError."""
        ...

    def commit(self, batch: ChangeBatch, *, wait: bool = True) -> None:
        """Make `batch` durable, all of it or nothing.

        Raises: StoreError when it could not be written; StoreFencedError when another tracker has
            begun since; StoreBusyError when `wait` is false and another process writes just now.
        """
        ...

    def reopen(self) -> None:
        """After a StoreError: a fresh connection that can write. Raises: StoreError."""
        ...

    def events(self, after: int, limit: int) -> tuple[Logged, ...]:
        """At most `limit` events with ids over `after`, oldest first; from any thread."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...

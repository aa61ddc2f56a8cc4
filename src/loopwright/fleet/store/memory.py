"""A store that lives as long as its process: for the embedded fleet and for tests."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import final

from msgspec.structs import replace

from loopwright.fleet.book.events import DeviceRow, LeaseRow
from loopwright.fleet.security.tokens import TokenRow
from loopwright.fleet.store.rows import (
    ENDED,
    ENDS,
    AgentRow,
    ChangeBatch,
    JoinRow,
    Logged,
    Pace,
    StoreContents,
    StoreError,
    StoreFencedError,
)
from loopwright.fleet.words import Admin

KEEP_EVENTS = 10_000


@dataclass(slots=True, kw_only=True)
class MemoryRows:
    """What several MemoryStores may share, as trackers share a file."""

    epoch: int = 0
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    devices: dict[str, DeviceRow] = field(default_factory=dict)
    agents: dict[str, AgentRow] = field(default_factory=dict)
    tokens: dict[str, TokenRow] = field(default_factory=dict)
    joins: dict[str, JoinRow] = field(default_factory=dict)
    events: deque[Logged] = field(default_factory=deque)
    last_event: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@final
class MemoryStore:
    """A TrackerStore in dictionaries: those of `rows`, or its own."""

    def __init__(self, rows: MemoryRows | None = None, *, keep_events: int = KEEP_EVENTS) -> None:
        self._rows = MemoryRows() if rows is None else rows
        self._keep = keep_events
        self._epoch = 0

    def begin(self) -> int:
        """The tracker's epoch, higher than any before."""
        with self._rows.lock:
            self._rows.epoch += 1
            self._epoch = self._rows.epoch
            return self._epoch

    def load(self) -> StoreContents:
        """What is kept."""
        rows = self._rows
        with rows.lock:
            return StoreContents(
                leases=tuple(rows.leases.values()),
                devices=tuple(rows.devices.values()),
                agents=tuple(rows.agents.values()),
                tokens=tuple(rows.tokens.values()),
                joins=tuple(rows.joins.values()),
                ended=tuple(e.event for e in rows.events if e.event.what == ENDED)[-ENDS:],
            )

    def pace(self, batch: ChangeBatch) -> Pace:  # noqa: ARG002  # of the protocol
        """Instant, whatever it is."""
        return Pace.INSTANT

    def commit(self, batch: ChangeBatch, *, wait: bool = True) -> None:  # noqa: ARG002  # of the protocol
        """Apply `batch`; only the store that began last may."""
        rows = self._rows
        with rows.lock:
            if self._epoch == 0:
                raise StoreError("the memory store was not begun; call begin() first")
            if self._epoch != rows.epoch:
                raise StoreFencedError(
                    f"tracker {rows.epoch} has begun on this store after tracker {self._epoch}; "
                    "only the newest may write"
                )
            for device, upto in batch.epochs.items():
                old = rows.devices.get(device, DeviceRow(device, 0, Admin.ENABLED))
                rows.devices[device] = replace(old, epochs=max(upto, old.epochs))
            for device, row in batch.admins.items():
                epochs = rows.devices[device].epochs if device in rows.devices else 0
                rows.devices[device] = replace(row, epochs=max(epochs, row.epochs))
            for lease, kept in batch.leases.items():
                if kept is None:
                    rows.leases.pop(lease, None)
                else:
                    rows.leases[lease] = kept
            rows.agents.update(batch.agents)
            rows.tokens.update(batch.tokens)
            rows.joins.update(batch.joins)
            for event in batch.events:
                rows.last_event += 1
                rows.events.append(Logged(rows.last_event, event))
            while len(rows.events) > self._keep:
                rows.events.popleft()

    def reopen(self) -> None:
        """Nothing to do: memory does not fail."""

    def events(self, after: int, limit: int) -> tuple[Logged, ...]:
        """At most `limit` events with ids over `after`, oldest first."""
        with self._rows.lock:
            found = [logged for logged in self._rows.events if logged.id > after]
        return tuple(found[:limit])

    def close(self) -> None:
        """Nothing is held."""

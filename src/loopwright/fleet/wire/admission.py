"""In which order connections that are half-open are let in: no I/O, times are arguments.

A guest is *silent* until its first bytes are there, then *served* (its handshake goes on), or it
waits for a place to be. Silent ones cost a descriptor, and make room for newcomers, the oldest
first. Who is being served is never put out for another, only at its deadline; so many of one host
and so many in all are served at once that each has a fair part of the processor, and the others
wait in the order in which they spoke. A host that has its share keeps nobody of another waiting.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Guest(Protocol):
    """A connection that is half-open. `host` is empty where there is no limit on one host."""

    host: str
    deadline: float


G = TypeVar("G", bound=Guest)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How many half-open connections there may be, and for how long, in seconds.

    `total` and `per_host` are limits on those that are silent, and again on those that are served.
    """

    total: int
    per_host: int
    waiting: int
    silent_s: float
    served_s: float
    waiting_s: float


class Admission(Generic[G]):
    """The guests of a listener. Each group is in the order in which its deadlines come."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._silent: OrderedDict[G, None] = OrderedDict()
        self._waiting: OrderedDict[G, None] = OrderedDict()
        self._served: OrderedDict[G, None] = OrderedDict()
        self._served_of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._silent) + len(self._waiting) + len(self._served)

    @property
    def guests(self) -> tuple[G, ...]:
        """All of them."""
        return (*self._silent, *self._waiting, *self._served)

    @property
    def due(self) -> float | None:
        """When the first of them is overdue."""
        groups = (self._silent, self._waiting, self._served)
        return min((next(iter(group)).deadline for group in groups if group), default=None)

    def crowded_by(self, host: str) -> G | None:
        """The oldest silent guest, if a newcomer from `host` is to have its place."""
        same = [guest for guest in self._silent if guest.host == host] if host else []
        if len(same) >= self._limits.per_host:
            return same[0]
        if len(self._silent) >= self._limits.total:
            return next(iter(self._silent))
        return None

    def oldest_silent(self) -> G | None:
        """The guest that has said nothing for longest."""
        return next(iter(self._silent), None)

    def came(self, guest: G, now: float) -> None:
        """A newcomer, which has said nothing yet."""
        guest.deadline = now + self._limits.silent_s
        self._silent[guest] = None

    def spoke(self, guest: G, now: float) -> bool:
        """A silent guest says something; False when there is no room even to wait."""
        del self._silent[guest]
        if len(self._waiting) >= self._limits.waiting:
            return False
        guest.deadline = now + self._limits.waiting_s
        self._waiting[guest] = None
        return True

    def next(self, now: float) -> G | None:
        """The guest to be served now, if there is room for one that waits."""
        if len(self._served) >= self._limits.total:
            return None
        for guest in self._waiting:
            if not guest.host or self._served_of[guest.host] < self._limits.per_host:
                del self._waiting[guest]
                guest.deadline = now + self._limits.served_s
                self._served[guest] = None
                self._served_of[guest.host] += 1
                return guest
        return None

    def waits(self, guest: G) -> bool:
        """Whether a guest has spoken and is not served yet."""
        return guest in self._waiting

    def left(self, guest: G) -> None:
        """A guest is half-open no longer."""
        self._silent.pop(guest, None)
        self._waiting.pop(guest, None)
        if guest in self._served:
            del self._served[guest]
            self._served_of[guest.host] -= 1
            if not self._served_of[guest.host]:
                del self._served_of[guest.host]

    def overdue(self, now: float) -> list[G]:
        """The guests whose deadlines have passed."""
        groups = (self._silent, self._waiting, self._served)
        return [guest for group in groups for guest in group if guest.deadline <= now]

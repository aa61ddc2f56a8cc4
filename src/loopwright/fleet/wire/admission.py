"""In which order connections that are half-open are let in: no I/O, times are arguments.

A guest is *silent* until its first bytes are there, then *served* (its handshake goes on), or it
waits for a place to be. Silent ones cost a descriptor. Where there are more than the limits allow,
the oldest is *crowded*: it goes as soon as it has had time for its first bytes. Who is being served
is never put out for another, only at its deadline; so many of one host and so many in all are
served at once that each has a fair part of the processor, and the others wait in the order in which
they spoke. A host that has its share keeps nobody of another waiting.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from loopwright.fleet.wire.faults import Fault


class Guest(Protocol):
    """A connection that is half-open. `host` is empty where there is no limit on one host."""

    host: str
    came: float
    deadline: float


G = TypeVar("G", bound=Guest)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How many half-open connections there may be, and for how long, in seconds.

    `total` and `per_host` are limits on those that are silent, and again on those that are served.
    Crowded ones have `speak_s` for their first bytes, unless there are `crowded` of them.
    """

    total: int
    per_host: int
    crowded: int
    waiting: int
    speak_s: float
    silent_s: float
    served_s: float
    waiting_s: float


class Admission(Generic[G]):
    """The guests of a listener. All groups but the crowded are in the order of their deadlines."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._silent: OrderedDict[G, None] = OrderedDict()
        self._crowded: OrderedDict[G, Fault] = OrderedDict()
        self._waiting: OrderedDict[G, None] = OrderedDict()
        self._served: OrderedDict[G, None] = OrderedDict()
        self._served_of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._silent) + len(self._crowded) + len(self._waiting) + len(self._served)

    @property
    def guests(self) -> tuple[G, ...]:
        """All of them."""
        return (*self._silent, *self._crowded, *self._waiting, *self._served)

    @property
    def due(self) -> float | None:
        """When the first of them is overdue."""
        groups = (self._silent, self._waiting, self._served)
        firsts = [next(iter(group)).deadline for group in groups if group]
        return min((*firsts, *(guest.deadline for guest in self._crowded)), default=None)

    def oldest_silent(self) -> G | None:
        """A guest that has said nothing for long."""
        return next(iter(self._crowded), next(iter(self._silent), None))

    def came(self, guest: G, now: float) -> None:
        """A newcomer, which has said nothing yet. Older ones may be overdue because of it."""
        limits = self._limits
        same = [other for other in self._silent if other.host == guest.host] if guest.host else []
        if len(same) >= limits.per_host:
            self._crowd(same[0], Fault.PER_HOST)
        if len(self._silent) >= limits.total:
            self._crowd(next(iter(self._silent)), Fault.EVICTED)
        if len(self._crowded) > limits.crowded:
            next(iter(self._crowded)).deadline = now
        guest.came, guest.deadline = now, now + limits.silent_s
        self._silent[guest] = None

    def _crowd(self, guest: G, fault: Fault) -> None:
        del self._silent[guest]
        self._crowded[guest] = fault
        guest.deadline = min(guest.deadline, guest.came + self._limits.speak_s)

    def spoke(self, guest: G, now: float) -> bool:
        """A silent guest says something; False when there is no room even to wait."""
        self._silent.pop(guest, None)
        self._crowded.pop(guest, None)
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

    def left(self, guest: G) -> None:
        """A guest is half-open no longer."""
        self._silent.pop(guest, None)
        self._crowded.pop(guest, None)
        self._waiting.pop(guest, None)
        if guest in self._served:
            del self._served[guest]
            self._served_of[guest.host] -= 1
            if not self._served_of[guest.host]:
                del self._served_of[guest.host]

    def overdue(self, now: float) -> list[G]:
        """The guests whose deadlines have passed."""
        return [guest for guest in self.guests if guest.deadline <= now]

    def silent(self, guest: G) -> bool:
        """Whether a guest has said nothing, as far as anybody looked."""
        return guest in self._silent or guest in self._crowded

    def fault_of(self, guest: G) -> Fault:
        """Why a guest goes that is overdue."""
        if guest in self._waiting:
            return Fault.TOO_MANY
        return self._crowded.get(guest, Fault.HANDSHAKE_TIMEOUT)

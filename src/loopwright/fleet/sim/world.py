"""A simulated fleet around a LeaseBook: virtual time, a network that loses, a store that fails.

Everything that happens is an event in one heap: `World.after(delay, what, ...)`. Chance comes from
one seeded generator, so a seed is a run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace as replace_fields

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.effects import (
    DURABLE,
    Effect,
    EndLease,
    GrantedLease,
    ReserveEpochs,
    SaveDevice,
    SaveLease,
    TellDesired,
    TellGranted,
)
from loopwright.fleet.book.events import (
    DeviceRow,
    EpochsReserved,
    Event,
    LeaseRow,
    Restored,
    StoreDown,
    StoreUp,
    Tick,
)
from loopwright.fleet.book.state import BookState
from loopwright.fleet.sim.checker import FleetChecker, Labelled
from loopwright.fleet.words import Admin, EndReason

_DRAWN = 4096
_WHOLE_EVERY = 512


@dataclass(frozen=True, slots=True)
class SimConfig:
    """How large a simulated fleet is, and how bad its luck. Rates are per simulated second."""

    agents: int = 3
    devices: int = 2  # of each agent
    clients: int = 4
    drop: float = 0.03
    duplicate: float = 0.03
    latency_s: float = 0.02  # on average; messages overtake each other
    fault_rate: float = 0.15
    hold_s: float = 4.0
    ttl_s: float = 12.0
    fences: bool = True  # devices refuse tickets below an order's fence, not only used epochs
    book: BookConfig = field(default_factory=BookConfig)


class Draw:
    """Random numbers, drawn many at a time."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._drawn: list[float] = []

    def __call__(self) -> float:
        """A number within 0 to 1."""
        if not self._drawn:
            self._drawn = self._rng.random(_DRAWN).tolist()
        return self._drawn.pop()

    def below(self, limit: int) -> int:
        """A whole number from 0 on below `limit`."""
        return int(self() * limit)


@dataclass(slots=True)
class SimStore:
    """What survives the tracker. `undo` holds the newest lease rows' changes, not yet synced."""

    epochs: dict[str, int] = field(default_factory=dict)
    admins: dict[str, tuple[Admin, str]] = field(default_factory=dict)
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    ended: dict[str, EndReason] = field(default_factory=dict)  # as the log has it
    undo: deque[tuple[str, LeaseRow | None]] = field(default_factory=lambda: deque(maxlen=8))

    def write(self, effect: Effect) -> None:
        """Make one durable effect so."""
        if isinstance(effect, ReserveEpochs):
            self.epochs[effect.device] = max(effect.upto, self.epochs.get(effect.device, 0))
        elif isinstance(effect, SaveDevice):
            self.admins[effect.row.device] = (effect.row.admin, effect.row.why)
        elif isinstance(effect, SaveLease):
            self.undo.append((effect.row.lease, self.leases.get(effect.row.lease)))
            self.leases[effect.row.lease] = effect.row
        elif isinstance(effect, EndLease):
            self.undo.append((effect.lease, self.leases.get(effect.lease)))
            self.leases.pop(effect.lease, None)
            self.ended[effect.lease] = effect.reason

    def lose_tail(self, count: int) -> None:
        """The last `count` changes of lease rows were not synced when the power went."""
        for _ in range(min(count, len(self.undo))):
            lease, before = self.undo.pop()
            self.ended.pop(lease, None)
            if before is None:
                self.leases.pop(lease, None)
            else:
                self.leases[lease] = before

    def rows(self) -> Restored:
        """What a tracker finds at its start."""
        devices = tuple(
            DeviceRow(name, upto, *self.admins.get(name, (Admin.ENABLED, "")))
            for name, upto in self.epochs.items()
        )
        return Restored(tuple(self.leases.values()), devices, (), tuple(self.ended.items()))


class WorldDevice(Labelled, Protocol):
    """A device as clients reach it."""

    def open(self, given: GrantedLease) -> bool:
        """A client shows a ticket; whether it has a session now."""

    def close(self, epoch: int) -> None:
        """A client is done."""


class WorldAgent(Protocol):
    """An agent as the world reaches it."""

    name: str
    connected: bool

    @property
    def by_name(self) -> Mapping[str, WorldDevice]:
        """Its devices."""

    def follow(self, told: TellDesired, life: int) -> None:
        """Orders of the tracker came."""


class WorldClient(Protocol):
    """A client as the world reaches it."""

    connected: bool

    def hear(self, effect: Effect, to: str, life: int) -> None:
        """The tracker says something to its process `to`."""


class World:
    """Time, the network, and the tracker with its store."""

    def __init__(
        self, config: SimConfig, seed: int, book_of: Callable[[BookConfig], LeaseBook]
    ) -> None:
        self.config = config
        self.draw = Draw(seed)
        self.book_of = book_of
        self.now = 0.0
        self.steps = 0
        self.checker = FleetChecker()
        self.store = SimStore()
        self.agents: dict[str, WorldAgent] = {}
        self.clients: dict[str, WorldClient] = {}
        self.calm = False  # no more faults
        self.life = 0  # of the tracker: what was under way to an older one is lost
        self.up = False
        self.paused_until = 0.0
        self.settled_at = 0.0  # until then a tracker waits for devices of before
        self.store_fails = False
        self.registered: set[str] = set()  # devices that this tracker was told of
        self.joined: set[str] = set()  # agents that may connect: the store knows them before it
        self.book: LeaseBook | None = None
        self.state: BookState | None = None
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._counter = 0
        self._tick_at = float("inf")
        self._uncommitted: list[tuple[Effect, ...]] = []
        self._committing = False
        self._owed: list[Effect] = []  # durable effects that a failing store did not take
        self._inbox: list[Event] = []  # what arrived while the tracker was paused

    # --- time ---

    def after(self, delay: float, what: Callable[..., None], *args: object) -> None:
        """Have something happen `delay` seconds from now."""
        self._counter += 1
        heapq.heappush(self._heap, (self.now + delay, self._counter, what, args))

    def run(self, steps: int) -> None:
        """Let `steps` things happen."""
        heap, checker = self._heap, self.checker
        pop = heapq.heappop
        until = self.steps + steps
        while self.steps < until and heap:
            self.now, _, what, args = pop(heap)
            checker.now = self.now
            self.steps += 1
            what(*args)
            if self.steps % _WHOLE_EVERY == 0 and self.state is not None:
                checker.whole(self.state, self.known_devices)

    def run_until(self, time: float) -> None:
        """Let everything happen up to a time."""
        while self._heap and self._heap[0][0] <= time:
            self.run(1)

    @property
    def known_devices(self) -> int:
        """How many devices this tracker must know: those the store or an agent told it of."""
        return len(self.store.epochs.keys() | self.registered)

    def _wanted_devices(self) -> list[WorldDevice]:
        """The devices of all agents that may connect but those that are retired."""
        admins = self.store.admins
        return [
            device
            for agent in self.agents.values()
            if agent.name in self.joined
            for device in agent.by_name.values()
            if admins.get(device.name, (Admin.ENABLED, ""))[0] is not Admin.RETIRED
        ]

    # --- the network ---

    def to_tracker(self, event: Event) -> None:
        """Send to the tracker over a network that loses, doubles and reorders."""
        if not self.up:
            return
        for _ in range(self._copies()):
            self.after(self.latency(), self._arrive, self.life, event)

    def deliver(self, event: Event) -> None:
        """Have an event reach the tracker that runs now, in its time, once."""
        if self.up:
            self.after(self.latency(), self._arrive, self.life, event)

    def send(self, what: Callable[..., None], *args: object) -> None:
        """Have a message reach somebody other than the tracker."""
        for _ in range(self._copies()):
            self.after(self.latency(), what, *args)

    def latency(self) -> float:
        """How long a message takes: mostly short, now and then very long."""
        u = self.draw()
        return self.config.latency_s * (0.2 + u + (60.0 * u if u > 0.99 and not self.calm else 0))

    def _copies(self) -> int:
        if self.calm:
            return 1
        u = self.draw()
        if u < self.config.drop:
            return 0
        return 2 if u > 1 - self.config.duplicate else 1

    # --- the tracker ---

    def start_tracker(self) -> None:
        """A tracker begins with what the store has."""
        self.life += 1
        self.up = True
        self.paused_until = 0.0
        self.store_fails = False
        self._tick_at = float("inf")
        self.registered.clear()
        self.book = self.book_of(replace(self.config.book, prefix=f"t{self.life}-"))
        self.state = self.book._state  # the checker looks inside
        rows = replace_fields(self.store.rows(), agents=tuple(sorted(self.joined)))
        self.checker.restarted(rows)
        self.settled_at = self.now + self.config.book.settle_s
        self.apply(rows)

    def kill_tracker(self, down_s: float, lost_rows: int) -> None:
        """The tracker dies, with the newest rows if the power went, and is started again."""
        if not self.up:
            return
        self.up = False
        self.life += 1
        self.book = self.state = None
        self._uncommitted.clear()
        self._owed.clear()
        self._inbox.clear()
        self._committing = False
        self.store.lose_tail(lost_rows)
        self.after(down_s, self.start_tracker)
        for agent in self.agents.values():
            agent.connected = False
        for client in self.clients.values():
            client.connected = False

    def pause_tracker(self, length_s: float) -> None:
        """The tracker's process is stopped for a while; what arrives waits in its sockets."""
        if self.up:
            self.paused_until = self.now + length_s
            self.after(length_s, self._resume, self.life)

    def _resume(self, life: int) -> None:
        if life != self.life or self.now < self.paused_until:
            return
        waiting, self._inbox = self._inbox, []
        for event in waiting:
            self.apply(event)

    def fail_store(self, length_s: float) -> None:
        """The store cannot be written for a while."""
        if self.up and not self.store_fails:
            self.store_fails = True
            self.after(length_s, self._mend_store, self.life)

    def _mend_store(self, life: int) -> None:
        if life != self.life:
            return
        self.store_fails = False
        owed, self._owed = self._owed, []
        for effect in owed:
            self._write(effect)
        if self.book is not None and self.book.read_only:
            self.apply(StoreUp())

    def _arrive(self, life: int, event: Event) -> None:
        if life != self.life or not self.up:
            return
        if self.now < self.paused_until:
            self._inbox.append(event)
        else:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Tell the book, check what it says, and have it done."""
        book, state, checker = self.book, self.state, self.checker
        if book is None or state is None:
            return
        effects = book.apply(event, self.now)
        checker.applied(state, event, effects)
        checker.no_lost_wakeup(state)
        if self.now < self.settled_at:
            checker.not_hopeless(state, event, effects, self._wanted_devices())
        if effects:
            if self._uncommitted or any(isinstance(e, DURABLE) for e in effects):
                self._uncommitted.append(effects)
                if not self._committing:
                    self._committing = True
                    self.after(0.008 * self.draw(), self._commit, self.life)
            else:
                self._tell(effects)
        due = book.deadline
        if due is not None and due < self._tick_at:
            self._tick_at = due
            self.after(max(0.0, due - self.now), self._tick, self.life, due)

    def _tick(self, life: int, due: float) -> None:
        if life != self.life or due != self._tick_at:
            return
        self._tick_at = float("inf")
        self._arrive(life, Tick())

    def _commit(self, life: int) -> None:
        """One transaction for all that was queued meanwhile; then what waited for it is told."""
        if life != self.life:
            return
        self._committing = False
        batches, self._uncommitted = self._uncommitted, []
        if self.store_fails:
            self._commit_fails(batches)
            return
        for effects in batches:
            for effect in effects:
                self._write(effect)
        for effects in batches:
            self._tell(effects)

    def _write(self, effect: Effect) -> None:
        self.store.write(effect)
        if isinstance(effect, ReserveEpochs):
            self.deliver(EpochsReserved(effect.device, effect.upto))

    def _commit_fails(self, batches: list[tuple[Effect, ...]]) -> None:
        lost = []
        for effects in batches:
            for effect in effects:
                if isinstance(effect, SaveLease):
                    lost.append(effect.row.lease)
                elif isinstance(effect, DURABLE):
                    self._owed.append(effect)
            self._tell(tuple(e for e in effects if not isinstance(e, TellGranted)))
        if lost or (self.book is not None and not self.book.read_only):
            self.apply(StoreDown("disk full", tuple(lost)))

    def _tell(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, TellDesired):
                agent = self.agents.get(effect.agent)
                if agent is not None:
                    self.send(agent.follow, effect, self.life)
            elif isinstance(effect, TellGranted):
                self.checker.granted(effect)
                self._to_client(effect.client, effect)
            elif hasattr(effect, "client"):
                self._to_client(effect.client, effect)

    def _to_client(self, name: str, effect: Effect) -> None:
        client = self.clients.get(name.partition(".")[0])
        if client is not None:
            self.send(client.hear, effect, name, self.life)

"""A book under load: how long an event takes with so many devices and requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.effects import ReserveEpochs, TellGranted
from loopwright.fleet.book.events import (
    AgentUp,
    DeviceSpec,
    EpochsReserved,
    Event,
    GiveBack,
    Renewal,
    ReportedState,
    Requested,
    Synced,
)
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.words import Health, Occupancy

_PER_AGENT = 100
_BOARDS = 10
_TENANTS = 16


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What was measured. An event is one `apply`; a cycle is five: asked for by one request more
    than there are devices, opened, renewed, given back, and clean again, which serves the next.
    """

    devices: int
    waiting: int
    cycles: int
    events: int
    events_per_s: float
    us_per_event: float


class Rig:
    """A book with `devices`, all of them leased, and `waiting` requests."""

    def __init__(self, devices: int, waiting: int) -> None:
        self.book = LeaseBook(BookConfig(max_queued=waiting + devices + 10))
        self.now = 0.0
        self.asked = 0
        self.seq = 0
        self.held: list[tuple[str, str, int, str]] = []  # lease, device, epoch, tenant
        names = [f"h{i // _PER_AGENT}/cpu{i % _PER_AGENT}" for i in range(devices)]
        for start in range(0, devices, _PER_AGENT):
            agent = f"h{start // _PER_AGENT}"
            mine = names[start : start + _PER_AGENT]
            specs = tuple(
                DeviceSpec(name, {"board": f"b{number % _BOARDS}", "host": agent})
                for number, name in enumerate(mine)
            )
            self.tell(AgentUp(agent, "1", specs))
            self.tell(Synced(agent, "1", 0, tuple(map(_idle, mine))))
        for _ in range(devices + waiting):
            self.ask(self.asked % _BOARDS if devices >= _BOARDS else 0)

    def tell(self, event: Event) -> None:
        """Apply an event, and answer for the store."""
        for effect in self.book.apply(event, self.now):
            if isinstance(effect, TellGranted):
                given = effect.given[0]
                self.held.append((given.lease, given.device, given.epoch, effect.tenant))
            elif isinstance(effect, ReserveEpochs):
                self.book.apply(EpochsReserved(effect.device, effect.upto), self.now)

    def ask(self, board: int) -> None:
        """One more request."""
        self.asked += 1
        tenant = f"t{self.asked % _TENANTS}"
        self.tell(
            Requested(
                request=f"r{self.asked}",
                client=f"c{self.asked % 64}",
                tenant=tenant,
                asked=LeaseRequest(selector=f"board=b{board}", ttl_s=3000.0),
            )
        )

    def events(self, cycles: int) -> Iterator[Event]:
        """The events of so many cycles; each is applied before the next is asked for."""
        for cycle in range(cycles):
            lease, device, epoch, tenant = self.held[cycle]
            agent = device.partition("/")[0]
            board = int(device.partition("cpu")[2]) % _BOARDS
            self.asked += 1
            request, client = f"r{self.asked}", f"c{self.asked % 64}"
            yield Requested(
                request=request,
                client=client,
                tenant=f"t{self.asked % _TENANTS}",
                asked=LeaseRequest(selector=f"board=b{board}", ttl_s=3000.0),
            )
            self.seq += 1
            active = ReportedState(
                device=device,
                occupancy=Occupancy.ACTIVE,
                health=Health.GOOD,
                lease=lease,
                epoch=epoch,
                last_epoch=epoch,
            )
            yield Synced(agent, "1", self.seq, (active,))
            yield Renewal(lease, epoch, client, tenant)
            yield GiveBack(lease, epoch, client, tenant)
            self.seq += 1
            yield Synced(agent, "1", self.seq, (_idle(device, epoch),))


def load(devices: int, waiting: int, cycles: int, clock: Callable[[], float]) -> LoadFigures:
    """Time the events of `cycles` lease cycles, in a book of this size."""
    rig = Rig(devices, waiting)
    spent, count = 0.0, 0
    for event in rig.events(cycles):
        begin = clock()
        rig.tell(event)
        spent += clock() - begin
        count += 1
    return LoadFigures(devices, waiting, cycles, count, count / spent, 1e6 * spent / count)


def _idle(name: str, last: int = 0) -> ReportedState:
    return ReportedState(
        device=name,
        occupancy=Occupancy.IDLE,
        health=Health.GOOD,
        lease="",
        epoch=0,
        last_epoch=last,
    )


def measure(cycles: int = 5_000) -> tuple[LoadFigures, ...]:
    """Books of 10 to 10,000 devices, each with as many requests that wait, and 10,000."""
    clock = time.perf_counter
    sizes = ((10, 10), (10, 10_000), (1_000, 1_000), (10_000, 10), (10_000, 10_000))
    return tuple(load(devices, waiting, cycles, clock) for devices, waiting in sizes)

"""A LeaseBook whose clock the test moves, devices that are ready, short words to tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.book.effects import (
    DesiredState,
    Effect,
    EndLease,
    GrantedLease,
    ReserveEpochs,
    TellDesired,
    TellGranted,
    TellQueued,
    TellRefused,
    TellRenewed,
)
from loopwright.fleet.book.events import (
    AdminSet,
    AgentUp,
    DeviceSpec,
    EpochsReserved,
    Event,
    GiveBack,
    Renewal,
    ReportedState,
    Requested,
    Synced,
    Tick,
)
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.words import Admin, EndReason, Health, Occupancy, Verdict

EffectT = TypeVar("EffectT", bound=Effect)


class Bench:
    """A book and what it said last. The store answers at once, unless `store` is false."""

    def __init__(self, config: BookConfig | None = None, *, store: bool = True) -> None:
        self.reserved: dict[str, int] = {}  # device -> how far its epochs are durable
        self.config = BookConfig() if config is None else config
        self.book = LeaseBook(self.config)
        self.now = 0.0
        self.store = store
        self.seq: dict[str, int] = {}
        self.incarnation: dict[str, str] = {}
        self.effects: list[Effect] = []
        self.asked = 0
        self.reports_at = self.config.sync_s

    def tell(self, event: Event) -> list[Effect]:
        """What comes of an event, after the store has answered."""
        said = list(self.book.apply(event, self.now))
        if self.store:
            for effect in list(said):
                if isinstance(effect, ReserveEpochs):
                    answer = EpochsReserved(effect.device, effect.upto)
                    self.reserved[effect.device] = effect.upto
                    said += self.book.apply(answer, self.now)
        self.effects = said
        return said

    def said(self, kind: type[EffectT]) -> list[EffectT]:
        """The effects of a kind that came of the last event."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def wait(self, seconds: float, *, agents: bool = True) -> list[Effect]:
        """Let time pass; agents report every two seconds meanwhile, that nothing changed."""
        until, said = self.now + seconds, []
        reports_at = max(self.reports_at, self.now)
        while self.now < until:
            due = self.book.deadline
            times = [until] + ([reports_at] if agents else [])
            if due is not None and due > self.now:
                times.append(due)
            self.now = min(times)
            said += self.tell(Tick())
            if agents and self.now >= reports_at:
                reports_at += self.config.sync_s
                for agent in self.incarnation:
                    self.seq[agent] += 1
                    said += self.tell(self.synced(agent))
        self.reports_at = reports_at
        self.effects = said
        return said

    # --- agents ---

    def synced(self, agent: str, *reports: ReportedState) -> Synced:
        """A report of an agent, with the seq that it has by now."""
        return Synced(agent, self.incarnation[agent], self.seq[agent], reports)

    def up(self, agent: str, *specs: DeviceSpec | str, incarnation: str = "1") -> list[Effect]:
        """An agent connects; a device given by name is of board `x`."""
        self.incarnation[agent] = incarnation
        self.seq.setdefault(agent, 0)
        full = tuple(
            DeviceSpec(s, {"board": "x", "name": s}) if isinstance(s, str) else s for s in specs
        )
        return self.tell(AgentUp(agent, incarnation, full))

    def report(
        self,
        device: str,
        occupancy: Occupancy = Occupancy.IDLE,
        health: Health = Health.GOOD,
        *,
        lease: str = "",
        epoch: int = 0,
        last: int = 0,
        drift: float = 0.0,
    ) -> list[Effect]:
        """One device of an agent reports."""
        agent = device.partition("/")[0]
        self.seq[agent] += 1
        told = ReportedState(
            device=device,
            occupancy=occupancy,
            health=health,
            lease=lease,
            epoch=epoch,
            last_epoch=max(last, epoch),
            drift=drift,
        )
        return self.tell(self.synced(agent, told))

    def report_of(self, agent: str, device: str) -> list[Effect]:
        """An agent reports a device that is not named after it."""
        self.seq[agent] += 1
        return self.tell(
            self.synced(
                agent, ReportedState(device=device, occupancy=Occupancy.IDLE, health=Health.GOOD)
            )
        )

    def ready(self, *devices: str, **labels: str) -> None:
        """Devices that may be granted, each of an agent that is named before the slash."""
        agents: dict[str, list[DeviceSpec]] = {}
        for device in devices:
            spec = DeviceSpec(device, {"board": "x", **labels, "name": device})
            agents.setdefault(device.partition("/")[0], []).append(spec)
        for agent, specs in agents.items():
            self.up(agent, *specs)
        for device in devices:
            self.report(device)

    def order(self, device: str) -> DesiredState:
        """What the device was told last by the last event."""
        orders = [o for told in self.said(TellDesired) for o in told.orders if o.device == device]
        return orders[-1]

    # --- clients ---

    def want(
        self,
        selector: str = "",
        *,
        request: str = "",
        client: str = "c",
        tenant: str = "t",
        count: int = 1,
        ttl: float = 30.0,
        priority: int = 1,
        max_wait: float = 600.0,
        modules: Mapping[str, str] | None = None,
        token: str = "",
    ) -> str:
        """Ask for devices; returns the request's id."""
        self.asked += 1
        name = request or f"r{self.asked}"
        self.tell(
            Requested(
                request=name,
                client=client,
                tenant=tenant,
                asked=LeaseRequest(
                    selector=selector,
                    count=count,
                    ttl_s=ttl,
                    priority=priority,
                    max_wait_s=max_wait,
                    modules={} if modules is None else modules,
                ),
                token=token,
            )
        )
        return name

    def get(self, selector: str = "", **how: object) -> GrantedLease:
        """Ask for a device that is free; returns the grant."""
        self.want(selector, **how)  # type: ignore[arg-type]  # as want takes them
        return self.given[0]

    def use(self, selector: str = "", **how: object) -> GrantedLease:
        """Ask for a device that is free, and open it."""
        given = self.get(selector, **how)
        self.report(given.device, Occupancy.ACTIVE, epoch=given.epoch)
        return given

    def renew(self, given: GrantedLease, *, client: str = "c", tenant: str = "t") -> Verdict:
        """Renew a lease."""
        self.tell(Renewal(given.lease, given.epoch, client, tenant))
        return self.said(TellRenewed)[0].verdict

    def give_back(
        self, given: GrantedLease, *, client: str = "c", tenant: str = "t"
    ) -> list[Effect]:
        """Release a lease."""
        return self.tell(GiveBack(given.lease, given.epoch, client, tenant))

    def admin(self, device: str, admin: Admin, why: str = "") -> list[Effect]:
        """An operator says what a device is for."""
        return self.tell(AdminSet(device, admin, "op", why))

    # --- what was said ---

    @property
    def given(self) -> tuple[GrantedLease, ...]:
        """What was granted by the last event."""
        return tuple(given for told in self.said(TellGranted) for given in told.given)

    @property
    def granted(self) -> list[str]:
        """The requests that were granted by the last event."""
        return [told.request for told in self.said(TellGranted)]

    @property
    def ended(self) -> list[tuple[str, EndReason]]:
        """The leases that ended by the last event, with their reasons."""
        return [(end.lease, end.reason) for end in self.said(EndLease)]

    @property
    def refused(self) -> list[TellRefused]:
        """The requests that were refused by the last event."""
        return self.said(TellRefused)

    @property
    def queued(self) -> list[TellQueued]:
        """The requests that were told to wait by the last event."""
        return self.said(TellQueued)

    def explain(self, subject: str) -> str:
        """The sentence about a lease or request."""
        found = self.book.explain(subject, self.now)
        return "" if found is None else found.text

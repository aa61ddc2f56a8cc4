"""One device of an agent: its health, its session and its runs, and what a tracker hears of it."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.fleet.agent.context import AgentContext, DeviceContext
from loopwright.fleet.agent.driver import Driver, DriverError, DriverFacts, calling
from loopwright.fleet.agent.modules import Modules
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.agent.probing import Prober
from loopwright.fleet.agent.running import ItemRunner
from loopwright.fleet.agent.serving import SessionSlot
from loopwright.fleet.agent.standing import Ended, Standing
from loopwright.fleet.security.tickets import Ticket
from loopwright.fleet.wire.link import Link
from loopwright.fleet.wire.messages import DeviceInfo, DeviceOrder, DeviceReport
from loopwright.fleet.words import RUNTIME, EndReason, Health, Occupancy

_TEMPERATURE_S = 1.0  # old enough to be read again for a report


class AgentDevice:
    """Runs in one event loop, from `start` to `close`."""

    def __init__(
        self, spec: DeviceOptions, driver: Driver, facts: DriverFacts, agent: AgentContext
    ) -> None:
        modules = Modules(
            agent.blobs,
            facts.modules.get(RUNTIME, b""),
            locked=agent.options.signed_only,
            native=RUNTIME in facts.takes,
        )
        self.spec = spec
        self.facts = facts
        self.driver = driver
        self.context = DeviceContext(spec, facts, driver, modules, agent)
        self.standing = Standing(spec.name, agent.incarnation)
        self.prober = Prober(self.context)
        self.runner = ItemRunner(self.context, self.standing, self.prober)
        self.slot = SessionSlot(self.context, self.standing, self.prober, self.runner, self.info)

    # --- what it says of itself ---

    @property
    def health(self) -> Health:
        """Whether it does its work; `detail` says more."""
        return self.prober.health

    @property
    def detail(self) -> str:
        """Why its health is what it is."""
        return self.prober.detail

    @property
    def modules(self) -> Mapping[str, str]:
        """The modules that are in place: kind -> digest."""
        return self.context.modules.in_place()

    @property
    def superseded(self) -> bool:
        """Whether another agent has this device."""
        return self.slot.superseded

    @property
    def occupancy(self) -> Occupancy:
        """What the device is doing."""
        if self.context.door.cleaning:
            return Occupancy.CLEANING
        if self.context.door.session is not None:
            return Occupancy.ACTIVE
        return Occupancy.RESERVED if self.standing.reserved else Occupancy.IDLE

    def info(self) -> DeviceInfo:
        """What the device is."""
        facts, agent = self.facts, self.context.agent
        host, _, _ = self.spec.name.partition("/")
        labels = {
            "kind": facts.kind,
            "host": host,
            **facts.labels,
            **agent.options.labels,
            **self.spec.labels,
            "name": self.spec.name,
        }
        if self.prober.unconfined:
            labels["unconfined"] = ",".join(self.prober.unconfined)
        return DeviceInfo(
            name=self.spec.name,
            labels=labels,
            target=facts.target,
            device=facts.device,
            cores=facts.cores,
            addresses=agent.addresses(),
            tier=int(self.prober.tier),
        )

    def report(self) -> DeviceReport:
        """How the device is now."""
        standing, taken = self.standing, self.context.door.taken
        return DeviceReport(
            name=self.spec.name,
            occupancy=self.occupancy.value,
            health=self.health.value,
            lease=standing.lease if taken else standing.reserved,
            epoch=standing.epoch if taken else 0,
            last_epoch=standing.last_epoch,
            drift=self.prober.canary.drift,
            temperature_c=self.prober.thermometer.celsius(_TEMPERATURE_S),
            detail=self.detail,
        )

    # --- life ---

    def start(self) -> None:
        """Begin to keep it able to work, and to probe it."""
        self.prober.start()

    async def close(self) -> None:
        """End everything that was started for it."""
        await self.prober.stop()
        await self.slot.stop(Ended(EndReason.DEVICE_LOST, "the agent stops"))
        with calling(self.facts.kind, "end"):
            await self.driver.close()

    def beat(self) -> None:
        """See that what it needs is there."""
        self.prober.beat()

    def tick(self) -> None:
        """End what has timed out."""
        ended = self.standing.tick(self.context.agent.clock())
        if ended is not None:
            self.slot.end(ended)
            self.context.agent.changed()

    def apply(self, order: DeviceOrder) -> None:
        """Do what the tracker wants."""
        agent = self.context.agent
        self.slot.superseded = False
        before = self.standing.reserved
        ended = self.standing.order(order, agent.clock(), agent.options.timers.open_s)
        if ended is not None:
            self.slot.end(ended)
        else:
            self._extend()
        if order.probe:
            self.prober.wanted.set()
        if ended is not None or before != self.standing.reserved:
            agent.changed()

    def _extend(self) -> None:
        try:
            self.runner.extend()
        except DriverError as error:
            self.prober.fault(error)

    def supersede(self) -> None:
        """Another agent has this device: end, and open no more."""
        self.slot.superseded = True
        self.slot.end(Ended(EndReason.DEVICE_LOST, "another agent has the device now"))

    async def serve(self, link: Link, ticket: Ticket) -> None:
        """Serve a session whose ticket was verified, until it is over."""
        await self.slot.serve(link, ticket)

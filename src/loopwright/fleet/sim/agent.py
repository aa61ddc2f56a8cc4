"""Simulated agents and devices. The device keeps the safety rule by itself."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.fleet.book.effects import DesiredState, GrantedLease, TellDesired
from loopwright.fleet.book.events import AgentDown, AgentUp, DeviceSpec, ReportedState, Synced
from loopwright.fleet.sim.world import World
from loopwright.fleet.words import Health, Occupancy

_BOARDS = ("rpi4", "zynq", "a100")


@dataclass(slots=True)
class SimSession:
    """A session on a device: it ends by itself at `expires`."""

    lease: str
    epoch: int
    expires: float


class SimDevice:
    """A device: accepts a session with its incarnation and an epoch above all before."""

    def __init__(self, world: World, agent: SimAgent, number: int) -> None:
        self.world = world
        self.agent = agent
        self.name = f"{agent.name}/cpu{number}"
        self.labels = {
            "board": _BOARDS[number % len(_BOARDS)],
            "host": agent.name,
            "name": self.name,
        }
        self.last = 0  # highest epoch accepted in this incarnation
        self.fence = 0
        self.session: SimSession | None = None
        self.cleaned: SimSession | None = None  # what it is cleaned of, unless the tracker ended it
        self.clean_at = 0.0
        self.health = Health.UNKNOWN
        self.well_at = float("inf")

    def reboot(self) -> None:
        """Its agent started anew: nothing is remembered, nothing runs."""
        self.end(clean_s=0.0)
        self.last = self.fence = 0
        self.health = Health.UNKNOWN
        self.well_at = float("inf")

    def look(self) -> None:
        """Do what is due by now."""
        now = self.world.now
        if self.session is not None and now >= self.session.expires:
            self.end()
        if now >= self.well_at:
            self.health = Health.GOOD
            self.well_at = float("inf")

    def end(self, clean_s: float | None = None) -> None:
        """End the session and clean up, which now and then takes far too long."""
        if self.session is None:
            return
        self.session, self.cleaned = None, self.session
        self.world.checker.closed(self.name)
        if clean_s is None:
            u = self.world.draw()
            clean_s = u if u < 0.99 or self.world.calm else 30.0 * u
        self.clean_at = self.world.now + clean_s

    def open(self, given: GrantedLease) -> bool:
        """A client shows a ticket; whether it has a session now."""
        self.look()
        agent, world = self.agent, self.world
        if not agent.runs() or given.incarnation != agent.incarnation:
            return False
        current = self.session
        if current is not None and current.epoch == given.epoch:
            return True
        if given.epoch <= self.last or (world.config.fences and given.epoch <= self.fence):
            return False
        self.end(clean_s=0.0)  # a higher epoch: the older session is killed and reaped first
        self.last = given.epoch
        self.session = SimSession(given.lease, given.epoch, world.now + given.ttl_s)
        world.checker.opened(self.name, given.lease, given.epoch)
        agent.soon()
        return True

    def close(self, epoch: int) -> None:
        """A client is done."""
        if self.session is not None and self.session.epoch == epoch and self.agent.runs():
            self.end()
            self.agent.soon()

    def follow(self, order: DesiredState) -> None:
        """Do as the tracker says; orders may be late, doubled or out of order."""
        self.look()
        self.fence = max(self.fence, order.fence)
        session = self.session
        if session is not None:
            if session.epoch <= self.fence:
                self.end()
                self.cleaned = None
                self.agent.soon()
            elif session.epoch == order.epoch:
                session.expires = self.world.now + order.ttl_s
        if order.probe and self.health is not Health.PROBING and session is None:
            self.health = Health.PROBING
            self.well_at = self.world.now + self.world.draw()
            self.agent.soon()

    def report(self) -> ReportedState:
        """How it is."""
        self.look()
        session = self.session
        if session is not None:
            return ReportedState(
                device=self.name,
                occupancy=Occupancy.ACTIVE,
                health=self.health,
                lease=session.lease,
                epoch=session.epoch,
                last_epoch=self.last,
            )
        if self.world.now >= self.clean_at:
            return ReportedState(
                device=self.name,
                occupancy=Occupancy.IDLE,
                health=self.health,
                lease="",
                epoch=0,
                last_epoch=self.last,
            )
        lease, epoch = ("", 0) if self.cleaned is None else (self.cleaned.lease, self.cleaned.epoch)
        return ReportedState(
            device=self.name,
            occupancy=Occupancy.CLEANING,
            health=self.health,
            lease=lease,
            epoch=epoch,
            last_epoch=self.last,
        )


class SimAgent:
    """The process that owns devices: reports, does as told, dies, is paused, is cut off."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"a{number}"
        self.boots = 0
        self.incarnation = ""
        self.alive = False
        self.connected = False
        self.paused_until = 0.0
        self.cut_until = 0.0  # from the tracker
        self.seq = 0
        self.turn = 0  # which of its scheduled turns counts
        self.devices = [SimDevice(world, self, i) for i in range(world.config.devices)]
        self.by_name = {device.name: device for device in self.devices}

    def start(self) -> None:
        """A new process."""
        if self.alive:
            return
        self.boots += 1
        self.incarnation = f"{self.name}.{self.boots}"
        self.alive = True
        self.connected = False
        self.paused_until = 0.0
        self.seq = 0
        for device in self.devices:
            device.reboot()
        self._turn_in(0.05 * self.world.draw())

    def kill(self, down_s: float) -> None:
        """`kill -9`: its sessions die with it; the tracker hears of it if it is connected."""
        if not self.alive:
            return
        self.alive = False
        for device in self.devices:
            device.end(clean_s=0.0)
        self._disconnect()
        self.world.after(down_s, self.start)

    def pause(self, length_s: float) -> None:
        """SIGSTOP and, later, SIGCONT."""
        self.paused_until = self.world.now + length_s
        self._turn_in(length_s)

    def cut(self, length_s: float) -> None:
        """No packet passes between it and the tracker."""
        self.cut_until = self.world.now + length_s

    def runs(self) -> bool:
        """Whether it can do anything now."""
        return self.alive and self.world.now >= self.paused_until

    def soon(self) -> None:
        """Something changed: report now instead of later."""
        self._turn_in(0.001)

    def _turn_in(self, delay: float) -> None:
        self.turn += 1
        self.world.after(delay, self._act, self.turn)

    def _act(self, turn: int) -> None:
        """Report, or connect first."""
        world = self.world
        if turn != self.turn or not self.alive:
            return
        if world.now < self.paused_until:
            self._turn_in(self.paused_until - world.now)
            return
        if world.now < self.cut_until:
            for device in self.devices:
                device.look()
        elif not self.connected:
            if world.up and world.now >= world.paused_until:
                self._connect()
        else:
            self._report()
        self._turn_in(self._next())

    def _next(self) -> float:
        if not self.connected:
            return 0.2 + self.world.draw()
        period = self.world.config.book.sync_s * (0.8 + 0.2 * self.world.draw())
        for device in self.devices:
            if device.session is None and device.clean_at > self.world.now:
                period = min(period, device.clean_at - self.world.now + 0.001)
            if device.well_at - self.world.now < period:
                period = max(0.001, device.well_at - self.world.now)
        return period

    def _connect(self) -> None:
        specs = tuple(DeviceSpec(device.name, device.labels) for device in self.devices)
        self.connected = True
        self.world.registered.update(self.by_name)
        self.world.joined.add(self.name)
        self.world.apply(AgentUp(self.name, self.incarnation, specs))
        self._report()

    def _disconnect(self) -> None:
        if self.connected and self.world.now >= self.cut_until:
            self.world.deliver(AgentDown(self.name, self.incarnation))
        self.connected = False

    def break_link(self) -> None:
        """Its connection is reset; it comes back by itself."""
        if self.alive:
            self._disconnect()
            self.soon()

    def _report(self) -> None:
        self.seq += 1
        reports = tuple(device.report() for device in self.devices)
        self.world.to_tracker(Synced(self.name, self.incarnation, self.seq, reports))

    def follow(self, told: TellDesired, life: int) -> None:
        """Orders came."""
        if (
            life != self.world.life
            or told.incarnation != self.incarnation
            or not self.runs()
            or self.world.now < self.cut_until
        ):
            return
        for order in told.orders:
            self.by_name[order.device].follow(order)

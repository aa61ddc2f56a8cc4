"""Simulated clients: they want devices, use them, renew, give back, die, sleep and replay."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace as replace_fields

from loopwright.fleet.book.effects import (
    Effect,
    GrantedLease,
    TellGranted,
    TellQueued,
    TellRefused,
    TellReleased,
    TellRenewed,
)
from loopwright.fleet.book.events import Cancelled, ClientDown, GiveBack, Renewal, Requested
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.sim.world import World, WorldDevice
from loopwright.fleet.words import Refusal, Role, Verdict

_SELECTORS = ("", "board=rpi4", "board in (zynq,a100)", "board!=rpi4", "host=a0", "board")


@dataclass(slots=True)
class Held:
    """A lease as its holder knows it: `good_until` counts from when the renewal was sent."""

    given: GrantedLease
    good_until: float
    done_at: float
    sent_at: float
    open: bool = False


class SimClient:
    """A client process; `life` tells its processes apart."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"c{number}"
        self.tenant = f"t{number % 3}"
        self.role = Role.USER if number % 2 else Role.OPERATOR
        self.life = 0
        self.links = 0
        self.tokens = 0
        self.alive = False
        self.connected = True
        self.paused_until = 0.0
        self.want: Requested | None = None
        self.asked_at = 0.0
        self.asks = 0
        self.held: dict[str, Held] = {}
        self.old: list[GrantedLease] = []  # tickets of before, to try again
        self.resting = False

    @property
    def id(self) -> str:
        """Its name to the tracker, another for each connection of each process."""
        return f"{self.name}.{self.life}.{self.links}"

    @property
    def token(self) -> str:
        """The id of the token that it comes with."""
        return f"{self.name}-{self.tokens}"

    def start(self) -> None:
        """A new process."""
        if not self.alive:
            self.life += 1
            self.alive = True
            self.want = None
            self.held.clear()
            self.world.after(self.world.draw(), self._act, self.life)

    def kill(self, down_s: float) -> None:
        """`kill -9`: devices see the end of the connection, and so does the tracker."""
        if not self.alive:
            return
        self.alive = False
        for held in self.held.values():
            device = self._device(held.given)
            self.world.send(device.close, held.given.epoch)
        self.world.deliver(ClientDown(self.id))
        self.world.after(down_s, self.start)

    def break_link(self) -> None:
        """Its connection with the tracker is reset; it comes back by itself."""
        if self.alive and self.connected:
            self.world.deliver(ClientDown(self.id))
            self.connected = False
            self.links += 1

    def pause(self, length_s: float) -> None:
        """SIGSTOP and, later, SIGCONT."""
        self.paused_until = self.world.now + length_s

    def _act(self, life: int) -> None:
        """Whatever is due."""
        world = self.world
        if life != self.life or not self.alive:
            return
        if world.now < self.paused_until:
            world.after(self.paused_until - world.now, self._act, life)
            return
        if not self.connected and world.up:
            self.connected = True
            self.asked_at = -1e9
            for held in self.held.values():
                held.sent_at = -1e9  # to be renewed now: that says that it is back
        for held in list(self.held.values()):
            self._keep(held)
        if self.old and world.draw() < 0.05:
            self._replay()
        if self.want is not None:
            self._wait(self.want)
        elif not self.resting and not self.held and world.draw() < 0.7:
            self._ask()
        world.after(0.2 + world.draw(), self._act, life)

    def _ask(self) -> None:
        draw, config = self.world.draw, self.world.config
        self.asks += 1
        count = 1 if draw() < 0.85 else 2
        self.want = Requested(
            request=f"{self.name}.{self.life}.r{self.asks}",
            client=self.id,
            tenant=self.tenant,
            asked=LeaseRequest(
                selector=_SELECTORS[draw.below(len(_SELECTORS))],
                count=count,
                ttl_s=config.ttl_s,
                priority=draw.below(4),
                max_wait_s=20.0 + 200.0 * draw(),
            ),
            token=self.token,
            role=self.role,
        )
        self.asked_at = self.world.now
        self.world.to_tracker(self.want)

    def _wait(self, want: Requested) -> None:
        draw, world = self.world.draw, self.world
        if draw() < 0.005:
            world.to_tracker(Cancelled(want.request, self.id))
            self.want = None
        elif world.now > self.asked_at + 4.0 and self.connected:
            self.asked_at = world.now
            world.to_tracker(replace_fields(want, client=self.id, token=self.token))

    def _keep(self, held: Held) -> None:
        """Use, renew, give back or give up a lease."""
        world, given = self.world, held.given
        if world.now >= held.good_until:
            self._drop(held)
        elif world.now >= held.done_at:
            device = self._device(given)
            world.send(device.close, given.epoch)
            self._drop(held)
            if self.connected:
                world.to_tracker(GiveBack(given.lease, given.epoch, self.id, self.tenant))
        else:
            if not held.open:
                world.send(self._knock, held, self.life)
            if self.connected and world.now >= held.sent_at + world.config.ttl_s / 3:
                held.sent_at = world.now
                who = (self.id, self.tenant, self.token)
                world.to_tracker(Renewal(given.lease, given.epoch, *who))

    def _knock(self, held: Held, life: int) -> None:
        if life == self.life and self.alive:
            held.open = self._device(held.given).open(held.given)

    def _replay(self) -> None:
        """Try a ticket of before: the device must not be harmed by it."""
        given = self.old[self.world.draw.below(len(self.old))]
        self._device(given).open(given)
        self._device(given).close(given.epoch)

    def _drop(self, held: Held) -> None:
        self.held.pop(held.given.lease, None)
        self.old.append(held.given)
        del self.old[:-4]

    def _device(self, given: GrantedLease) -> WorldDevice:
        return self.world.agents[given.agent].by_name[given.device]

    def hear(self, effect: Effect, to: str, life: int) -> None:
        """The tracker says something."""
        world = self.world
        if life != world.life or to != self.id or not self.alive or world.now < self.paused_until:
            return
        if isinstance(effect, TellGranted):
            self._granted(effect)
        elif isinstance(effect, TellQueued):
            if self.want is not None and effect.request == self.want.request:
                self.asked_at = world.now + 6.0
        elif isinstance(effect, TellRefused):
            if self.want is not None and effect.request == self.want.request:
                if effect.code is Refusal.BAD_REQUEST:
                    world.checker.wrong(f"request {effect.request}: {effect.detail}")
                self.want = None
        elif isinstance(effect, TellRenewed):
            self._renewed(effect)
        elif isinstance(effect, TellReleased):
            held = self.held.get(effect.lease)
            if held is not None:
                self._drop(held)

    def _granted(self, effect: TellGranted) -> None:
        world = self.world
        if self.want is None or effect.request != self.want.request:
            for given in effect.given:
                if given.lease not in self.held:
                    world.to_tracker(GiveBack(given.lease, given.epoch, self.id, self.tenant))
            return
        for given in effect.given:
            hold = world.config.hold_s * 2 * world.draw()
            held = Held(given, world.now + 0.8 * given.ttl_s, world.now + hold, world.now)
            self.held[given.lease] = held
            if world.draw() < 0.95:  # some never open what they got
                world.send(self._knock, held, self.life)
        self.want = None

    def _renewed(self, effect: TellRenewed) -> None:
        held = self.held.get(effect.lease)
        if held is None:
            return
        if effect.verdict is Verdict.GONE:
            self._drop(held)
        elif effect.verdict is Verdict.OK:
            held.good_until = held.sent_at + 0.8 * effect.ttl_s
        elif self.world.draw() < 0.8:  # some do not yield
            held.done_at = self.world.now

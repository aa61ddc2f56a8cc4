"""Simulated runs of a fleet around a LeaseBook, many seeds of them, checked at each step.

Faults are random: messages lost, doubled, late; agents, clients and the tracker killed, paused,
cut off, connections reset; the newest rows of the store lost, or the store full; devices slow to
clean; operators that drain, quarantine, revoke leases and tokens, and probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.config import BookConfig, LeaseLimits, TenantConfig
from loopwright.fleet.book.events import AdminSet, ProbeAsked, Revoked, TokenOver
from loopwright.fleet.sim.agent import SimAgent
from loopwright.fleet.sim.client import SimClient
from loopwright.fleet.sim.world import SimConfig, World
from loopwright.fleet.words import Admin, EndReason, Health, Priority, Role

_HEAL_S = 400.0


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What came of one run. `violations` is empty when all rules held."""

    seed: int
    steps: int
    simulated_s: float
    checks: int
    sessions: int
    granted: int
    ended: dict[EndReason, int]
    faults: dict[str, int]
    violations: tuple[str, ...]


def simulate(
    seed: int,
    steps: int,
    config: SimConfig = SimConfig(),  # noqa: B008  # it is frozen
    book_of: Callable[[BookConfig], LeaseBook] = LeaseBook,
) -> SimulationResult:
    """Run a fleet for `steps` random steps and faults, then heal it and see it recover."""
    world = World(config, seed, book_of)
    world.start_tracker()
    agents = [SimAgent(world, number) for number in range(config.agents)]
    world.agents.update((agent.name, agent) for agent in agents)
    for agent in agents:
        agent.start()
    clients = [SimClient(world, number) for number in range(config.clients)]
    world.clients.update((client.name, client) for client in clients)
    for client in clients:
        client.start()
    faults = _Faults(world, agents, clients)
    faults.next()
    world.run(steps)
    faults.heal()
    world.run_until(world.now + _HEAL_S)
    if world.state is None:
        world.checker.wrong("the tracker did not come back")
    else:
        world.checker.whole(world.state, world.known_devices)
        world.checker.healed(world.state)
    checker = world.checker
    ended = dict.fromkeys(EndReason, 0)
    for reason in checker.ended.values():
        ended[EndReason(reason)] += 1
    return SimulationResult(
        seed=seed,
        steps=world.steps,
        simulated_s=world.now,
        checks=checker.checks,
        sessions=checker.opens,
        granted=len(checker.ended) + len(checker.leased),
        ended=ended,
        faults=faults.counts,
        violations=tuple(checker.violations),
    )


def variant(seed: int) -> SimConfig:
    """A fleet whose size and luck differ from seed to seed, some tenants and roles held short."""
    few = TenantConfig(max_live=2)
    weights = {"t0": TenantConfig(weight=2.0), "t1": few if seed % 2 else TenantConfig()}
    brief = LeaseLimits(max_class=Priority.NORMAL, max_lease_s=10.0 if seed % 3 else math.inf)
    base = SimConfig()
    return SimConfig(
        agents=2 + seed % 3,
        devices=1 + seed % 4,
        clients=3 + seed % 6,
        drop=(0.0, 0.03, 0.15)[seed % 3],
        duplicate=(0.03, 0.0, 0.2)[(seed // 3) % 3],
        latency_s=(0.002, 0.02, 0.2)[(seed // 2) % 3],
        fault_rate=(0.05, 0.15, 0.4)[(seed // 5) % 3],
        hold_s=(0.5, 4.0, 15.0)[(seed // 7) % 3],
        fences=bool(seed % 2),
        book=replace(
            base.book, tenants=weights, roles={Role.USER: brief}, age_s=10.0, overdue_s=40.0
        ),
    )


class _Faults:
    """Bad luck and operators."""

    def __init__(
        self, world: World, agents: Sequence[SimAgent], clients: Sequence[SimClient]
    ) -> None:
        self.world = world
        self.agents = agents
        self.clients = clients
        self.counts: dict[str, int] = {}
        self.kinds: tuple[Callable[[], None], ...] = (
            self.kill_tracker,
            self.lose_power,
            self.pause_tracker,
            self.fill_disk,
            self.kill_agent,
            self.pause_agent,
            self.cut_agent,
            self.reset_agent,
            self.kill_client,
            self.pause_client,
            self.reset_client,
            self.revoke_token,
            self.kill_session,
            self.set_admin,
            self.revoke,
            self.probe,
            self.sicken,
        )

    def next(self) -> None:
        """Something goes wrong, and again after a while."""
        world = self.world
        if world.calm:
            return
        if world.now > 0:
            fault = self.kinds[world.draw.below(len(self.kinds))]
            self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
            fault()
        world.after(2 * world.draw() / world.config.fault_rate, self.next)

    def heal(self) -> None:
        """No more faults: all processes run, all devices are enabled, no client asks for more."""
        world = self.world
        world.calm = True
        for client in self.clients:
            client.resting = True
        for agent in self.agents:
            agent.cut_until = 0.0
        world.after(60.0, self._enable_all)

    def _enable_all(self) -> None:
        for agent in self.agents:
            for device in agent.devices:
                self.world.deliver(AdminSet(device.name, Admin.ENABLED, "sim"))

    def _length(self) -> float:
        """Mostly a moment, at times longer than any timer."""
        u = self.world.draw()
        return 8.0 * u if u < 0.8 else 60.0 * u

    def _agent(self) -> SimAgent:
        return self.agents[self.world.draw.below(len(self.agents))]

    def _client(self) -> SimClient:
        return self.clients[self.world.draw.below(len(self.clients))]

    def kill_tracker(self) -> None:
        """`kill -9`: what was committed is kept."""
        self.world.kill_tracker(3.0 * self.world.draw(), 0)

    def lose_power(self) -> None:
        """The newest rows of leases are lost too; epochs were synced."""
        self.world.kill_tracker(20.0 * self.world.draw(), self.world.draw.below(9))

    def pause_tracker(self) -> None:
        """SIGSTOP of the tracker."""
        self.world.pause_tracker(self._length())

    def fill_disk(self) -> None:
        """The store cannot be written for a while."""
        self.world.fail_store(self._length())

    def kill_agent(self) -> None:
        """`kill -9` of an agent, or its host loses power."""
        self._agent().kill(self._length())

    def pause_agent(self) -> None:
        """SIGSTOP of an agent."""
        self._agent().pause(self._length())

    def cut_agent(self) -> None:
        """A partition between an agent and the tracker."""
        self._agent().cut(self._length())

    def reset_agent(self) -> None:
        """An agent's connection is reset."""
        self._agent().break_link()

    def kill_client(self) -> None:
        """`kill -9` of a client."""
        self._client().kill(self._length())

    def pause_client(self) -> None:
        """SIGSTOP of a client."""
        self._client().pause(self._length())

    def reset_client(self) -> None:
        """A client's connection with the tracker is reset."""
        self._client().break_link()

    def revoke_token(self) -> None:
        """The token of a client is revoked; it gets another."""
        client = self._client()
        self.world.deliver(TokenOver(client.token, "by chance"))
        client.tokens += 1

    def kill_session(self) -> None:
        """A session's process dies; its lease may open another."""
        agent = self._agent()
        device = agent.devices[self.world.draw.below(len(agent.devices))]
        if device.session is not None and agent.runs():
            device.end()
            agent.soon()

    def set_admin(self) -> None:
        """An operator wants something else of a device; mostly that it works."""
        u = self.world.draw()
        admins = (Admin.ENABLED, Admin.ENABLED, Admin.DRAIN, Admin.MAINTENANCE, Admin.RETIRED)
        device = self._agent().devices[0].name
        self.world.deliver(AdminSet(device, admins[int(u * len(admins))], "sim", "by chance"))

    def revoke(self) -> None:
        """An operator takes some lease away."""
        held = [lease for client in self.clients for lease in client.held]
        if held:
            lease = held[self.world.draw.below(len(held))]
            drain = self.world.draw() < 0.2
            self.world.deliver(Revoked(lease, "sim", "by chance", drain))

    def probe(self) -> None:
        """An operator wants a device probed."""
        self.world.deliver(ProbeAsked(self._agent().devices[0].name))

    def sicken(self) -> None:
        """A device drifts, or is broken until it is probed."""
        device = self._agent().devices[-1]
        device.health = Health.DRIFT if self.world.draw() < 0.7 else Health.BAD

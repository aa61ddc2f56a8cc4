"""The tracker: a LeaseBook, a store and connections around them, in one event loop.

`Tracker.serve` takes any link, of a listener or of `pair()` within the process, and treats it as
what its Hello says: a client or an agent. Every event goes through `happened`.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from loopwright.errors import FleetError, LoopwrightError
from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.effects import (
    EndLease,
    Note,
    TellDesired,
    TellGranted,
    TellQueued,
    TellRefused,
    TellReleased,
    TellRenewed,
    TellSuperseded,
)
from loopwright.fleet.book.events import AgentDown, Event, Restored, Tick, TokenOver
from loopwright.fleet.security.handshake import Facts, welcome
from loopwright.fleet.security.tickets import Ticket, seal, session_key
from loopwright.fleet.store.rows import (
    ENDED,
    AuditEvent,
    Change,
    StoreError,
    StoreFencedError,
    TrackerStore,
)
from loopwright.fleet.tracker import ends
from loopwright.fleet.tracker.agents import AgentSession
from loopwright.fleet.tracker.asks import Asks
from loopwright.fleet.tracker.clients import ClientSession
from loopwright.fleet.tracker.commands import Commands, TokenEnd
from loopwright.fleet.tracker.commit import CommitHooks, Committer, Tell
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.directory import AccessDirectory
from loopwright.fleet.tracker.infos import Infos
from loopwright.fleet.tracker.log import JsonLog
from loopwright.fleet.tracker.quotas import shown
from loopwright.fleet.tracker.sessions import Allowance
from loopwright.fleet.wire.faults import Denied, Tally
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import Error, Grant
from loopwright.fleet.words import ErrorCode

_SLACK_S = 0.001
_TENANTS = 100  # shown at most: a status fits into a message
_E = TypeVar("_E", bound=enum.Enum)
_T = TypeVar("_T", TellGranted, TellQueued, TellRefused, TellRenewed, TellReleased)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Monotonic time for leases, wall time for people and for the expiry of secrets."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class Tracker:
    """Serves agents and clients. `start` before, `stop` after.

    Args:
        rng: spreads the reports of agents over time, makes ids of leases differ between starts.
        log: one JSON line for each thing that happens.
    """

    def __init__(
        self,
        store: TrackerStore,
        config: TrackerConfig = TrackerConfig(),  # noqa: B008  # frozen
        *,
        rng: np.random.Generator,
        clocks: Clocks = Clocks(),  # frozen
        log: JsonLog | None = None,
    ) -> None:
        self.config = config
        self.store = store
        self.clock = clocks.monotonic
        self.wall = clocks.wall
        self.log = JsonLog(None, clocks.wall) if log is None else log
        self.epoch = 0
        self.infos = Infos(self._owner)
        self.agents: dict[str, AgentSession] = {}
        self.clients: dict[str, ClientSession] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}  # of tokens that are or were used
        self._ending: set[asyncio.Task[None]] = set()  # those that have expired just now
        self.link_tally = Tally()
        self.fenced: StoreFencedError | None = None
        self.asks = Asks(self)
        self.commands = Commands(self)
        self._boots: dict[tuple[str, str], AgentSession] = {}
        self._rng = rng
        self._connections = 0
        self._started_at = 0.0
        self._syncs = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._watchers: dict[int, Callable[[AuditEvent], None]] = {}
        self._later: list[tuple[ClientSession, Event]] = []
        self._stopping: asyncio.Future[None] | None = None
        self._refusals = Allowance(
            config.refusals_logged_per_s, config.refusals_burst, clocks.monotonic
        )

    # --- life ---

    async def start(self) -> None:
        """Begin on the store, and take up what it has.

        Raises: StoreError.
        """
        loop = asyncio.get_running_loop()
        epoch = await asyncio.to_thread(self.store.begin)
        kept = await asyncio.to_thread(self.store.load)
        self.epoch = epoch
        self._stopping = loop.create_future()
        self._started_at = self.clock()
        # The epoch alone would give ids again that were given after a store was copied.
        prefix = f"l{epoch}-{self._rng.integers(1 << 24):06x}."
        self.book = LeaseBook(replace(self.config.book, prefix=prefix))
        hooks = CommitHooks(self._tell, self._noted, self.happened, self._fenced)
        self.committer = Committer(self.store, self.config, hooks)
        self.directory = AccessDirectory(
            kept, auth=self.config.auth, wall=self.wall, save=self._save
        )
        self._tellers: dict[type[Tell], Callable[[Any], None]] = {
            TellDesired: self._tell_desired,
            TellSuperseded: self._tell_superseded,
            TellGranted: self._to_client(ClientSession.granted),
            TellQueued: self._to_client(ClientSession.queued),
            TellRefused: self._to_client(ClientSession.refused),
            TellRenewed: self._to_client(ClientSession.renewed),
            TellReleased: self._to_client(ClientSession.released),
        }
        self.audit("tracker.start", self.config.name, "", f"epoch {epoch}")
        agents = tuple(row.name for row in kept.agents if not row.revoked)
        self.happened(Restored(kept.leases, kept.devices, agents, ends.read(kept.ended)))
        for token in dict.fromkeys(row.token for row in kept.leases):
            self._watch_token(token)

    async def stop(self) -> None:
        """Save what is unsaved, close all connections, release the store."""
        self.audit("tracker.stop", self.config.name)
        for timer in (self._timer, *self._expiries.values()):
            if timer is not None:
                timer.cancel()
        try:
            async with asyncio.timeout(self.config.commit_s):
                await self.committer.idle()
        except (LoopwrightError, TimeoutError) as error:
            self.log.write("store.unsaved", detail=str(error))
        links = [session.link for session in self._boots.values()]
        links += [session.link for session in self.clients.values()]
        for link in links:
            link.close("the tracker stops")
        await asyncio.gather(*(link.wait_closed() for link in links))
        self.committer.close()
        self.store.close()
        self.log.flush()

    async def stopped(self) -> None:
        """Wait until the tracker may not go on.

        Raises: StoreFencedError when another tracker has begun on its store.
        """
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    def _fenced(self, error: StoreFencedError) -> None:
        self.fenced = error
        self.log.write("tracker.fenced", detail=str(error))
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_exception(error)

    async def serve(self, link: Link) -> None:
        """Welcome the other side of `link`, then answer whatever comes over it.

        Raises: Denied, FleetError when it was not let in.
        """
        first_ms = max(1, int(self.next_sync_s(active=True) * 1000))
        facts = Facts(self.config.name, self.epoch, first_ms)
        try:
            came = await welcome(link, self.directory, facts)
        except FleetError as error:
            self.denied(link.peer.address, error)
            raise
        session: AgentSession | ClientSession
        if came.agent:
            bound = came.hello.auth != "none"
            session = AgentSession(self, link, came.agent, bound=bound)
        else:
            self._connections += 1
            number = f"{self.epoch}.{self._connections}"
            session = ClientSession(self, link, came, number)
            self.clients[session.id] = session
            self._watch_token(session.token)
        self.log.write(
            "connected",
            role=came.hello.role,
            who=came.principal.name,
            address=link.peer.address,
            software=came.hello.software,
            trace=came.hello.trace,
        )
        link.on_message(session.on_message, session.on_closed)

    # --- events in, effects out ---

    def happened(self, event: Event) -> None:
        """The one place where the book is told anything."""
        effects = self.book.apply(event, self.clock())
        if effects:
            self.committer.put(effects)
        due = self.book.deadline
        if due is not None and (self._timer is None or due < self._timer_at - _SLACK_S):
            self._arm(due)

    def happens_later(self, client: ClientSession, event: Event) -> None:
        """Tell the book of what nobody waits for, once those who wait have been served.

        That is after the grants of this turn of the loop are out, or when `client` says more.
        """
        client.owed = True
        self._later.append((client, event))
        if len(self._later) == 1:
            asyncio.get_running_loop().call_soon(self._served)

    def _served(self) -> None:
        if self._later and self.committer.imminent:  # those of the next turn do not go before too
            asyncio.get_running_loop().call_soon(self.catch_up)
        else:
            self.catch_up()

    def catch_up(self) -> None:
        """Tell the book what was put off."""
        later, self._later = self._later, []
        for client, event in later:
            client.owed = False
            self.happened(event)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        wait = max(0.0, due - self.clock()) + _SLACK_S
        self._timer = asyncio.get_running_loop().call_later(wait, self._due)

    def _due(self) -> None:
        self._timer = None
        due = self.book.deadline
        if due is not None and due > self.clock():
            self._arm(due)
        else:
            self.happened(Tick())

    def _tell(self, effect: Tell) -> None:
        self._tellers[type(effect)](effect)

    def _to_client(self, tell: Callable[[ClientSession, _T], None]) -> Callable[[_T], None]:
        clients = self.clients

        def run(effect: _T) -> None:
            client = clients.get(effect.client)
            if client is not None:
                tell(client, effect)

        return run

    def _tell_desired(self, effect: TellDesired) -> None:
        session = self._boots.get((effect.agent, effect.incarnation))
        if session is not None:
            session.tell(effect)

    def _tell_superseded(self, effect: TellSuperseded) -> None:
        session = self._boots.get((effect.agent, effect.incarnation))
        if session is not None:
            session.superseded(effect)

    def _noted(self, effect: Note | EndLease) -> Change | None:
        if isinstance(effect, EndLease):
            what, subject, detail = ENDED, effect.lease, ends.written(effect)
            self.log.write(
                ENDED,
                lease=effect.lease,
                device=effect.device,
                epoch=effect.epoch,
                tenant=effect.tenant,
                reason=effect.reason.value,
                detail=effect.detail,
            )
        else:
            what, subject, detail = effect.what, effect.subject, effect.detail
            self.log.write(what, subject=subject, detail=detail)
        event = AuditEvent(self.wall(), what, subject, detail=detail)
        self._watched(event)
        return event

    # --- what sessions need ---

    def grants(self, effect: TellGranted) -> tuple[Grant, ...] | None:
        """The devices of a grant, each with a ticket; None if one of them is gone."""
        made: list[Grant] = []
        client = self.clients.get(effect.client)
        trace = "" if client is None else client.trace
        for given in effect.given:
            key = self.directory.key(given.agent)
            info = self.infos.of(given.device, given.incarnation)
            if key is None or info is None:
                return None
            ttl_ms = max(1, int(given.ttl_s * 1000))
            ticket = seal(
                Ticket(
                    lease=given.lease,
                    device=given.device,
                    incarnation=given.incarnation,
                    epoch=given.epoch,
                    tenant=effect.tenant,
                    caps=(),
                    ttl_ms=ttl_ms,
                ),
                key,
            )
            made.append(
                Grant(
                    lease=given.lease,
                    device=info,
                    incarnation=given.incarnation,
                    epoch=given.epoch,
                    ttl_ms=ttl_ms,
                    ticket=ticket,
                    key=session_key(key, ticket),
                )
            )
            self.log.write(
                "lease.grant",
                lease=given.lease,
                device=given.device,
                epoch=given.epoch,
                client=effect.client,
                tenant=effect.tenant,
                request=effect.request,
                trace=trace,
            )
        return tuple(made)

    def next_sync_s(self, *, active: bool) -> float:
        """When an agent should report next: longer when idle, or when many report."""
        config = self.config
        period = config.sync_active_s if active else config.sync_idle_s
        period = max(period, len(self._boots) / config.syncs_per_s)
        return period * (1.0 - config.sync_jitter * self._rng.random())

    def synced(self) -> None:
        """An agent reported."""
        self._syncs += 1

    def agent_came(self, session: AgentSession) -> None:
        """An agent said which devices it has."""
        before = self._boots.get((session.agent, session.incarnation))
        if before is not None and before is not session:
            before.link.close(f"agent {session.agent} connected again")
        self._boots[(session.agent, session.incarnation)] = session
        self.agents[session.agent] = session
        self.infos.came(session.incarnation, session.devices)

    def agent_left(self, session: AgentSession, why: str) -> None:
        """The connection of an agent is gone."""
        self.log.write("agent.left", agent=session.agent, detail=why)
        key = (session.agent, session.incarnation)
        if self._boots.get(key) is session:
            del self._boots[key]
            if self.agents.get(session.agent) is session:
                del self.agents[session.agent]
            self.infos.left(session.incarnation)
            self.happened(AgentDown(session.agent, session.incarnation))

    def _owner(self, device: str) -> str:
        view = self.book.device(device)
        return "" if view is None else view.incarnation

    def client_left(self, session: ClientSession, why: str) -> None:
        """The connection of a client is gone."""
        self.log.write("client.left", client=session.id, detail=why)
        del self.clients[session.id]
        session.gone()

    def slow_down(self, link: Link, wait_s: float) -> None:
        """Read nothing more of a link for a while."""
        link.pause_reading()
        asyncio.get_running_loop().call_later(wait_s, self._go_on, link)

    def _go_on(self, link: Link) -> None:
        if not link.closed:
            link.resume_reading()

    def refuse(self, link: Link, error: FleetError, who: str) -> None:
        """Close a link because of what came over it."""
        if isinstance(error, Denied):
            link.tally.count(error.fault)
        self.denied(who, error)
        try:
            link.send(Error(code=ErrorCode.PROTOCOL, detail=str(error)[:500]))
        except LinkClosed:
            return
        link.close(str(error))

    def denied(self, who: str, error: FleetError) -> None:
        """Somebody was refused: counted, and in the log unless there are too many."""
        if self._refusals.take() == 0.0:
            self.audit("refused", who, who, str(error))

    async def end_token(self, token: str, why: str) -> TokenEnd:
        """End what is held with a token, and close all connections that came with it.

        Their clients are told first what became of their leases, and not listened to any more.
        Raises: StoreError when the ends could not be saved.
        """
        found = [client for client in self.clients.values() if client.token == token]
        for client in found:
            client.over = True
        held = self.book.held_with(token)
        self.happened(TokenOver(token, why))
        try:
            await self.saved()
        finally:
            for client in found:
                client.link.close(why)
        return TokenEnd(len(found), held)

    def _watch_token(self, token: str) -> None:
        """End `token` when it expires, however clocks are set, whether or not its client is here.

        Of one that was revoked a lease can be left whose end was lost with the power.
        """
        if not token or token in self._expiries:
            return
        row = self.directory.tokens.get(token)
        if row is None or row.revoked:
            self.happened(TokenOver(token, f"token {token} was revoked"))
        elif row.expires_at is not None:
            left_s = max(0.0, row.expires_at - self.wall())
            loop = asyncio.get_running_loop()
            self._expiries[token] = loop.call_later(left_s, self._token_expired, token)

    def _token_expired(self, token: str) -> None:
        del self._expiries[token]
        ending = asyncio.get_running_loop().create_task(self._end_expired(token))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end_expired(self, token: str) -> None:
        try:
            await self.end_token(token, f"token {token} has expired")
        except StoreError as error:
            self.log.write("store.unsaved", detail=str(error))

    def devices_of(self, agent: str) -> int | None:
        """How many devices an agent that is connected has; None for one that is not."""
        session = self.agents.get(agent)
        return None if session is None else len(session.devices)

    def close_agent(self, name: str, why: str) -> None:
        """Close the connections of an agent."""
        for session in [s for s in self._boots.values() if s.agent == name]:
            session.link.close(why)

    # --- the store ---

    def audit(self, what: str, subject: str, by: str = "", detail: str = "") -> None:
        """Write to the audit log, and to the log."""
        event = AuditEvent(self.wall(), what, subject, by, detail)
        self.log.write(what, subject=subject, by=by, detail=detail)
        self.committer.log(event)
        self._watched(event)

    async def saved(self) -> None:
        """Wait until what happened so far is durable. Raises: StoreError."""
        await self._save(())

    async def _save(self, changes: Sequence[Change]) -> None:
        await self.committer.save(changes)

    def watch(self, callback: Callable[[AuditEvent], None]) -> Callable[[], None]:
        """Have `callback` called with each event from now on; returns what ends that."""
        number = max(self._watchers, default=0) + 1
        self._watchers[number] = callback
        return lambda: self._watchers.pop(number, None) and None

    def _watched(self, event: AuditEvent) -> None:
        for callback in tuple(self._watchers.values()):
            callback(event)

    def status(self) -> Mapping[str, object]:
        """The tracker's status, for people and metrics."""
        counts = self.book.counts
        committer = self.committer
        return {
            "tracker": self.config.name,
            "epoch": self.epoch,
            "up_s": round(self.clock() - self._started_at, 3),
            "settling_s": round(self.book.settling_s, 3),
            "read_only": self.book.read_only,
            "agents": len(self.agents),
            "clients": len(self.clients),
            "tenants": {
                view.name: {
                    "leases": view.leases,
                    "max_leases": view.max_leases,
                    "queued": view.queued,
                    "max_queued": view.max_queued,
                    "weight": view.weight,
                    **shown(view.limits),
                }
                for view in self.book.tenants(_TENANTS)
            },
            "roles": {
                role.name.lower(): shown(limits) for role, limits in self.book.config.roles.items()
            },
            "devices": counts.devices,
            "free": counts.free,
            "by_link": _named(counts.by_link),
            "by_health": _named(counts.by_health),
            "by_admin": _named(counts.by_admin),
            "by_occupancy": _named(counts.by_occupancy),
            "leases": counts.leases,
            "waiting": counts.waiting,
            "granted": counts.granted,
            "renewed": counts.renewed,
            "yields": counts.yields,
            "denied": counts.denied,
            "ended": _named(counts.ended),
            "refused": _named(counts.refused),
            "syncs": self._syncs,
            "commits": committer.commits,
            "store_failures": committer.failures,
            "faults": dict(self.link_tally.figures()),
        }


def _named(counts: Mapping[_E, int]) -> dict[str, int]:
    return {str(key.value): count for key, count in counts.items()}

"""The tracker's end of a client's connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from loopwright.errors import FleetError
from loopwright.fleet.book.effects import (
    TellGranted,
    TellQueued,
    TellRefused,
    TellReleased,
    TellRenewed,
)
from loopwright.fleet.book.events import Cancelled, ClientDown, Event, GiveBack, Renewal, Requested
from loopwright.fleet.security.handshake import Admitted
from loopwright.fleet.security.tokens import POOL, require_role
from loopwright.fleet.selector import Operator, SelectorTerm
from loopwright.fleet.tracker.asks import Asks
from loopwright.fleet.tracker.commands import Commands
from loopwright.fleet.tracker.sessions import Allowance, Host
from loopwright.fleet.wire.codec import Data, Incoming
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.fields import clip
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import (
    Acquire,
    Ask,
    Cancel,
    Command,
    Error,
    Grant,
    Granted,
    Message,
    Ping,
    Pong,
    Queued,
    Refused,
    Release,
    Released,
    Renew,
    Renewed,
    failed,
)
from loopwright.fleet.words import EndReason, ErrorCode, Refusal, Role

_HOLDERS = {
    reason.value: reason
    for reason in (
        EndReason.EXPIRED,
        EndReason.PREEMPTED,
        EndReason.DEVICE_LOST,
        EndReason.CLIENT_LOST,
    )
}
"""What a holder may say of the end of its lease, besides that it gives it back."""


class ClientsHost(Host, Protocol):
    """What a client's session needs of the tracker."""

    asks: Asks
    commands: Commands

    def happens_later(self, client: ClientSession, event: Event) -> None:
        """Tell the book of what nobody waits for."""
        ...

    def catch_up(self) -> None:
        """Tell the book what was put off."""
        ...

    def grants(self, effect: TellGranted) -> tuple[Grant, ...] | None:
        """The devices of a grant, each with a ticket; None if one of them is gone."""
        ...

    def client_left(self, session: ClientSession, why: str) -> None:
        """The connection of a client is gone."""
        ...

    def denied(self, who: str, error: FleetError) -> None:
        """Somebody was refused something."""
        ...


class ClientSession:
    """One client while it is connected. `id` is this connection's alone, over all restarts."""

    def __init__(self, tracker: ClientsHost, link: Link, came: Admitted, number: str) -> None:
        self.who = who = came.principal
        self.id = f"{who.name}#{number}"
        self.trace = came.hello.trace
        self.token = came.token  # its id, empty for one without
        self._proto = came.proto
        self.link = link
        self.owed = False  # whether a release of it waits until others are served
        self.over = False  # its token is no longer good: it is not listened to
        self._tracker = tracker
        self._scope = str(SelectorTerm(POOL, Operator.IN, tuple(sorted(who.scopes))))
        config = tracker.config
        self._allowance = Allowance(config.messages_per_s, config.burst, tracker.clock)
        self._handlers: dict[type[Message], Callable[[Any], None]] = {
            Acquire: self._acquire,
            Renew: self._renew,
            Release: self._release,
            Cancel: self._cancel,
            Ask: self._ask,
            Command: self._command,
            Ping: self._ping,
            Pong: self._pong,
            Error: self._failed,
        }

    def on_message(self, message: Incoming, _: int) -> None:
        """A message of the client."""
        if self.over:
            return
        wait = self._allowance.take()
        if self.owed:
            self._tracker.catch_up()  # what it says is heard in its order
        try:
            handler = self._handlers.get(type(message))  # type: ignore[arg-type]  # Data has none
            if handler is None:
                name = type(message.head if isinstance(message, Data) else message).__name__
                raise Denied(Fault.UNEXPECTED, f"a client does not send {name} to a tracker")
            handler(message)
        except LinkClosed:
            return
        except FleetError as error:
            self._tracker.refuse(self.link, error, self.who.name)
        if wait:
            self._tracker.slow_down(self.link, wait)

    def on_closed(self, why: str) -> None:
        """The connection is gone."""
        if self.owed:
            self._tracker.catch_up()
        self._tracker.client_left(self, why)

    # --- what it says ---

    def _acquire(self, message: Acquire) -> None:
        if self.who.role < Role.USER:
            self._no("lease devices", message.request)
            return
        asked = message.asked
        if self.who.scopes:
            scoped = ", ".join(filter(None, (self._scope, asked.selector.strip())))
            asked = msgspec.structs.replace(asked, selector=scoped)
        who, request = self.who, message.request
        event = Requested(request, self.id, who.tenant, asked, self.token, who.role)
        self._tracker.happened(event)

    def _renew(self, message: Renew) -> None:
        if self.who.role < Role.USER:
            self._no("renew leases", message.lease)
            return
        tenant, token = self.who.tenant, self.token
        self._tracker.happened(Renewal(message.lease, message.epoch, self.id, tenant, token))

    def _release(self, message: Release) -> None:
        if self.who.role < Role.USER:
            self._no("release leases", message.lease)
            return
        reason = _HOLDERS.get(message.reason, EndReason.RELEASED)
        back = GiveBack(message.lease, message.epoch, self.id, self.who.tenant, reason)
        self._tracker.happens_later(self, back)

    def _cancel(self, message: Cancel) -> None:
        self._tracker.happened(Cancelled(message.request, self.id))

    def _ask(self, message: Ask) -> None:
        self._tracker.asks.ask(self, message)

    def _command(self, message: Command) -> None:
        self._tracker.commands.carry_out(self, message)

    def _ping(self, message: Ping) -> None:
        self.link.send(Pong(message.seq))

    def _pong(self, message: Pong) -> None:
        """The client is there."""

    def _failed(self, message: Error) -> None:
        self.link.close(f"client {self.who.name} failed: {message.detail}")

    def _no(self, what: str, request: str) -> None:
        try:
            require_role(self.who, Role.USER, f"to {what}")
        except Denied as error:
            self._tracker.denied(self.who.name, error)
            self.send(Refused(request, ErrorCode.FORBIDDEN, str(error)))

    # --- what it is told ---

    def send(self, message: Message) -> None:
        """Send, if it is still there."""
        try:
            self.link.send(message)
        except LinkClosed:
            return

    def failed(self, question: int, code: ErrorCode, detail: str) -> None:
        """A question or command of it failed."""
        self.send(failed(question, code, detail, proto=self._proto))

    def queued(self, effect: TellQueued) -> None:
        """Its request waits."""
        self.send(Queued(effect.request, effect.position, clip(effect.why)))

    def granted(self, effect: TellGranted) -> None:
        """It has the devices, unless an agent was revoked just now: then their leases end."""
        grants = self._tracker.grants(effect)
        if grants is not None:
            self.send(Granted(effect.request, grants))
            return
        detail = f"request {effect.request}: a device that it was granted is gone; ask again"
        self.send(Refused(effect.request, Refusal.CANCELLED.value, detail))

    def refused(self, effect: TellRefused) -> None:
        """Its request is not served."""
        retry_ms = int(effect.retry_after_s * 1000)
        self.send(Refused(effect.request, effect.code.value, clip(effect.detail), retry_ms))

    def renewed(self, effect: TellRenewed) -> None:
        """The answer to a renewal."""
        ttl_ms = int(effect.ttl_s * 1000)
        reason = "" if effect.reason is None else effect.reason.value
        self.send(Renewed(effect.lease, effect.verdict.value, ttl_ms, clip(effect.why), reason))

    def released(self, effect: TellReleased) -> None:
        """The answer to a release, or word that a lease ended."""
        self.send(Released(effect.lease, effect.reason.value))

    def gone(self) -> None:
        """Tell the book that it is gone."""
        self._tracker.happened(ClientDown(self.id))

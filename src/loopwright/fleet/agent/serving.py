"""The sessions of a device, one at a time: from a ticket to the end of all that it left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from loopwright.errors import FleetError
from loopwright.fleet.agent.context import DeviceContext
from loopwright.fleet.agent.driver import DriverError, DriverFault
from loopwright.fleet.agent.probing import Prober
from loopwright.fleet.agent.running import ItemRunner
from loopwright.fleet.agent.session import ServedSession
from loopwright.fleet.agent.standing import Ended, Standing
from loopwright.fleet.security.tickets import Ticket, check_ticket
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import Closed, DeviceInfo, Error, Opened
from loopwright.fleet.words import EndReason, ErrorCode, Health

_POLL_S = 0.001


class SessionSlot:
    """Where the one session is that a device may have."""

    def __init__(
        self,
        context: DeviceContext,
        standing: Standing,
        prober: Prober,
        runner: ItemRunner,
        info: Callable[[], DeviceInfo],
    ) -> None:
        self.superseded = False  # another agent has the device
        self._context = context
        self._name = context.spec.name
        self._door = context.door
        self._clock = context.agent.clock
        self._standing = standing
        self._prober = prober
        self._runner = runner
        self._info = info
        self._verdict: Ended | None = None  # why the session in progress is being ended

    async def serve(self, link: Link, ticket: Ticket) -> None:
        """Serve a session whose ticket was verified, from Opened to Closed.

        A session in progress is ended first: it is older, or the same client's broken one.
        """
        async with self._door.lock:
            self._check(link, ticket)
            await self._end_and_wait(Ended(EndReason.EXPIRED, "a newer session has the device"))
            self._check(link, ticket)
            self._standing.accept(ticket, self._clock())
            if not await self._begin(link):
                return
            try:
                self._check(link, ticket)  # an order may have ended the lease meanwhile
            except FleetError:
                await self._runner.clean()
                raise
            self._verdict = None
            self._context.modules.begin_session()
            session = asyncio.create_task(ServedSession(link, self._runner).serve())
            self._door.session = session
            self._context.agent.changed()
        _send(link, self._opened(ticket))  # a client that is gone is met by its session
        await self._follow(link, session)

    async def _begin(self, link: Link) -> bool:
        """Begin what runs candidates; False when that cannot be, and the client was told."""
        try:
            await self._runner.begin()
        except DriverError as error:
            if isinstance(error, DriverFault):
                self._prober.fault(error)
            _refuse(link, ErrorCode.DEVICE, str(error))
            return False
        return True

    def _check(self, link: Link, ticket: Ticket) -> None:
        """Check that a ticket is still good; others may have come in since it was verified.

        Raises: FleetError, which the client was told.
        """
        try:
            self._check_owner()
            check_ticket(ticket, self._standing.state)
        except FleetError as error:
            _refuse(link, ErrorCode.AUTH, str(error))
            raise
        if self._prober.health is Health.BAD:
            why = f"{self._name} does not work: {self._prober.detail}"
            _refuse(link, ErrorCode.DEVICE, why)
            raise FleetError(why, retryable=True)

    def _check_owner(self) -> None:
        if self.superseded:
            raise FleetError(f"another agent has {self._name} now; lease it again")

    def _opened(self, ticket: Ticket) -> Opened:
        limits = self._runner.limits
        return Opened(
            lease=ticket.lease,
            epoch=ticket.epoch,
            ttl_ms=int(self._standing.left_s(self._clock()) * 1000),
            device=self._info(),
            tier=int(self._prober.tier),
            max_wall_ms=int(limits.wall_s * 1000),
            max_memory=limits.memory,
            max_blob=limits.blob,
            modules=self._context.modules.shown(),
        )

    async def _follow(self, link: Link, session: asyncio.Task[EndReason]) -> None:
        """Wait for the end of a session and clean up after it."""
        try:
            await asyncio.wait((session,))
        except asyncio.CancelledError:
            session.cancel()
            await asyncio.wait((session,))
            raise
        finally:
            verdict = self._verdict or _verdict(session)
            _send(link, Closed(verdict.reason.value, verdict.detail))
            link.close(f"the session ended: {verdict.reason.value}")
            await self._clean(session)
        if not session.cancelled():
            session.result()  # raises what should not have happened

    async def _clean(self, session: asyncio.Task[EndReason]) -> None:
        """End what the session left; the device is free when that is gone."""
        if self._door.session is not session:
            return
        self._door.cleaning = True
        self._door.session = None
        self._context.agent.changed()
        try:
            await self._runner.clean()
        finally:
            self._door.cleaning = False
            self._prober.session_over()
            self._context.agent.changed()

    def end(self, ended: Ended) -> None:
        """End the session in progress, soon."""
        if self._door.session is not None and self._verdict is None:
            self._verdict = ended
            self._door.session.cancel()

    async def _end_and_wait(self, ended: Ended) -> None:
        """End the session in progress and wait until the device is clean."""
        self.end(ended)
        while self._door.taken:
            await asyncio.sleep(_POLL_S)

    async def stop(self, ended: Ended) -> None:
        """End the session in progress, if there is one, and wait until the device is clean."""
        async with self._door.lock:
            await self._end_and_wait(ended)


def _refuse(link: Link, code: ErrorCode, why: str) -> None:
    _send(link, Error(code=code, detail=why))
    link.close(why)


def _send(link: Link, message: Closed | Error | Opened) -> None:
    with contextlib.suppress(LinkClosed):
        link.send(message)


def _verdict(session: asyncio.Task[EndReason]) -> Ended:
    """Why a session ended by itself."""
    if session.cancelled():
        return Ended(EndReason.CLIENT_LOST, "the connection is gone")
    error = session.exception()
    if error is not None:
        return Ended(EndReason.DEVICE_LOST, f"the agent failed: {type(error).__name__}: {error}")
    return Ended(session.result(), "")

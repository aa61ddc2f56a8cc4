"""The client's connection with a tracker: it outlives the tracker.

What was asked for is remembered until it is answered, and sent again, with the same ids, when the
tracker is back: requests, renewals, releases and questions are all harmless twice. Commands are
not, so one whose answer was lost is an error that says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import msgspec

from loopwright.errors import (
    AuthError,
    FleetError,
    QueueTimeoutError,
)
from loopwright.fleet.client.patience import Patience, patiently
from loopwright.fleet.client.pending import (
    OnQueued,
    Pending,
    PendingQuestion,
    PendingRenewal,
    PendingRequest,
    fail,
    failure_of,
    refusal_of,
)
from loopwright.fleet.security.handshake import Credential, greet
from loopwright.fleet.wire.codec import Data, Incoming
from loopwright.fleet.wire.link import BusyError, Link, LinkClosed
from loopwright.fleet.wire.messages import (
    PROTOCOL,
    Acquire,
    Answer,
    Ask,
    Cancel,
    Command,
    Done,
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
    Welcome,
    question_of,
)
from loopwright.fleet.wire.sendable import require_sendable
from loopwright.fleet.words import EndReason, ErrorCode

_T = TypeVar("_T")
Connect: TypeAlias = Callable[[], Awaitable[Link]]


@dataclass(frozen=True, slots=True)
class WatchedLease:
    """What the holder of a lease is told: that it is over and why; that the tracker is back.

    A tracker that lost the connection takes the holder for away until it renews.
    """

    on_ended: Callable[[str], None]
    on_back: Callable[[], None]


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Durations in seconds: between tries to connect, how long to try at first where the tracker is
    busy, and how long an answer may take.
    """

    reconnect_s: float = 0.1
    reconnect_max_s: float = 2.0
    busy_s: float = 10.0
    answer_s: float = 30.0
    release_s: float = 2.0  # how long closing waits for what was released
    late_s: float = 5.0  # beyond max_wait, for a tracker that is away


class Control:
    """One client of a tracker, on one event loop. `start` before anything else.

    Args:
        connect: makes a new link to the tracker.
        clock: seconds of a monotonic clock.
        chance: a number in [0, 1), for jitter.
    """

    def __init__(
        self,
        connect: Connect,
        credential: Credential,
        clock: Callable[[], float],
        chance: Callable[[], float],
        config: ControlConfig = ControlConfig(),  # frozen
    ) -> None:
        self.welcome: Welcome | None = None
        self.connections = 0
        self._connect = connect
        self._credential = credential
        self._clock = clock
        self._chance = chance
        self._config = config
        self._patience = Patience(config.reconnect_s, config.reconnect_max_s, config.busy_s)
        self._link: Link | None = None
        self._pending = Pending()
        self._watched: dict[str, WatchedLease] = {}
        self._numbers = 0
        self._all_released = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._failure: FleetError | None = None

    @property
    def connected(self) -> bool:
        """Whether the tracker is there now."""
        return self._link is not None

    # --- life ---

    async def start(self) -> Welcome:
        """Connect, for the first time, and stay connected until `close`.

        Raises: AuthError, FleetError, ConfigError when there is no tracker, or it refuses;
            BusyError when it has no time for this one for longer than `busy_s`.
        """
        gone = asyncio.get_running_loop().create_future()
        welcome = await patiently(
            lambda: self._connect_once(gone), self._patience, self._clock, self._chance
        )
        self._keeper = asyncio.create_task(self._keep(gone))
        return welcome

    async def close(self) -> None:
        """Send the releases that are pending, and disconnect."""
        if self._pending.releases and self._link is not None:
            self._all_released.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.release_s):
                    await self._all_released.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            link.close("the client is done")
            await link.wait_closed()
        self._fail(FleetError("the connection with the tracker was closed"))

    async def _connect_once(self, gone: asyncio.Future[str]) -> Welcome:
        link = await self._connect()
        try:
            self.welcome = await greet(link, "client", self._credential)
        except LinkClosed as error:
            raise BusyError(link.peer.address) from error
        except BaseException:
            link.abort()
            raise
        self._link = link
        self.connections += 1

        def closed(why: str) -> None:
            self._link = None
            if not gone.done():
                gone.set_result(why)

        link.on_message(self._take, closed)
        self._send_pending()
        return self.welcome

    async def _keep(self, gone: asyncio.Future[str]) -> None:
        """Connect again whenever the connection is gone, until the tracker refuses."""
        while True:
            await gone
            self._fail_commands()
            for wait_s in self._patience.waits(self._chance):
                if self._link is not None:
                    break
                await asyncio.sleep(wait_s)
                gone = asyncio.get_running_loop().create_future()
                try:
                    await self._connect_once(gone)
                except AuthError as error:
                    self._fail(error)
                    return
                except (FleetError, OSError, TimeoutError):
                    continue

    def _fail(self, error: FleetError) -> None:
        """Answer all that waits with `error`, also what comes later."""
        self._failure = error
        for renewal in self._pending.renewals.values():
            fail(renewal.future, error)
        self._give_up(error)
        self._pending = Pending()
        self._all_released.set()

    def _fail_commands(self) -> None:
        for number, question in tuple(self._pending.questions.items()):
            if isinstance(question.message, Command) and question.sent:
                del self._pending.questions[number]
                if not question.future.done():
                    question.future.set_exception(
                        FleetError(
                            f"the tracker went away before it answered {question.message.what}: "
                            "look whether it was done before you repeat it",
                            retryable=True,
                        )
                    )

    # --- leases ---

    async def acquire(self, asked: Acquire, on_queued: OnQueued) -> tuple[Grant, ...]:
        """The devices that `asked` asks for.

        Raises: NoDeviceError, QueueTimeoutError, ConfigError, AuthError, FleetError.
        """
        self._check()
        require_sendable(asked)
        patience = asked.max_wait_ms / 1000 + self._config.late_s
        future: asyncio.Future[tuple[Grant, ...]] = asyncio.get_running_loop().create_future()
        until = self._clock() + patience
        request = PendingRequest(asked, until, future, on_queued)
        self._pending.requests[asked.request] = request
        self._send(asked)
        try:
            async with asyncio.timeout(patience):
                return await future
        except TimeoutError as error:
            raise QueueTimeoutError(
                f"no device for {asked.selector!r} within {asked.max_wait_ms / 1000:g} s"
                + ("" if self.connected else "; the tracker is away")
            ) from error
        finally:
            if self._pending.requests.pop(asked.request, None) is not None:
                self._send(Cancel(asked.request))

    async def renew(self, lease: str, epoch: int) -> tuple[Renewed, float]:
        """The tracker's answer, and when what it answers was sent, by the clock of this client."""
        self._check()
        known = self._pending.renewals.get(lease)
        if known is None:
            future = asyncio.get_running_loop().create_future()
            known = self._pending.renewals[lease] = PendingRenewal(Renew(lease, epoch), future)
            self._send_renewal(known)
        return await asyncio.shield(known.future)

    def release(self, lease: str, epoch: int, reason: EndReason = EndReason.RELEASED) -> None:
        """Give a lease back, now or when the tracker is there; `reason` is why, if one had to."""
        self._watched.pop(lease, None)
        renewal = self._pending.renewals.pop(lease, None)
        if renewal is not None:
            renewal.future.cancel()
        if self._failure is None:
            said = "" if reason is EndReason.RELEASED else reason.value
            self._pending.releases[lease] = message = Release(lease, epoch, said)
            self._send(message)

    def watch(self, lease: str, watched: WatchedLease) -> None:
        """Tell `watched` what becomes of a lease, until it is released."""
        self._watched[lease] = watched

    # --- questions ---

    async def rows(
        self, what: str, kind: type[_T], *, selector: str = "", name: str = ""
    ) -> tuple[_T, ...]:
        """All rows of an answer. The tracker makes the next page while one is read here.

        Raises: FleetError, ConfigError.
        """
        decode = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]  # at run time
        body, after = await self.page(what, "", selector=selector, name=name)
        found: list[_T] = []
        while after:
            asked = self.page(what, after, selector=selector, name=name)
            coming = asyncio.get_running_loop().create_task(asked)
            try:
                await asyncio.sleep(0)  # it goes out now
                found += decode(body)
            except BaseException:
                coming.cancel()
                raise
            body, after = await coming
        return (*found, *decode(body))

    async def page(
        self, what: str, after: str = "", *, selector: str = "", name: str = ""
    ) -> tuple[bytes, str]:
        """One page of an answer, JSON text, and what to ask for next: empty at the end.

        Raises: FleetError, ConfigError.
        """
        self._numbers += 1
        answer = await self._question(Ask(self._numbers, what, selector, name, after))
        return answer.body, answer.more if isinstance(answer, Answer) else ""

    async def command(self, what: str, arguments: dict[str, str]) -> bytes:
        """What came of a command, as JSON text.

        Raises: AuthError without the role for it; FleetError, ConfigError.
        """
        self._numbers += 1
        return (await self._question(Command(self._numbers, what, arguments))).body

    async def _question(self, message: Ask | Command) -> Answer | Done:
        self._check()
        require_sendable(message)
        future: asyncio.Future[Answer | Done] = asyncio.get_running_loop().create_future()
        question = PendingQuestion(message, future)
        self._pending.questions[message.id] = question
        question.sent = self._send(message)
        try:
            async with asyncio.timeout(self._config.answer_s):
                return await future
        except TimeoutError as error:
            raise FleetError(
                f"the tracker did not answer {message.what!r} within {self._config.answer_s:g} s",
                retryable=True,
            ) from error
        finally:
            self._pending.questions.pop(message.id, None)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- sending ---

    def _send(self, message: Message) -> bool:
        """Whether `message` went out; a tracker that is away is told all of it when it is back."""
        if self._link is None:
            return False
        try:
            self._link.send(message)
        except LinkClosed:
            return False
        return True

    def _send_renewal(self, renewal: PendingRenewal) -> None:
        renewal.sent_at = self._clock()
        self._send(renewal.message)

    def _send_pending(self) -> None:
        """Send again what was not answered: leases first, which may be running out."""
        pending = self._pending
        for renewal in pending.renewals.values():
            self._send_renewal(renewal)
        for watched in tuple(self._watched.values()):
            watched.on_back()
        for release in pending.releases.values():
            self._send(release)
        for request in pending.requests.values():
            left_ms = max(0, int((request.until - self._clock() - self._config.late_s) * 1000))
            wait_ms = min(left_ms, request.message.max_wait_ms)
            self._send(msgspec.structs.replace(request.message, max_wait_ms=wait_ms))
        for question in pending.questions.values():
            question.sent = self._send(question.message)

    # --- receiving ---

    def _take(self, message: Incoming, _: int) -> None:
        match message:
            case Granted(request, grants):
                self._granted(request, grants)
            case Queued() | Refused():
                self._not_yet(message)
            case Renewed():
                renewal = self._pending.renewals.pop(message.lease, None)
                if renewal is not None and not renewal.future.done():
                    renewal.future.set_result((message, renewal.sent_at))
            case Released(lease, reason):
                self._released(lease, reason)
            case Answer() | Done():
                question = self._pending.questions.get(message.id)
                if question is not None and not question.future.done():
                    question.future.set_result(message)
            case _:
                self._other(message)

    def _other(self, message: Incoming) -> None:
        match message:
            case Error():
                self._error(message)
            case Ping(seq):
                self._send(Pong(seq))
            case Pong():
                pass
            case _:
                name = type(message.head if isinstance(message, Data) else message).__name__
                if self._link is not None:
                    self._link.close(f"a tracker does not send {name}")

    def _not_yet(self, message: Queued | Refused) -> None:
        waiting = self._pending.requests.get(message.request)
        if waiting is None:
            return
        if isinstance(message, Queued):
            waiting.on_queued(message.position, message.why)
            return
        del self._pending.requests[message.request]
        if not waiting.future.done():
            waiting.future.set_exception(refusal_of(message, waiting.message))

    def _granted(self, request: str, grants: tuple[Grant, ...]) -> None:
        waiting = self._pending.requests.pop(request, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(grants)
            return
        for grant in grants:  # it crossed a Cancel
            if grant.lease not in self._watched:
                self.release(grant.lease, grant.epoch)

    def _released(self, lease: str, reason: str) -> None:
        self._pending.releases.pop(lease, None)
        if not self._pending.releases:
            self._all_released.set()
        told = self._watched.pop(lease, None)
        if told is not None:
            told.on_ended(reason)

    def _error(self, message: Error) -> None:
        proto = PROTOCOL if self.welcome is None else self.welcome.proto
        number, detail = question_of(message, proto=proto)
        if number:
            question = self._pending.questions.get(number)
            if question is not None and not question.future.done():
                question.future.set_exception(failure_of(message.code, detail))
            return
        if message.fatal and message.code == ErrorCode.AUTH:
            self._fail(AuthError(message.detail))
        elif message.fatal and message.code == ErrorCode.PROTOCOL:
            # Whichever of them it was: sent again, it would end the next connection too. Renewals
            # and releases, which are made here, are not to blame.
            self._give_up(
                FleetError(f"the tracker would not read what was asked: {message.detail}")
            )

    def _give_up(self, error: FleetError) -> None:
        """Answer all that was asked for with `error`, and do not send it again."""
        for request in self._pending.requests.values():
            fail(request.future, error)
        for question in self._pending.questions.values():
            fail(question.future, error)
        self._pending.requests.clear()
        self._pending.questions.clear()

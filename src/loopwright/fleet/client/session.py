"""The client's side of a direct session: blobs up, runs down, one result each as they come."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from loopwright.errors import AuthError, DeviceLostError, FleetError
from loopwright.fleet.client.results import RemoteResult
from loopwright.fleet.security.handshake import open_session
from loopwright.fleet.security.signing import BuilderKeys, sign
from loopwright.fleet.wire.codec import Data, Incoming
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import (
    Close,
    Closed,
    Configure,
    Configured,
    Error,
    Grant,
    Have,
    Message,
    Missing,
    Opened,
    OutputHead,
    Ping,
    Pong,
    PutHead,
    Result,
    RunBatch,
    Stored,
)
from loopwright.fleet.words import EndReason, ErrorCode
from loopwright.kernel_call import KernelCall
from loopwright.measure.pipeline import Run

CHUNK_BYTES = 1 << 20
_ASKED_AT_ONCE = 1024
_KEPT_DIGESTS = 65536
_SMALL_BYTES = 256 << 10  # one chunk, so that nothing of it can be there in part
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Durations in seconds. A device that says nothing for `silent_s` is lost."""

    open_s: float = 10.0
    ping_s: float = 5.0
    silent_s: float = 15.0
    close_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Blob:
    """Something to upload; its digest is SHA-256."""

    digest: bytes
    data: bytes

    @staticmethod
    def of(data: bytes) -> Blob:
        """The blob of `data`."""
        return Blob(hashlib.sha256(data).digest(), data)


class SessionLost(DeviceLostError):  # noqa: N818  # it says what happened, not who erred
    """The session is over though its holder did not close it; `reason` is the device's, if any."""

    def __init__(self, message: str, reason: EndReason | None) -> None:
        super().__init__(message, retryable=True)
        self.reason = reason


class DeviceSession:
    """An open session on one device, on one event loop. Made by `open`."""

    def __init__(
        self,
        link: Link,
        opened: Opened,
        clock: Callable[[], float],
        config: SessionConfig,
        builder: BuilderKeys | None = None,
    ) -> None:
        self.opened = opened
        self.sent_bytes = 0  # of blobs
        self._link = link
        self._near = link.peer.host == "unix"  # this machine
        self._clock = clock
        self._config = config
        self._builder = builder
        self._there: dict[bytes, None] = {}  # blobs that the device had, latest last
        self._missing: deque[asyncio.Future[Missing]] = deque()
        self._configured: deque[asyncio.Future[Configured]] = deque()
        self._stored: dict[bytes, asyncio.Future[None]] = {}
        self._running: dict[int, asyncio.Future[RemoteResult]] = {}
        self._batches: dict[int, int] = {}  # items that run -> the first item of their batch
        self._outputs: dict[int, bytearray] = {}
        self._uploading = asyncio.Lock()
        self._numbers = 0
        self._heard_at = clock()
        self._over: SessionLost | None = None
        self._on_end: list[Callable[[SessionLost], None]] = []
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pinger: asyncio.Task[None] | None = None

    @staticmethod
    async def open(
        link: Link,
        grant: Grant,
        clock: Callable[[], float],
        config: SessionConfig = SessionConfig(),  # frozen
        builder: BuilderKeys | None = None,
    ) -> DeviceSession:
        """The session that `grant` allows; `link` goes to its device.

        Args:
            builder: signs the code that is to run, for devices that run no other.

        Raises: AuthError when the device refuses the ticket; FleetError.
        """
        try:
            opened = await open_session(link, grant.ticket, grant.key, timeout_s=config.open_s)
        except BaseException:
            link.abort()
            raise
        session = DeviceSession(link, opened, clock, config, builder)
        link.on_message(session._take, session._closed)
        session._pinger = asyncio.create_task(session._ping())
        return session

    @property
    def over(self) -> SessionLost | None:
        """Why the session is over, None while it is open."""
        return self._over

    def on_end(self, call: Callable[[SessionLost], None]) -> None:
        """Call `call` once with why the session is over, at once if it is."""
        if self._over is not None:
            call(self._over)
        else:
            self._on_end.append(call)

    async def close(self) -> None:
        """End the session; the device cleans up. Calling it again is harmless."""
        if self._pinger is not None:
            self._pinger.cancel()
        if not self._link.closed:
            try:
                self._link.send(Close())
                async with asyncio.timeout(self._config.close_s):
                    await asyncio.shield(self._gone)
            except (LinkClosed, TimeoutError):
                self._link.abort()
        self._end(SessionLost("the session was closed", EndReason.RELEASED))

    def abort(self, why: str, reason: EndReason | None = None) -> None:
        """End at once: the lease is over, or the device says nothing."""
        self._end(SessionLost(f"{self.opened.device.name}: {why}", reason))
        self._link.abort(why)

    # --- blobs and modules ---

    async def configure(self, modules: Mapping[str, Blob]) -> tuple[str, ...]:
        """Put `modules` (by kind) in place; the kinds that were not there yet.

        Raises: FleetError, SessionLost.
        """
        await self.upload(modules.values())
        self._check()
        future: asyncio.Future[Configured] = asyncio.get_running_loop().create_future()
        self._configured.append(future)
        self._send(Configure({kind: blob.digest.hex() for kind, blob in modules.items()}))
        return (await future).changed

    async def upload(self, blobs: Iterable[Blob], *, ahead: bool = False) -> int:
        """Upload those of `blobs` that the device does not have; how many bytes were sent.

        Args:
            ahead: do not wait until they are stored. What needs one that is refused fails then.

        Raises: FleetError when it has no room; SessionLost.
        """
        wanted = {blob.digest: blob for blob in blobs if blob.digest not in self._there}
        if not wanted:
            return 0
        sent = 0
        async with self._uploading:  # answers come in the order of the questions
            digests = [digest for digest in wanted if digest not in self._there]
            if ahead and self._near:
                small = [d for d in digests if len(wanted[d].data) <= _SMALL_BYTES]
                digests = [d for d in digests if len(wanted[d].data) > _SMALL_BYTES]
                for digest in small:  # asking first takes longer
                    sent += await self._put(wanted[digest], 0, ahead=True)
                    self._there[digest] = None
            for start in range(0, len(digests), _ASKED_AT_ONCE):
                some = tuple(digests[start : start + _ASKED_AT_ONCE])
                missing = await self._ask(some)
                for digest, offset in zip(missing.digests, missing.offsets, strict=True):
                    sent += await self._put(wanted[digest], offset, ahead=ahead)
                for digest in some:
                    self._there[digest] = None
        while len(self._there) > _KEPT_DIGESTS:
            del self._there[next(iter(self._there))]
        self.sent_bytes += sent
        return sent

    async def _ask(self, digests: tuple[bytes, ...]) -> Missing:
        self._check()
        future: asyncio.Future[Missing] = asyncio.get_running_loop().create_future()
        self._missing.append(future)
        self._send(Have(digests))
        return await future

    async def _put(self, blob: Blob, offset: int, *, ahead: bool) -> int:
        self._check()
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stored[blob.digest] = stored
        total = len(blob.data)
        stored.add_done_callback(functools.partial(self._put_done, blob.digest))
        try:
            with memoryview(blob.data) as view:
                for at in range(offset, max(total, 1), CHUNK_BYTES):
                    piece = view[at : at + CHUNK_BYTES]
                    await self._link.send_data(PutHead(blob.digest, at, total), piece)
                    if stored.done():  # refused
                        break
            if stored.done() or not ahead:
                await stored
        except LinkClosed as error:
            raise self._lost(error) from error
        return total - offset

    def _put_done(self, digest: bytes, stored: asyncio.Future[None]) -> None:
        self._stored.pop(digest, None)
        if not stored.cancelled() and stored.exception() is not None:
            self._there.pop(digest, None)

    def forget(self, digest: bytes) -> None:
        """Ask anew for a blob: the device said that it is no longer there."""
        self._there.pop(digest, None)

    # --- runs ---

    def start(self, run: Run, digest: bytes) -> asyncio.Future[RemoteResult]:
        """The future result of `run`, whose code the device has as `digest`.

        Raises: SessionLost.
        """
        (future,) = self.start_batch([(run, digest)])
        return future

    def start_batch(self, runs: Sequence[tuple[Run, bytes]]) -> list[asyncio.Future[RemoteResult]]:
        """The future results of `runs`, which go one after the other.

        Raises: SessionLost.
        """
        self._check()
        futures: list[asyncio.Future[RemoteResult]] = []
        items: list[KernelCall] = []
        for run, digest in runs:
            self._numbers += 1
            items.append(item_of(self._numbers, run, digest, self._builder))
            future: asyncio.Future[RemoteResult] = asyncio.get_running_loop().create_future()
            self._running[self._numbers] = future
            self._batches[self._numbers] = items[0].id
            futures.append(future)
        try:
            self._send(RunBatch(tuple(items)))
        except FleetError:
            for item in items:
                self._taken(item.id)
            raise
        return futures

    async def run_batch(self, runs: Sequence[Run]) -> AsyncIterator[RemoteResult]:
        """The results of `runs` in their order, each as soon as it is there.

        Raises: SessionLost, FleetError.
        """
        blobs = [Blob.of(run.artifact.code) for run in runs]
        await self.upload(blobs)
        pairs = [(run, blob.digest) for run, blob in zip(runs, blobs, strict=True)]
        most = 64
        for start in range(0, len(pairs), most):
            for future in self.start_batch(pairs[start : start + most]):
                yield await future

    def _send(self, message: Message) -> None:
        try:
            self._link.send(message)
        except LinkClosed as error:
            raise self._lost(error) from error

    # --- hearing ---

    async def _ping(self) -> None:
        """Notice a device that is gone without a word; a pause of this process is no silence."""
        config = self._config
        number = 0
        while True:
            before = self._clock()
            await asyncio.sleep(config.ping_s)
            now = self._clock()
            self._heard_at += max(0.0, now - before - config.ping_s)
            silent = now - self._heard_at
            if silent >= config.silent_s:
                self.abort(f"it said nothing for {silent:.0f} s", EndReason.DEVICE_LOST)
                return
            number += 1
            try:
                self._link.send(Ping(number))
            except LinkClosed:
                return

    def _take(self, message: Incoming, _: int) -> None:
        self._heard_at = self._clock()
        match message:
            case Result():
                future = self._taken(message.id)
                output = bytes(self._outputs.pop(message.id, b""))
                if future is not None and not future.done():
                    future.set_result(RemoteResult(message, output))
            case Data(OutputHead(number, offset, total), data):
                self._gather(number, offset, total, data)
            case Missing() | Stored() | Configured():
                self._uploaded(message)
            case Closed(reason, detail):
                said = f"{self.opened.device.name} ended the session: {reason} {detail}".rstrip()
                self._end(SessionLost(said, _reason(reason)))
                self._link.close(said)
            case _:
                self._other(message)

    def _taken(self, number: int) -> asyncio.Future[RemoteResult] | None:
        """What waits for item `number`, which runs no more."""
        self._batches.pop(number, None)
        return self._running.pop(number, None)

    def _other(self, message: Incoming) -> None:
        match message:
            case Error():
                self._error(message)
            case Ping(seq):
                self._link.send(Pong(seq))
            case Pong():
                pass
            case _:
                self.abort("it sent what no device sends", EndReason.DEVICE_LOST)

    def _uploaded(self, message: Missing | Stored | Configured) -> None:
        match message:
            case Missing() if self._missing:
                _settle(self._missing.popleft(), message)
            case Configured() if self._configured:
                _settle(self._configured.popleft(), message)
            case Stored(digest) if digest in self._stored:
                _settle(self._stored[digest], None)

    def _gather(self, number: int, offset: int, total: int, data: bytes) -> None:
        if number not in self._running:
            return
        output = self._outputs.setdefault(number, bytearray())
        if offset != len(output) or offset + len(data) > total:
            self.abort("outputs came out of order", EndReason.DEVICE_LOST)
            return
        output += data

    def _error(self, message: Error) -> None:
        """Something was refused: what waits for an upload or a batch hears of it."""
        kind = AuthError if message.code == ErrorCode.AUTH else FleetError
        error = kind(f"{self.opened.device.name}: {message.detail}")
        if message.fatal:
            self._end(SessionLost(str(error), EndReason.DEVICE_LOST))
            return
        waiting: list[asyncio.Future[None]] = [f for f in self._stored.values() if not f.done()]
        if message.digest:  # each piece of an upload that was refused is answered
            stored = self._stored.get(message.digest)
            if stored is not None:
                _fail(stored, error)
        elif message.item:
            batch = [n for n, first in self._batches.items() if first == message.item]
            self._refuse(batch, error)
        elif waiting:
            _fail(waiting[0], error)
        elif self._configured:
            _fail(self._configured.popleft(), error)
        else:
            self._refuse(list(self._running), error)

    def _refuse(self, items: Iterable[int], error: FleetError) -> None:
        for number in items:
            future = self._taken(number)
            if future is not None:
                _fail(future, error)

    def _closed(self, why: str) -> None:
        self._end(SessionLost(f"{self.opened.device.name}: {why}", None))
        if not self._gone.done():
            self._gone.set_result(None)

    def _end(self, error: SessionLost) -> None:
        if self._over is not None:
            return
        self._over = error
        if self._pinger is not None:
            self._pinger.cancel()
        for future in self._running.values():
            _fail(future, error)
        for stored in self._stored.values():
            _fail(stored, error)
        for missing in self._missing:
            _fail(missing, error)
        for configured in self._configured:
            _fail(configured, error)
        self._running.clear()
        self._batches.clear()
        self._outputs.clear()
        calls, self._on_end = self._on_end, []
        for call in calls:
            call(error)

    def _check(self) -> None:
        if self._over is not None:
            raise self._over

    def _lost(self, error: FleetError) -> SessionLost:
        return self._over or SessionLost(str(error), None)


def item_of(number: int, run: Run, digest: bytes, builder: BuilderKeys | None = None) -> KernelCall:
    """The message that asks for `run`, signed by `builder`."""
    artifact, plan = run.artifact, run.plan
    return KernelCall(
        id=number,
        code=digest,
        entry=artifact.entry,
        params=tuple(param.wire for param in artifact.params),
        n_outputs=artifact.n_outputs,
        workspace=artifact.workspace(plan.threads),
        threads=plan.threads,
        seed=run.seed,
        want_output=run.want_output,
        warmup=plan.warmup,
        repeats=plan.repeats,
        min_repeat_us=round(plan.min_repeat_s * 1e6),
        run_timeout_ms=max(1, round(plan.run_timeout_s * 1e3)),
        run_memory=plan.run_memory,
        abandon_ns=plan.abandon_ns,
        signature=b"" if builder is None else sign(digest, builder.secret),
        kind=artifact.kind,
        form=artifact.form.value,
        launches=artifact.launches,
    )


def _reason(text: str) -> EndReason:
    try:
        return EndReason(text)
    except ValueError:
        return EndReason.DEVICE_LOST


def _settle(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[_T], error: FleetError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # the caller may wait no longer

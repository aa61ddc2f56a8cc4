"""The device's side of one direct session, from Opened to Closed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.agent.blobs import BlobCache, BlobError, Uploads
from loopwright.fleet.agent.driver import ItemOutcome
from loopwright.fleet.agent.options import SessionLimits
from loopwright.fleet.wire.codec import Data, Incoming
from loopwright.fleet.wire.link import Link, LinkClosed
from loopwright.fleet.wire.messages import (
    Close,
    Configure,
    Configured,
    Error,
    Have,
    Missing,
    OutputHead,
    Ping,
    Pong,
    PutHead,
    RunBatch,
    Stored,
)
from loopwright.fleet.words import EndReason, ErrorCode
from loopwright.kernel_call import KernelCall

_CHUNK_BYTES = 1 << 20


class SessionHost(Protocol):
    """What a session needs of its device."""

    limits: SessionLimits
    blobs: BlobCache

    async def run(self, item: KernelCall) -> ItemOutcome:
        """Run one item; never raises for what the candidate does."""
        ...

    async def between(self) -> None:
        """A batch is done: time for canaries."""
        ...

    def allow(self, item: KernelCall) -> None:
        """Check that the code of an item may run here. Raises: AuthError."""
        ...

    def configure(self, modules: Mapping[str, str]) -> tuple[str, ...]:
        """Put modules in place; the kinds that changed. Raises: FleetError."""
        ...


class ServedSession:
    """Serves one client until it closes, goes away or is ended."""

    def __init__(self, link: Link, host: SessionHost) -> None:
        self._link = link
        self._host = host
        self._uploads = Uploads(host.blobs)
        self._waiting: deque[KernelCall | None] = deque()  # None ends a batch
        self._more = asyncio.Event()
        self.items = 0

    async def serve(self) -> EndReason:
        """Serve; why it ended. Being cancelled ends it at once."""
        tasks = (asyncio.create_task(self._listen()), asyncio.create_task(self._run_all()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return _why(done.pop())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for item in self._waiting:
                if item is not None:
                    self._host.blobs.unpin(item.code)
            self._uploads.close()

    async def _listen(self) -> None:
        """Take messages until Close."""
        while not isinstance(message := await self._link.receive(), Close):
            self._take(message)

    def _take(self, message: Incoming) -> None:
        link = self._link
        try:
            match message:
                case Data(PutHead(digest, offset, total), data):
                    if self._uploads.put(digest, offset, total, data):
                        link.send(Stored(digest))
                case Have(digests):
                    missing = self._host.blobs.missing(digests)
                    link.send(Missing(tuple(d for d, _ in missing), tuple(n for _, n in missing)))
                case RunBatch(items):
                    self._enqueue(items)
                case Configure(modules):
                    link.send(Configured(self._host.configure(modules)))
                case Ping(seq):
                    link.send(Pong(seq))
                case Pong():
                    pass
                case _:
                    detail = f"a {type(message).__name__} is not for a session"
                    link.send(Error(code=ErrorCode.UNEXPECTED, detail=detail, fatal=False))
        except LinkClosed:
            raise
        except FleetError as error:
            link.send(_refusal(message, error))

    def _enqueue(self, items: tuple[KernelCall, ...]) -> None:
        limits = self._host.limits
        if len(items) > limits.batch:
            raise FleetError(f"a batch of {len(items)} items, the limit is {limits.batch}")
        if len(self._waiting) + len(items) > limits.queued:
            raise FleetError(f"more than {limits.queued} items wait; take their results first")
        for item in items:
            self._host.allow(item)
        for item in items:
            self._host.blobs.pin(item.code)
            self._waiting.append(item)
        self._waiting.append(None)
        self._more.set()

    async def _run_all(self) -> None:
        while True:
            await self._more.wait()
            while self._waiting:
                item = self._waiting.popleft()
                if item is None:
                    await self._host.between()
                else:
                    await self._run(item)
            self._more.clear()

    async def _run(self, item: KernelCall) -> None:
        try:
            outcome = await self._host.run(item)
        finally:
            self._host.blobs.unpin(item.code)
        self.items += 1
        with outcome.output as output:
            for at in range(0, len(output), _CHUNK_BYTES):
                piece = output[at : at + _CHUNK_BYTES]
                await self._link.send_data(OutputHead(item.id, at, len(output)), piece)
        self._link.send(outcome.result)
        await self._link.drain()


def _refusal(message: Incoming, error: FleetError) -> Error:
    """The answer to what a session does not do, which says what that was."""
    code = ErrorCode.AUTH if isinstance(error, AuthError) else ErrorCode.REFUSED
    if isinstance(error, BlobError):
        code = error.code
    digest, item = b"", 0
    match message:
        case Data(PutHead() as head):
            digest = head.digest
        case RunBatch(items) if items:
            item = items[0].id
    return Error(code=code, detail=str(error), fatal=False, digest=digest, item=item)


def _why(task: asyncio.Task[None]) -> EndReason:
    """Why a session ended when `task` did.

    Raises: what `task` raised, unless the client was lost or spoke nonsense.
    """
    error = task.exception()
    if error is None:
        return EndReason.RELEASED
    if isinstance(error, FleetError):
        return EndReason.CLIENT_LOST
    raise error

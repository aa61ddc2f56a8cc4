"""One framed connection: messages in and out, with limits on everything that a peer could exhaust.

A link belongs to one event loop, whichever thread that runs in, and all its methods are called
there. There are two ways to read it: `receive`, for conversations, and `on_message`, which calls
back as bytes arrive, for a server with many links. Bytes that are not read stay in one bounded
buffer; when that is full the link stops reading, and the other side has to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

from loopwright.errors import AuthError, ConfigError, FleetError
from loopwright.fleet.wire.address import Scheme, parse
from loopwright.fleet.wire.codec import Incoming, data_frame, from_frame, to_frame
from loopwright.fleet.wire.faults import Fault, Tally
from loopwright.fleet.wire.frame import DATA_BYTES, Decoder, Flags, Frame, FrameError, header
from loopwright.fleet.wire.messages import (
    Error,
    Message,
    OutputHead,
    PutHead,
)
from loopwright.fleet.wire.peer import LinkPeer, peer_of
from loopwright.fleet.words import ErrorCode

_WITH_MAC = {flags: Flags(flags) | Flags.MAC for flags in range(2)}
_HIGH_WATER = 2 << 20
_READ_BYTES = 256 << 10

OnMessage: TypeAlias = Callable[[Incoming, int], None]
OnClosed: TypeAlias = Callable[[str], None]


_OTHERWISE = {
    "tcp": ", or speaks TLS alone (tls://)",
    "tls": ", or takes no TLS of this version",
}
"""What else it may mean that the other side hangs up at once, by the scheme of its address."""


class BusyError(FleetError):
    """The other side hung up before it had let this one in, as servers do that have too much to do.

    Nothing was lost: to try again in a moment helps.
    """

    def __init__(self, address: str, tried: str = "") -> None:
        other = _OTHERWISE.get(address.partition(":")[0], "")
        more = f" ({tried})" if tried else ""
        said = f"{address} is busy{other}: it hung up before it let this one in{more}"
        super().__init__(said, retryable=True)
        self.address = address


class LinkClosed(FleetError):  # noqa: N818  # it says what happened, not who erred
    """The connection is gone."""

    def __init__(self, why: str) -> None:
        super().__init__(why, retryable=True)


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What a peer can make a link hold, in bytes, and how long closing may take."""

    unsent: int = 16 << 20
    unread: int = 2 * DATA_BYTES
    linger_s: float = 2.0


@dataclass(frozen=True, slots=True)
class LinkHooks:
    """What a listener wants to know of its links."""

    made: Callable[[Link], None]
    established: Callable[[Link], None]
    lost: Callable[[Link], None]


class FrameSeal(Protocol):
    """Authenticates the frames of one direction, in order; `security.mac` has one."""

    def tag(self, header: bytes, body: bytes | memoryview) -> bytes:
        """The MAC of the next frame."""

    def verify(self, header: bytes, body: bytes | memoryview, mac: bytes) -> None:
        """Raises: FrameError unless the next frame is the one that was sent."""


class _Arrivals(threading.local):
    """Where bytes arrive: one buffer for all links of a thread, which take them out at once.

    So no object of the size that a read may have is made for each message.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_READ_BYTES))


_arrivals = _Arrivals()


class Link(asyncio.BufferedProtocol):
    """A connection that carries messages. Made by `dial`, `pair` and `Listener`."""

    def __init__(
        self,
        limits: LinkLimits = LinkLimits(),  # frozen
        tally: Tally | None = None,
        hooks: LinkHooks | None = None,
    ) -> None:
        self.peer = LinkPeer(address="nobody yet")
        self.tally = Tally() if tally is None else tally
        self.closed = False
        self.why = ""
        self._limits = limits
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._macs: tuple[FrameSeal, FrameSeal] | None = None  # of what we send, of what we get
        self._on_message: OnMessage | None = None
        self._on_closed: OnClosed | None = None
        self._reader: asyncio.Future[None] | None = None
        self._lost = self._loop.create_future()
        self._drained: asyncio.Future[None] | None = None
        self._cork: list[bytes] | None = None
        self._held = self._reading_paused = self._writing_paused = False
        self._deaf = False  # closed by this side: what is still unread is not wanted

    @property
    def callback_mode(self) -> bool:
        """Whether `on_message` was called."""
        return self._on_message is not None

    # --- sending ---

    def send(self, message: Message, stream: int = 0) -> None:
        """Send a message; never waits.

        Raises: LinkClosed when the link is; FrameError for a message that is too large.
        """
        self._send_frame(to_frame(message, stream))

    async def send_data(
        self, head: PutHead | OutputHead, data: bytes | memoryview, stream: int = 0
    ) -> None:
        """Send bulk data of at most 1 MiB, once the other side has taken most of what went before.

        Raises: LinkClosed when the link is, or becomes so.
        """
        self._send_frame(data_frame(head, data, stream))
        await self.drain()

    async def drain(self) -> None:
        """Wait until little is left to be sent.

        Raises: LinkClosed when the link is, or becomes so.
        """
        while self._writing_paused and not self.closed:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)
        if self.closed:
            raise LinkClosed(self.why)

    def _send_frame(self, frame: Frame) -> None:
        transport = self._transport
        if self.closed or transport is None:
            raise LinkClosed(self.why or "the link is not open yet")
        macs, body = self._macs, frame.body
        if macs is None:
            data = header(frame.type, len(body), frame.stream, frame.flags) + body
        else:
            head = header(frame.type, len(body), frame.stream, _WITH_MAC[frame.flags.real])
            data = b"".join((head, body, macs[0].tag(head, body)))
        if self._cork is not None:
            self._cork.append(data)
            return
        transport.write(data)
        if self._writing_paused and transport.get_write_buffer_size() > self._limits.unsent:
            self._too_slow()

    def _too_slow(self) -> None:
        self.tally.count(Fault.SLOW_READER)
        self._shut(f"{self.peer.address} does not read: over {self._limits.unsent} bytes unsent")
        self.abort()

    # --- receiving ---

    async def receive(self, timeout_s: float | None = None) -> Incoming:
        """The next message.

        Raises: LinkClosed when none can come; FrameError for bytes that are not a valid
            message, after which the link is closed; TimeoutError.
        """
        return (await self.receive_on_stream(timeout_s))[0]

    async def receive_on_stream(self, timeout_s: float | None = None) -> tuple[Incoming, int]:
        """The next message and its stream; raises as `receive` does."""
        if timeout_s is None:
            return await self._receive()
        async with asyncio.timeout(timeout_s):
            return await self._receive()

    async def _receive(self) -> tuple[Incoming, int]:
        while True:
            if (taken := self._take()) is not None:
                return taken
            if self.closed:
                raise LinkClosed(self.why)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def _take(self) -> tuple[Incoming, int] | None:
        if self._deaf:
            return None
        try:
            frame = self._decoder.next_frame()
            if frame is None:
                if self._reading_paused and not self._held:
                    self._resume_transport()
                return None
            message = self._authentic(frame)
        except FrameError as error:
            self._refuse(error)
            raise
        if (
            self._reading_paused
            and not self._held
            and self._decoder.buffered <= self._limits.unread // 2
        ):
            self._resume_transport()
        return message, frame.stream

    def _authentic(self, frame: Frame) -> Incoming:
        macs = self._macs
        if macs is None:
            if frame.mac:
                raise FrameError("an authenticated frame before there is a key", Fault.SURPRISE_MAC)
        elif not frame.mac:
            raise FrameError("a frame without the MAC that was agreed on", Fault.MISSING_MAC)
        else:
            macs[1].verify(frame.header, frame.body, frame.mac)
        return from_frame(frame)

    def on_message(self, callback: OnMessage, on_closed: OnClosed) -> None:
        """From now on call `callback(message, stream)` for each message, as they arrive, and
        `on_closed(why)` once when the link is gone. What `callback` sends goes out when it returns.
        """
        self._on_message, self._on_closed = callback, on_closed
        if self._lost.done():
            self._loop.call_soon(self._tell_closed)
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        callback = self._on_message
        if callback is None or self._cork is not None:
            return
        self._cork = []
        try:
            while not self._held and (taken := self._take()) is not None:
                callback(*taken)
        except FrameError:
            pass  # the link is closed, `on_closed` says why
        finally:
            self._uncork()

    def _uncork(self) -> None:
        waiting, self._cork = self._cork, None
        if self._transport is None or self._transport.is_closing():
            return
        if waiting:
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
            if self._transport.get_write_buffer_size() > self._limits.unsent:
                self._too_slow()
        if self.closed:
            self._finish(self._transport)

    def pause_reading(self) -> None:
        """Deliver no more messages, so that the other side has to wait."""
        self._held = True
        self._pause_transport()

    def resume_reading(self) -> None:
        """Deliver messages again."""
        self._held = False
        self._loop.call_soon(self._deliver)
        self._resume_transport()

    def _pause_transport(self) -> None:
        if self._transport is not None and not self._reading_paused and not self.closed:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_transport(self) -> None:
        if self._transport is not None and self._reading_paused and not self.closed:
            self._reading_paused = False
            self._transport.resume_reading()

    # --- the handshake ---

    def protect(self, ours: FrameSeal, theirs: FrameSeal) -> None:
        """From the next frame on, both ways, frames are authentic or the link is closed.

        Args:
            ours: of the frames that are sent from here.
            theirs: of those that come.
        """
        self._macs = ours, theirs

    def established(self) -> None:
        """The handshake is done: the listener's deadline no longer holds."""
        if self._hooks is not None:
            self._hooks.established(self)

    # --- the end ---

    def close(self, why: str = "") -> None:
        """Close, after what was sent has gone out."""
        self._deaf = True
        self._shut(why or "closed by this side")
        if self._transport is not None and self._cork is None:
            self._finish(self._transport)

    def _finish(self, transport: asyncio.Transport) -> None:
        if transport.is_closing():
            return  # to be closed twice breaks a TLS transport
        transport.close()
        if not self._lost.done() and transport.get_write_buffer_size():
            self._loop.call_later(self._limits.linger_s, transport.abort)

    def abort(self, why: str = "") -> None:
        """Close at once; what is unsent is lost."""
        self._deaf = True
        self._shut(why or "closed by this side")
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await asyncio.shield(self._lost)

    def _refuse(self, error: FrameError) -> None:
        """Close because of what the other side sent, and tell it once."""
        self.tally.count(error.fault)
        if not self.closed:
            with contextlib.suppress(LinkClosed):
                self.send(Error(code=ErrorCode.PROTOCOL, detail=str(error)[:200]))
        self.close(str(error))

    def _shut(self, why: str) -> None:
        if not self.closed:
            self.closed, self.why = True, why
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._drained is not None and (self.closed or not self._writing_paused):
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def _tell_closed(self) -> None:
        tell, self._on_closed = self._on_closed, None
        if tell is not None:
            tell(self.why)

    def _end(self) -> None:
        if not self._lost.done():
            self._lost.set_result(None)
        if self._hooks is not None:
            self._hooks.lost(self)
        self._tell_closed()

    # --- what the transport calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.peer = peer_of(self._transport)
        if self._hooks is not None:
            self._hooks.made(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # of the protocol
        """Called by the transport, which calls `buffer_updated` before anything else happens."""
        return _arrivals.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the transport."""
        if self.closed:
            return
        self._decoder.push(_arrivals.buffer[:nbytes])
        if self._on_message is not None:
            self._deliver()
        elif self._reader is not None:
            self._wake()
        if self._decoder.buffered > self._limits.unread:
            self._pause_transport()

    def eof_received(self) -> bool | None:
        """Called by the transport: half-closed connections are of no use."""
        return None

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._writing_paused = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        said = f": {exc}" if exc is not None else ""
        self._shut(f"{self.peer.address} closed the connection{said}")
        self._end()


async def dial(
    address: str,
    *,
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
    limits: LinkLimits = LinkLimits(),  # frozen
    tally: Tally | None = None,
) -> Link:
    """A link to `address`: `tcp://host:port`, `tls://host:port` or `unix:///path`.

    Raises: ConfigError for an invalid address, or tls:// without a context; AuthError when
        the other side's certificate is not good, or it speaks no TLS; BusyError when it hangs up
        in the midst of it; FleetError when nobody is there.
    """
    where = parse(address)
    loop = asyncio.get_running_loop()
    if where.scheme is Scheme.TLS and tls is None:
        raise ConfigError(f"{where}: give the CA that its certificate is checked with (--ca)")
    try:
        async with asyncio.timeout(timeout_s):
            if where.scheme is Scheme.UNIX:
                _, link = await loop.create_unix_connection(lambda: Link(limits, tally), where.path)
            else:
                _, link = await loop.create_connection(
                    lambda: Link(limits, tally),
                    where.host,
                    where.port,
                    ssl=tls if where.scheme is Scheme.TLS else None,
                )
    except ssl.SSLError as error:
        raise AuthError(f"{where}: TLS failed: {error}") from error
    except TimeoutError as error:
        raise FleetError(f"{where} did not answer within {timeout_s} s", retryable=True) from error
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
        raise BusyError(str(where)) from error
    except OSError as error:
        said = error.strerror or str(error)
        raise FleetError(f"{where} cannot be reached: {said}", retryable=True) from error
    return link


async def pair(limits: LinkLimits = LinkLimits()) -> tuple[Link, Link]:  # frozen
    """Two ends of one connection within this process: the first counts as the one that dialled."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    try:
        _, first = await loop.create_connection(lambda: Link(limits), sock=one)
    except BaseException:  # cancelled
        one.close()
        other.close()
        raise
    try:
        _, second = await loop.create_connection(lambda: Link(limits), sock=other)
    except BaseException:
        first.abort()
        other.close()
        raise
    return first, second

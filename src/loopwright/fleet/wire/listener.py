"""Accepts connections and keeps those that say nothing from being in the way of others.

A connection is half-open until its handler calls `Link.established`. Until it says something it is
a descriptor and nothing more: who connects has to speak first. Newcomers take the place of those
that are silent for long, so that any number of them delays nobody. Of those that have spoken
`ListenLimits.half_open` are served at once, TLS handshakes included, and never put out for others,
who wait (`admission`). So a burst from one host is served in its turn, not refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from loopwright.errors import ConfigError, FleetError
from loopwright.fleet.wire.address import Address, Scheme, parse
from loopwright.fleet.wire.admission import Admission, AdmissionLimits
from loopwright.fleet.wire.faults import Fault, Tally
from loopwright.fleet.wire.link import Link, LinkHooks, LinkLimits
from loopwright.serving.places import is_loopback

_BACKLOG = 1024
_ACCEPTS_AT_ONCE = 32
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REST_S = 0.05


@dataclass(frozen=True, slots=True)
class ListenLimits:
    """How much room strangers have. `half_open` are silent at most, and so many served at once."""

    handshake_s: float = 3.0
    half_open: int = 64
    half_open_per_host: int = 16
    speak_s: float = 0.5  # so long nobody takes the place of one that has just come
    crowded: int = 512  # but of so many more that are silent, the oldest goes at once
    waiting: int = 1024  # to be served
    waiting_s: float = 10.0
    connections: int = 20_000
    link: LinkLimits = field(default_factory=LinkLimits)


@dataclass(eq=False, slots=True)
class _Guest:
    """A connection that is half-open. `host` is empty for this machine, which has no limit."""

    host: str
    sock: socket.socket
    came: float = 0.0
    deadline: float = 0.0
    link: Link | None = None
    task: asyncio.Task[None] | None = None


class Listener:
    """Listens on one address; `handler(link)` is a task for each connection.

    When the handler returns its link is closed, unless it called `Link.on_message`.
    """

    def __init__(
        self,
        address: str,
        handler: Callable[[Link], Awaitable[None]],
        *,
        tls: ssl.SSLContext | None = None,
        limits: ListenLimits = ListenLimits(),  # frozen
        tally: Tally | None = None,
    ) -> None:
        self._asked = parse(address)
        if (self._asked.scheme is Scheme.TLS) != (tls is not None):
            raise ConfigError(f"{self._asked}: tls:// and a certificate go together")
        self.tally = Tally() if tally is None else tally
        self.addresses: tuple[str, ...] = ()
        self._handler = handler
        self._tls = tls
        self._limits = limits
        self._sockets: list[socket.socket] = []
        self._guests: Admission[_Guest] = Admission(
            AdmissionLimits(
                total=limits.half_open,
                per_host=limits.half_open_per_host,
                crowded=limits.crowded,
                waiting=limits.waiting,
                speak_s=limits.speak_s,
                silent_s=limits.handshake_s,
                served_s=limits.handshake_s,
                waiting_s=limits.waiting_s,
            )
        )
        self._by_link: dict[Link, _Guest] = {}
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None  # of the guest that is overdue first
        self._closing = False
        self._inode: tuple[int, int] | None = None
        self._hooks = LinkHooks(self._made, self._established, self._link_lost)

    async def __aenter__(self) -> Listener:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def half_open(self) -> int:
        """Connections whose handshake is not done."""
        return len(self._guests)

    @property
    def links(self) -> frozenset[Link]:
        """Connections, half-open ones too."""
        return frozenset(self._links)

    async def start(self) -> None:
        """Bind and listen; `addresses` says where.

        Raises: FleetError when the address is taken; ConfigError when it cannot be bound at all.
        """
        self._loop = asyncio.get_running_loop()
        if self._asked.scheme is Scheme.UNIX:
            sock = _bind_unix(self._asked)
            status = Path(self._asked.path).stat()
            self._inode = status.st_dev, status.st_ino
            self._sockets = [sock]
            self.addresses = (str(self._asked),)
        else:
            self._sockets = await _bind_tcp(self._asked)
            self.addresses = tuple(
                str(Address(self._asked.scheme, s.getsockname()[0], s.getsockname()[1]))
                for s in self._sockets
            )
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        self._closing = True
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        if self._inode is not None:
            _remove_socket(Path(self._asked.path), self._inode)
            self._inode = None
        for guest in self._guests.guests:
            self._leave(guest)
            self._throw_out(guest, "the listener closes")
        self._arm()
        links = tuple(self._links)
        for link in links:
            link.close("the listener closes")
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *(x.wait_closed() for x in links), return_exceptions=True)

    # --- accepting ---

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._out_of_descriptors(listening)
                return
            self._welcome(sock, str(name[0]) if name else "unix")

    def _out_of_descriptors(self, listening: socket.socket) -> None:
        self.tally.count(Fault.NO_DESCRIPTORS)
        silent = self._guests.oldest_silent()
        if silent is not None:
            self._evict(silent, Fault.EVICTED)
        self._loop.remove_reader(listening.fileno())
        self._loop.call_later(_REST_S, self._accept_again, listening)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _welcome(self, sock: socket.socket, host: str) -> None:
        sock.setblocking(False)
        if len(self._links) >= self._limits.connections:
            self.tally.count(Fault.TOO_MANY)
            sock.close()
            return
        near = host == "unix" or is_loopback(host)
        guest = _Guest("" if near else host, sock)
        self._guests.came(guest, self._loop.time())
        self._loop.add_reader(sock.fileno(), self._speaks, guest)
        self._put_out_overdue()

    def _speaks(self, guest: _Guest) -> None:
        """The first bytes of a guest are there, or its end."""
        self._loop.remove_reader(guest.sock.fileno())
        if not self._guests.spoke(guest, self._loop.time()):
            self.tally.count(Fault.TOO_MANY)
            guest.sock.close()
            return
        self._serve_next()

    def _serve_next(self) -> None:
        """Serve guests that wait, as far as there is room."""
        while not self._closing and (guest := self._guests.next(self._loop.time())) is not None:
            guest.task = self._loop.create_task(self._serve(guest))
            self._tasks.add(guest.task)
            guest.task.add_done_callback(self._tasks.discard)
        self._arm()

    def _evict(self, guest: _Guest, fault: Fault) -> None:
        self.tally.count(fault)
        self._leave(guest)
        self._throw_out(guest, f"closed: {fault.value}")

    def _throw_out(self, guest: _Guest, why: str) -> None:
        """End a guest at once."""
        if guest.task is None:
            self._loop.remove_reader(guest.sock.fileno())  # of one that waits there is none
            guest.sock.close()
            return
        if guest.link is not None:
            guest.link.abort(why)
        else:
            guest.sock.close()
        guest.task.cancel()

    def _put_out_overdue(self) -> None:
        now = self._loop.time()
        for guest in self._guests.overdue(now):
            if guest.deadline > now:  # another made room for it
                continue
            if self._guests.silent(guest) and _has_spoken(guest.sock):
                self._speaks(guest)  # it is only that nobody looked yet
            else:
                self._evict(guest, self._guests.fault_of(guest))
        self._arm()

    def _arm(self) -> None:
        """One timer is enough for all: it is never later than the first deadline."""
        due = self._guests.due
        if self._timer is not None and (due is None or due < self._timer.when()):
            self._timer.cancel()
            self._timer = None
        if due is not None and self._timer is None:
            self._timer = self._loop.call_at(due, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        self._put_out_overdue()

    def _leave(self, guest: _Guest) -> None:
        self._guests.left(guest)
        if guest.link is not None:
            self._by_link.pop(guest.link, None)
        self._serve_next()

    # --- serving ---

    async def _serve(self, guest: _Guest) -> None:
        link = Link(self._limits.link, self.tally, self._hooks)
        guest.link = link
        self._by_link[link] = guest
        try:
            await self._loop.connect_accepted_socket(
                lambda: link,
                guest.sock,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.handshake_s if self._tls else None,
            )
        except (OSError, ssl.SSLError):
            if self._tls is not None:
                self.tally.count(Fault.TLS)
            self._leave(guest)
            guest.sock.close()
            return
        except asyncio.CancelledError:
            guest.sock.close()
            link.connection_lost(None)  # which not every event loop says of one that it gave up
            raise
        await self._handle(link)

    async def _handle(self, link: Link) -> None:
        try:
            await self._handler(link)
        except (FleetError, TimeoutError) as error:
            link.close(str(error))  # refused and counted where it was found
        except Exception as error:  # noqa: BLE001  # the boundary of a connection: others go on
            self._loop.call_exception_handler(
                {"message": f"serving {link.peer.address} failed", "exception": error}
            )
            link.close("internal error")
        finally:
            if not link.callback_mode:
                link.close("served")

    def _made(self, link: Link) -> None:
        self._links.add(link)

    def _established(self, link: Link) -> None:
        guest = self._by_link.get(link)
        if guest is not None:
            self._leave(guest)

    def _link_lost(self, link: Link) -> None:
        self._established(link)
        self._links.discard(link)


def _has_spoken(sock: socket.socket) -> bool:
    """Whether bytes of a connection are there, or its end."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:  # it was reset
        return True
    return True


async def _bind_tcp(where: Address) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            where.host or None, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigError(f"{where}: no such host: {error}") from error
    sockets: list[socket.socket] = []
    port = where.port
    try:
        for family, kind, proto, _, name in dict.fromkeys(found):
            sock = socket.socket(family, kind, proto)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((name[0], port, *name[2:]))
            sock.listen(_BACKLOG)
            port = port or sock.getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _cannot_bind(where, error) from error
    return sockets


def _bind_unix(where: Address) -> socket.socket:
    path = Path(where.path)
    _clear_stale(where, path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(where.path)
        path.chmod(0o600)  # before listen: nobody can connect until then
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot_bind(where, error) from error
    return sock


def _clear_stale(where: Address, path: Path) -> None:
    """Remove the socket that a listener that died has left behind."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_bind(where, error) from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{where}: the file is there and is not a socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(where.path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as error:
            raise _cannot_bind(where, error) from error
    raise FleetError(f"{where}: another process listens there; stop it or choose another path")


def _remove_socket(path: Path, inode: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        status = path.lstat()
        if (status.st_dev, status.st_ino) == inode:
            path.unlink()


def _cannot_bind(where: Address, error: OSError) -> FleetError | ConfigError:
    said = error.strerror or os.strerror(error.errno or 0)
    if error.errno == errno.EADDRINUSE:
        return FleetError(f"{where}: another process listens there; stop it or choose another")
    return ConfigError(f"{where}: cannot listen there: {said}")

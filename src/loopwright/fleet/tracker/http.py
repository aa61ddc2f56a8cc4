"""The tracker's front for people and other languages: JSON, events, metrics and a dashboard.

It runs in the tracker's own event loop and asks the tracker itself, so it sees what the protocol
sees. It needs the extra `[server]`, and imports it only when it is used.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from loopwright.errors import ConfigError, FleetError
from loopwright.fleet.wire.address import is_loopback

if TYPE_CHECKING:
    import uvicorn

    from loopwright.fleet.tracker.http_feed import Feed
    from loopwright.fleet.tracker.server import Tracker

_BACKLOG = 256
_MOST_CONNECTIONS = 512
_KEEP_ALIVE_S = 30
_STOP_S = 2
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Place:
    """Where HTTP is served."""

    host: str
    port: int
    tls: bool

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def parse_place(text: str) -> Place:
    """The place that `text` spells: `http://host:port`, `https://host:port` or `host:port`.

    Raises: ConfigError for anything else.
    """
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    host, colon, port = rest.rstrip("/").rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    good = colon and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT
    if scheme not in ("http", "https") or not good or not host or "/" in host:
        raise ConfigError(f"{text!r} is no place for HTTP; write http://127.0.0.1:7080")
    return Place(host, int(port), scheme == "https")


class HttpServer:
    """Serves HTTP from `start` until it is closed. The address is taken when it is made.

    Args:
        address: as `parse_place` reads it; beyond this machine it must be https.
        tls_dir: folder with the server's certificate, for https.

    Raises: ConfigError for a place that is not safe, or without the extra; FleetError for one that
        is taken.
    """

    def __init__(self, address: str, tls_dir: Path | None = None) -> None:
        place = parse_place(address)
        self._tls = _certificate(place, tls_dir)
        _need_packages()
        self._socket, port = _bind(place)
        self._place = Place(place.host, port, place.tls)
        self._server: uvicorn.Server | None = None
        self._feed: Feed | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it is served, with the port that was taken."""
        return str(self._place)

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def start(self, tracker: Tracker) -> None:
        """Serve `tracker`, in the loop that runs now, until that loop or `stop` ends it."""
        import uvicorn

        from loopwright.fleet.tracker.http_app import make_app
        from loopwright.fleet.tracker.http_feed import Feed
        from loopwright.fleet.tracker.http_uvicorn import Impatient, Quiet

        self._feed = Feed(tracker)
        config = uvicorn.Config(
            make_app(tracker, self._feed, loopback=self._place.loopback),
            http=Impatient,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who asks is who connects
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_S,
        )
        config.load()
        config.ssl = self._tls
        self._server = Quiet(config)
        self._task = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[self._socket])
        )

    async def stop(self) -> None:
        """End streams, answer what is being answered, and stop."""
        if self._feed is not None:
            self._feed.close()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task


def _certificate(place: Place, tls_dir: Path | None) -> ssl.SSLContext | None:
    if not place.tls:
        if not place.loopback:
            raise ConfigError(
                f"refusing to serve {place}: tokens would travel in the clear; use https:// with "
                "--tls-dir (loopwright ca init), or 127.0.0.1"
            )
        return None
    if tls_dir is None:
        raise ConfigError(f"{place} needs a certificate: give --tls-dir (loopwright ca init)")
    from loopwright.fleet.security.authority import server_context

    return server_context(tls_dir)


def _need_packages() -> None:
    try:
        import fastapi
        import uvicorn
    except ImportError as error:
        raise ConfigError(
            f"--http needs the package {error.name}: pip install 'loopwright[server]'"
        ) from error
    del fastapi, uvicorn


def _bind(place: Place) -> tuple[socket.socket, int]:
    try:
        found = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, proto, _, name = found[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigError(f"{place}: no such host: {error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise FleetError(
            f"{place} cannot be served: {error.strerror}; stop what listens there or choose "
            "another port"
        ) from error
    return sock, int(sock.getsockname()[1])

"""Where HTTP is served: which addresses may be bound, and binding them.

The rule is the fleet's: beyond this machine nothing that carries tokens is served in the clear.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from loopwright.errors import ConfigError, FleetError
from loopwright.serving.tls import server_context

_BACKLOG = 256
_MAX_PORT = 65535


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine alone."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


@dataclass(frozen=True, slots=True)
class HttpPlace:
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


def parse_place(text: str) -> HttpPlace:
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
        raise ConfigError(
            f"{text!r} is not a place where HTTP can be served; write http://127.0.0.1:7080"
        )
    return HttpPlace(host, int(port), scheme == "https")


def context_for(place: HttpPlace, tls_dir: Path | None) -> ssl.SSLContext | None:
    """What `place` is served with: the server's certificate in `tls_dir`, None for plain HTTP.

    Raises: ConfigError where tokens would travel in the clear, or without a certificate.
    """
    if not place.tls:
        if not place.loopback:
            raise ConfigError(
                f"refusing to serve {place}: tokens would travel in the clear; use https:// with "
                "--tls-dir (loopwright ca init), or 127.0.0.1"
            )
        return None
    if tls_dir is None:
        raise ConfigError(f"{place} needs a certificate: give --tls-dir (loopwright ca init)")
    return server_context(tls_dir)


def bind(place: HttpPlace) -> tuple[socket.socket, HttpPlace]:
    """A socket that listens at `place`, and the place with the port that was taken.

    Raises: ConfigError for a host that does not exist; FleetError for a place that is taken.
    """
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
    return sock, HttpPlace(place.host, int(sock.getsockname()[1]), place.tls)

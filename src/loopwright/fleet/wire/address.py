"""Addresses of trackers and agents, and which of them may be bound without authentication."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from loopwright.errors import ConfigError
from loopwright.serving.places import is_loopback

MAX_UNIX_PATH = 107  # bytes that sockaddr_un holds
_MAX_PORT = 65535


class Scheme(enum.Enum):
    """How a connection is made."""

    TCP = "tcp"
    TLS = "tls"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class Address:
    """`tcp://host:port`, `tls://host:port` or `unix:///path`."""

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.scheme is Scheme.UNIX:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme.value}://{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost is taken not to."""
        return self.scheme is Scheme.UNIX or is_loopback(self.host)


def parse(text: str) -> Address:
    """The address that `text` spells; `host:port` alone is tcp.

    Raises: ConfigError for anything else.
    """
    name, found, rest = text.partition("://")
    if not found:
        name, rest = "tcp", text
    if not text.isprintable() or " " in text:
        raise ConfigError(f"address {text!r} has characters that no address has")
    try:
        scheme = Scheme(name)
    except ValueError:
        known = ", ".join(f"{s.value}://" for s in Scheme)
        raise ConfigError(f"address {text!r}: {name!r} is none of {known}") from None
    if scheme is Scheme.UNIX:
        return _unix(text, rest)
    host, colon, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"address {text!r}: write an IPv6 host in brackets, [::1]:7070")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise ConfigError(f"address {text!r} has no port; write {scheme.value}://host:7070")
    if "/" in host or "@" in host:
        raise ConfigError(f"address {text!r}: {host!r} is not a host")
    return Address(scheme, host, int(port))


def _unix(text: str, path: str) -> Address:
    if not path.startswith("/"):
        raise ConfigError(f"address {text!r}: write the whole path, unix:///run/loopwright.sock")
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ConfigError(
            f"address {text!r}: a socket's path has at most {MAX_UNIX_PATH} bytes, choose a "
            "shorter folder"
        )
    return Address(Scheme.UNIX, path=path)


def require_safe_binding(
    address: str, *, authenticated: bool, tls: bool, carries_secrets: bool = False
) -> None:
    """Check that it is safe to listen there.

    Args:
        authenticated: whether who connects must prove who it is.
        tls: whether the connections are TLS.
        carries_secrets: whether tokens or keys travel over them, which needs TLS beyond loopback.

    Raises: ConfigError otherwise.
    """
    where = parse(address)
    if where.loopback:
        return
    if not authenticated:
        raise ConfigError(
            f"refusing to listen on {where} without authentication: anybody who reaches it could "
            "run code here; issue tokens (loopwright token issue) or listen on 127.0.0.1"
        )
    if carries_secrets and not tls and where.scheme is not Scheme.TLS:
        raise ConfigError(
            f"refusing to listen on {where}: tokens and keys would travel in the clear; use "
            "tls:// (loopwright ca init) or listen on 127.0.0.1"
        )

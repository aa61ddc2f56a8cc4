"""Who is at the other end of a connection, as far as the kernel and TLS say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loopwright.fleet.wire.address import Address, Scheme
from loopwright.serving.places import is_loopback

KEEPALIVE_S, KEEPALIVE_PROBES = 5, 3
USER_TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPeer:
    """The other side of a link. `uid` is what the kernel says, of a unix socket only.

    `certificate` is the name in the certificate that the other side showed and ours trusts.
    """

    address: str
    uid: int | None = None
    tls: bool = False
    local: bool = False
    host: str = ""
    certificate: str = ""


def peer_of(transport: asyncio.Transport) -> LinkPeer:
    """Who is there; TCP options are set on the way."""
    sock: socket.socket = transport.get_extra_info("socket")
    shown = transport.get_extra_info("ssl_object")
    tls = shown is not None
    if sock.family == socket.AF_UNIX:
        uid = _uid(sock)
        return LinkPeer(
            address=f"unix socket, uid {uid}", uid=uid, tls=tls, local=True, host="unix"
        )
    tune(sock)
    name = transport.get_extra_info("peername")
    if not name:
        return LinkPeer(address="a connection that is gone", tls=tls)
    scheme = Scheme.TLS if tls else Scheme.TCP
    host = str(name[0])
    return LinkPeer(
        address=str(Address(scheme, host, int(name[1]))),
        tls=tls,
        local=is_loopback(host),
        host=host,
        certificate=_common_name(shown.getpeercert()) if tls else "",
    )


def _common_name(certificate: Mapping[str, Any] | None) -> str:
    """The common name of a verified certificate; an unverified one has no fields."""
    subject = (certificate or {}).get("subject", ())
    return next((str(v) for part in subject for k, v in part if k == "commonName"), "")


def _uid(sock: socket.socket) -> int | None:
    size = struct.calcsize("3i")
    with contextlib.suppress(OSError):
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", raw)[1])
    return None


def tune(sock: socket.socket) -> None:
    """Small messages at once, and a peer that is gone noticed within USER_TIMEOUT_MS."""
    with contextlib.suppress(OSError):  # a socket that is already gone
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)

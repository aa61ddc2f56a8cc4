"""Links, tickets and directories for tests of the fleet's wire and security."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from loopwright.fleet.security.handshake import owner
from loopwright.fleet.security.tickets import DeviceState, Ticket, seal, session_key
from loopwright.fleet.security.tokens import CodeRow, Principal, TokenRow
from loopwright.fleet.wire.address import parse
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.listener import Listener, ListenLimits
from loopwright.fleet.wire.messages import DeviceInfo, Opened
from loopwright.fleet.words import Role

T = TypeVar("T")
LIMIT_S = 20.0
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
LOOPBACK = "tcp://127.0.0.1:0"
USER = Principal("ada", "lab", Role.USER)
INFO = DeviceInfo(
    name="host/cpu0",
    labels={"board": "rpi4"},
    target="llvm -mcpu=x",
    device="a cpu",
    cores=(0, 1),
    addresses=(),
    tier=1,
)
STATE = DeviceState("host/cpu0", "boot-1", 4)


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; a test that hangs fails."""

    async def limited() -> T:
        try:
            async with asyncio.timeout(LIMIT_S):
                return await work
        finally:
            await _hang_up()

    return asyncio.run(limited())


async def _hang_up() -> None:
    """End the connections that a test has left, so that no later one is blamed for them."""
    transports = getattr(asyncio.get_running_loop(), "_transports", {})
    for transport in list(transports.values()):
        transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turn until `condition` holds; `run` bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


def a_ticket(**changes: object) -> Ticket:
    fields: dict[str, Any] = {
        "lease": "lease-1",
        "device": "host/cpu0",
        "incarnation": "boot-1",
        "epoch": 5,
        "tenant": "lab",
        "caps": (),
        "ttl_ms": 30_000,
    }
    return Ticket(**(fields | changes))


def sealed(key: bytes = KEY, **changes: object) -> tuple[bytes, bytes]:
    """A sealed ticket and the session key that goes with it."""
    data = seal(a_ticket(**changes), key)
    return data, session_key(key, data)


def opened(ticket: Ticket) -> Opened:
    """What a device answers."""
    return Opened(
        lease=ticket.lease,
        epoch=ticket.epoch,
        ttl_ms=ticket.ttl_ms,
        device=INFO,
        tier=1,
        max_wall_ms=1000,
        max_memory=1 << 30,
        max_blob=1 << 20,
    )


@dataclass
class Folk:
    """A directory in memory."""

    tokens: dict[str, TokenRow] = field(default_factory=dict)
    codes: dict[str, CodeRow] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    wall: float = 1000.0
    open_door: bool = False

    def now(self) -> float:
        return self.wall

    async def token(self, name: str) -> TokenRow | None:
        return self.tokens.get(name)

    async def certified(self, name: str) -> TokenRow | None:
        return next((row for row in self.tokens.values() if row.principal.name == name), None)

    async def code(self, name: str) -> CodeRow | None:
        return self.codes.get(name)

    async def enroll(self, code: CodeRow, agent: str) -> bytes | None:
        if self.codes[code.id].used:
            return None
        self.codes[code.id] = CodeRow(code.id, code.digest, code.expires_at, code.agent, used=True)
        self.keys[agent] = KEY
        return KEY

    async def agent_key(self, agent: str) -> bytes | None:
        return self.keys.get(agent)

    def anonymous(self, link: Link, role: str) -> Principal | None:
        del role
        return USER if self.open_door and (owner(link) or link.peer.local) else None

    async def local_key(self, agent: str, link: Link) -> bytes:
        del link
        return self.keys.setdefault(agent, OTHER_KEY)


@asynccontextmanager
async def served(
    handler: Callable[[Link], Awaitable[None]],
    address: str = LOOPBACK,
    *,
    tls: ssl.SSLContext | None = None,
    limits: ListenLimits = ListenLimits(),  # noqa: B008  # frozen
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[Listener, Link]]:
    """A listener with `handler`, and a link dialled to it."""
    async with Listener(address, handler, tls=tls, limits=limits) as listener:
        link = await dial(listener.addresses[0], tls=trust)
        try:
            yield listener, link
        finally:
            link.close()
            await link.wait_closed()


@asynccontextmanager
async def raw(listener: Listener) -> AsyncIterator[socket.socket]:
    """A socket that is connected to `listener` and speaks no protocol."""
    where = parse(listener.addresses[0])
    family = socket.AF_UNIX if where.path else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, where.path or (where.host, where.port))
        yield sock


async def gone(sock: socket.socket) -> bool:
    """Wait until the other side has closed `sock`; what it said before is read over."""
    loop = asyncio.get_running_loop()
    try:
        while await loop.sock_recv(sock, 65536):
            pass
    except ConnectionError:
        pass
    return True


QUICK = ListenLimits(handshake_s=0.15)

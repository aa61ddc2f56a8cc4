"""What an attack is, and the ends that attacks are made at.

An attack is a coroutine function that is given a Tally; it does its worst against something that
counts there. It has failed, as it must, when what it attacked refused and counted one fault.
Tables of attacks are lists of `Attack`; `must_fail` is the test for each.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from fleet_links import KEY, STATE, USER, Folk, run

from loopwright.errors import FleetError
from loopwright.fleet.security.handshake import Facts, accept_session, welcome
from loopwright.fleet.security.mac import FrameMac, channel_macs
from loopwright.fleet.security.tickets import DeviceState
from loopwright.fleet.security.tokens import CodeRow, Principal, TokenRow, make_code, make_token
from loopwright.fleet.wire.codec import to_frame
from loopwright.fleet.wire.faults import Denied, Fault, Tally
from loopwright.fleet.wire.frame import Flags, FrameError, header
from loopwright.fleet.wire.link import Link
from loopwright.fleet.wire.messages import Challenge, Message
from loopwright.fleet.wire.peer import LinkPeer
from loopwright.fleet.words import Role

Assault = Callable[[Tally], Awaitable[None]]
FACTS = Facts("tracker-1", 1, 1000)
FAR = LinkPeer(address="tcp://192.0.2.7:1", host="192.0.2.7")
TOKEN, EXPIRED, REVOKED, VIEWER, CODE, OLD_CODE = (
    make_token(),
    make_token(),
    make_token(),
    make_token(),
    make_code(),
    make_code(),
)


@dataclass(frozen=True, slots=True)
class Attack:
    """A named attack and the fault that it is counted as."""

    name: str
    fault: Fault
    assault: Assault


def must_fail(attack: Attack) -> None:
    """Run an attack: it is refused, and counted exactly as what it is."""
    tally = Tally()
    run(_refused(attack, tally))
    assert tally.figures() == {attack.fault.value: 1}


async def _refused(attack: Attack, tally: Tally) -> None:
    try:
        await attack.assault(tally)
    except (FleetError, FrameError):
        return
    raise AssertionError(f"{attack.name} was not refused")


def town() -> Folk:
    """A directory with one of everything, at wall time 1000."""
    return Folk(
        tokens={
            TOKEN.id: TokenRow(TOKEN.id, TOKEN.digest, USER, 2000.0),
            EXPIRED.id: TokenRow(EXPIRED.id, EXPIRED.digest, USER, 999.0),
            REVOKED.id: TokenRow(REVOKED.id, REVOKED.digest, USER, 2000.0, revoked=True),
            VIEWER.id: TokenRow(VIEWER.id, VIEWER.digest, Principal("eve", "x", Role.VIEWER)),
        },
        codes={
            CODE.id: CodeRow(CODE.id, CODE.digest, 2000.0, "board"),
            OLD_CODE.id: CodeRow(OLD_CODE.id, OLD_CODE.digest, 999.0),
        },
        keys={"board": KEY},
    )


async def victim(tally: Tally, *, far: bool = False) -> tuple[Link, socket.socket]:
    """A link, and the raw socket at its other end."""
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: Link(tally=tally), sock=theirs)
    if far:
        link.peer = FAR
    return link, mine


def bytes_at(data: bytes, *, key: bytes | None = None) -> Assault:
    """Send `data` to a link that reads; with `key` it wants authentic frames."""

    async def assault(tally: Tally) -> None:
        link, sock = await victim(tally)
        if key is not None:
            link.protect(*channel_macs(key, dialer=False))
        try:
            await asyncio.get_running_loop().sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)
            while True:
                await link.receive(5)
        finally:
            sock.close()

    return assault


def frame(kind: int, body: bytes, flags: Flags = Flags.NONE) -> bytes:
    return header(kind, len(body), 0, flags) + body


def message_of(kind: int, *fields: object) -> Assault:
    """Send a message with these fields, whatever its class would say to them."""
    return bytes_at(frame(kind, msgspec.msgpack.encode(fields)))


def framed(mac: FrameMac, message: Message) -> bytes:
    """An authentic frame."""
    plain = to_frame(message)
    head = header(plain.type, len(plain.body), 0, Flags.MAC)
    return head + plain.body + mac.tag(head, plain.body)


async def say(sock: socket.socket, *messages: Message) -> None:
    """Send plain messages."""
    data = b"".join(to_frame(message).encode() for message in messages)
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def hear(sock: socket.socket) -> Challenge:
    """The challenge that is sent."""
    from loopwright.fleet.wire.codec import from_frame
    from loopwright.fleet.wire.frame import Decoder

    decoder = Decoder()
    while True:
        for found in decoder.feed(await asyncio.get_running_loop().sock_recv(sock, 4096)):
            message = from_frame(found)
            assert isinstance(message, Challenge)
            return message


def at_tracker(*messages: Message, far: bool = False, directory: Folk | None = None) -> Assault:
    """Say this to a tracker as the first thing."""

    async def assault(tally: Tally) -> None:
        link, sock = await victim(tally, far=far)
        with sock:
            await say(sock, *messages)
            await welcome(link, town() if directory is None else directory, FACTS, timeout_s=2)

    return assault


def at_device(*messages: Message, state: DeviceState = STATE) -> Assault:
    """Say this to a device as the first thing."""

    async def assault(tally: Tally) -> None:
        link, sock = await victim(tally)
        with sock:
            await say(sock, *messages)
            known = {state.device: state}
            await accept_session(link, KEY, known.get, timeout_s=2)

    return assault


def denied(check: Callable[[], object]) -> Assault:
    """A check that must deny; counted as the boundary of a connection counts it."""

    async def assault(tally: Tally) -> None:
        try:
            check()
        except Denied as error:
            tally.count(error.fault)
            raise

    return assault

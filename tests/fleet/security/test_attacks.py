"""Attacks on tickets, proofs, authentic frames, credentials and listeners.

Those on bytes and the fields of messages are in test_attacks_messages.py; add to `ATTACKS` what
needs neither a tracker nor an agent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest
from fleet_attacks import (
    CODE,
    EXPIRED,
    FACTS,
    OLD_CODE,
    REVOKED,
    TOKEN,
    VIEWER,
    Assault,
    Attack,
    at_device,
    at_tracker,
    bytes_at,
    denied,
    framed,
    hear,
    must_fail,
    say,
    town,
    victim,
)
from fleet_links import KEY, LOOPBACK, OTHER_KEY, STATE, a_ticket, gone, raw, run, sealed

from loopwright.errors import FleetError
from loopwright.fleet.security.handshake import accept_session, welcome
from loopwright.fleet.security.keys import derive
from loopwright.fleet.security.mac import FrameMac, channel_macs
from loopwright.fleet.security.proofs import Purpose, prove
from loopwright.fleet.security.tickets import DeviceState, seal
from loopwright.fleet.security.tokens import (
    _checksum,
    check_token,
    make_code,
    make_token,
    require_role,
)
from loopwright.fleet.wire.codec import to_frame
from loopwright.fleet.wire.faults import Fault, Tally
from loopwright.fleet.wire.link import Link
from loopwright.fleet.wire.listener import Listener, ListenLimits
from loopwright.fleet.wire.messages import (
    Acquire,
    Hello,
    Message,
    Open,
    Ping,
    Pong,
    Proof,
    Release,
    RunBatch,
)
from loopwright.fleet.words import Role

NONCE = bytes(range(32))
GOOD, GOOD_KEY = sealed()


def changed(data: bytes, at: int) -> bytes:
    made = bytearray(data)
    made[at] ^= 1
    return bytes(made)


def ticket(data: bytes, state: DeviceState = STATE) -> Assault:
    return at_device(Open(ticket=data, nonce=NONCE), state=state)


def resealed(body: bytes) -> bytes:
    """What somebody with the key could make who does not keep to the format."""
    import hmac

    return body + hmac.digest(derive(KEY, b"loopwright ticket"), body, "sha256")


def state(**changes: object) -> DeviceState:
    fields: dict[str, object] = {
        "device": "host/cpu0",
        "incarnation": "boot-1",
        "last_epoch": 4,
        "lease": "",
        "expired": False,
    }
    return DeviceState(**(fields | changes))  # type: ignore[arg-type]


TICKETS = [
    Attack("forged ticket", Fault.BAD_TICKET, ticket(sealed(OTHER_KEY)[0])),
    Attack("ticket with a changed epoch", Fault.BAD_TICKET, ticket(changed(GOOD, 30))),
    Attack("ticket with a changed mac", Fault.BAD_TICKET, ticket(changed(GOOD, -1))),
    Attack("truncated ticket", Fault.BAD_TICKET, ticket(GOOD[:-1])),
    Attack("ticket without a mac", Fault.BAD_TICKET, ticket(GOOD[:-32])),
    Attack("ticket with a longer tail", Fault.BAD_TICKET, ticket(GOOD + b"\0")),
    Attack("empty ticket", Fault.BAD_TICKET, ticket(b"")),
    Attack("ticket of zeros", Fault.BAD_TICKET, ticket(bytes(100))),
    Attack("ticket of another version", Fault.BAD_TICKET, ticket(resealed(b"\x02" + GOOD[1:-32]))),
    Attack("ticket with junk inside", Fault.BAD_TICKET, ticket(resealed(b"\x01junk"))),
    Attack(
        "ticket with a field too many",
        Fault.BAD_TICKET,
        ticket(
            resealed(b"\x01" + msgspec.msgpack.encode([*msgspec.structs.astuple(a_ticket()), "x"]))
        ),
    ),
    Attack(
        "ticket that is not canonical",
        Fault.BAD_TICKET,
        ticket(resealed(GOOD[:-32].replace(b"\x05\xa3lab", b"\xcc\x05\xa3lab"))),
    ),
    Attack("ticket with epoch 0", Fault.BAD_TICKET, ticket(sealed(epoch=0)[0])),
    Attack("ticket with a negative ttl", Fault.BAD_TICKET, ticket(sealed(ttl_ms=-1)[0])),
    Attack("ticket that never ends", Fault.BAD_TICKET, ticket(sealed(ttl_ms=1 << 50)[0])),
    Attack("ticket of another device", Fault.OTHER_DEVICE, ticket(sealed(device="host/cpu1")[0])),
    Attack(
        "ticket of before a reboot",
        Fault.OTHER_INCARNATION,
        ticket(sealed(incarnation="boot-0")[0]),
    ),
    Attack("ticket of a lower epoch", Fault.OLD_EPOCH, ticket(sealed(epoch=3)[0])),
    Attack(
        "ticket used again after its lease ended",
        Fault.OTHER_LEASE,
        ticket(GOOD, state(last_epoch=5, lease="")),
    ),
    Attack(
        "ticket of another lease at one epoch",
        Fault.OTHER_LEASE,
        ticket(GOOD, state(last_epoch=5, lease="lease-2")),
    ),
    Attack(
        "expired ticket",
        Fault.EXPIRED_TICKET,
        ticket(GOOD, state(last_epoch=5, lease="lease-1", expired=True)),
    ),
]


# --- proofs ---


def prove_with(make: Callable[[bytes], Proof], nonce: bytes = NONCE) -> Assault:
    """Open with a good ticket, then answer the challenge with what `make` makes of it."""

    async def assault(tally: Tally) -> None:
        link, sock = await victim(tally)
        with sock:
            device = asyncio.create_task(accept_session(link, KEY, lambda _: STATE, timeout_s=2))
            await say(sock, Open(ticket=GOOD, nonce=nonce))
            await say(sock, make((await hear(sock)).nonce))
            await device

    return assault


def agent_proves(name: str, make: Callable[[bytes], Proof]) -> Assault:
    async def assault(tally: Tally) -> None:
        link, sock = await victim(tally)
        with sock:
            tracker = asyncio.create_task(welcome(link, town(), FACTS, timeout_s=2))
            await say(
                sock,
                Hello(
                    role="agent", proto_min=1, proto_max=1, software="x", auth="key", principal=name
                ),
            )
            await say(sock, make((await hear(sock)).nonce))
            await tracker

    return assault


def as_agent(nonce: bytes) -> Proof:
    return Proof(prove(KEY, Purpose.AGENT, nonce, NONCE), NONCE)


PROOFS = [
    Attack(
        "stolen ticket without its key",
        Fault.BAD_PROOF,
        prove_with(lambda nonce: Proof(prove(OTHER_KEY, Purpose.SESSION, nonce, NONCE))),
    ),
    Attack("proof of zeros", Fault.BAD_PROOF, prove_with(lambda _: Proof(bytes(32)))),
    Attack(
        "proof for an earlier challenge",
        Fault.BAD_PROOF,
        prove_with(lambda _: Proof(prove(GOOD_KEY, Purpose.SESSION, bytes(32), NONCE))),
    ),
    Attack(
        "proof made for another purpose",
        Fault.BAD_PROOF,
        prove_with(lambda nonce: Proof(prove(GOOD_KEY, Purpose.DEVICE, nonce, NONCE))),
    ),
    Attack(
        "proof with the nonces changed round",
        Fault.BAD_PROOF,
        prove_with(lambda nonce: Proof(prove(GOOD_KEY, Purpose.SESSION, NONCE, nonce))),
    ),
    Attack(
        "proof with a nonce that is too short to be fresh",
        Fault.BAD_PROOF,
        prove_with(
            lambda nonce: Proof(prove(GOOD_KEY, Purpose.SESSION, nonce, bytes(16))), bytes(16)
        ),
    ),
    Attack("truncated proof", Fault.BAD_MESSAGE, prove_with(lambda _: Proof(bytes(31), NONCE))),
    Attack("agent that is not known", Fault.UNKNOWN_AGENT, agent_proves("nobody", as_agent)),
    Attack(
        "agent with another's key",
        Fault.BAD_PROOF,
        agent_proves(
            "board", lambda nonce: Proof(prove(OTHER_KEY, Purpose.AGENT, nonce, NONCE), NONCE)
        ),
    ),
    Attack(
        "agent that answers as a client",
        Fault.BAD_PROOF,
        agent_proves(
            "board", lambda nonce: Proof(prove(KEY, Purpose.SESSION, nonce, NONCE), NONCE)
        ),
    ),
]


# --- authentic frames ---


def macs() -> FrameMac:
    return FrameMac(KEY, from_dialer=True)


def two_frames() -> tuple[bytes, bytes]:
    mac = macs()
    return framed(mac, Ping(1)), framed(mac, Ping(2))


def grown(data: bytes) -> bytes:
    """The frame with another stream in its header, which is authentic too."""
    return data[:8] + b"\1" + data[9:]


async def reflected(tally: Tally) -> None:
    """Send a frame back to the side that it came from."""
    link, sock = await victim(tally)
    link.protect(*channel_macs(KEY, dialer=False))
    with sock:
        link.send(Pong(1))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, await loop.sock_recv(sock, 4096))
        await link.receive(5)


ONE, TWO = two_frames()
FRAMES = [
    Attack("altered body", Fault.BAD_MAC, bytes_at(changed(ONE, 17), key=KEY)),
    Attack("altered mac", Fault.BAD_MAC, bytes_at(changed(ONE, -1), key=KEY)),
    Attack("altered stream", Fault.BAD_MAC, bytes_at(grown(ONE), key=KEY)),
    Attack("altered type", Fault.BAD_MAC, bytes_at(changed(ONE, 3), key=KEY)),
    Attack("mac of zeros", Fault.BAD_MAC, bytes_at(ONE[:-16] + bytes(16), key=KEY)),
    Attack("repeated frame", Fault.BAD_MAC, bytes_at(ONE + ONE, key=KEY)),
    Attack("frames out of order", Fault.BAD_MAC, bytes_at(TWO + ONE, key=KEY)),
    Attack("frame left out", Fault.BAD_MAC, bytes_at(TWO, key=KEY)),
    Attack("frame sent back", Fault.BAD_MAC, reflected),
    Attack(
        "key of the other direction",
        Fault.BAD_MAC,
        bytes_at(framed(FrameMac(KEY, from_dialer=False), Ping(1)), key=KEY),
    ),
    Attack(
        "key of another session",
        Fault.BAD_MAC,
        bytes_at(framed(FrameMac(OTHER_KEY, from_dialer=True), Ping(1)), key=KEY),
    ),
    Attack(
        "frame without its mac", Fault.MISSING_MAC, bytes_at(to_frame(Ping(1)).encode(), key=KEY)
    ),
    Attack(
        "flag of the mac removed",
        Fault.MISSING_MAC,
        bytes_at(ONE[:4] + b"\0" + ONE[5:-16], key=KEY),
    ),
    Attack("mac before there is a key", Fault.SURPRISE_MAC, bytes_at(ONE)),
]


# --- credentials ---


def hello(role: str, auth: str, principal: str = "", secret: str = "") -> Hello:
    return Hello(
        role=role,
        proto_min=1,
        proto_max=1,
        software="attack",
        auth=auth,
        principal=principal,
        secret=secret,
    )


def used_code() -> Assault:
    directory = town()
    row = directory.codes[CODE.id]
    directory.codes[CODE.id] = type(row)(row.id, row.digest, row.expires_at, row.agent, used=True)
    return at_tracker(hello("agent", "join", "board", CODE.text), directory=directory)


def typo(text: str) -> str:
    return text[:20] + ("a" if text[20] != "a" else "b") + text[21:]


UNKNOWN = make_token().text


def other_secret() -> None:
    """A token with the id of one that is known, and a good checksum."""
    parts = UNKNOWN.split("_")
    start = f"lwt_{TOKEN.id}_{parts[2]}"
    check_token(f"{start}_{_checksum(start)}", town().tokens[TOKEN.id], 1000.0)


CREDENTIALS = [
    Attack("hello without a credential", Fault.NO_CREDENTIAL, at_tracker(hello("client", "none"))),
    Attack("agent without one", Fault.NO_CREDENTIAL, at_tracker(hello("agent", "none", "x"))),
    Attack("unknown way in", Fault.NO_CREDENTIAL, at_tracker(hello("client", "root"))),
    Attack("role that is none", Fault.PROTOCOL, at_tracker(hello("admin", "token", "", UNKNOWN))),
    Attack("first message is no hello", Fault.UNEXPECTED, at_tracker(Release("lease-1", 1))),
    Attack(
        "acquire before hello",
        Fault.UNEXPECTED,
        at_tracker(Acquire(request="r", selector="board=x")),
    ),
    Attack("run before open", Fault.UNEXPECTED, at_device(RunBatch(()))),
    Attack("proof before open", Fault.UNEXPECTED, at_device(Proof(bytes(32)))),
    Attack("hello to a device", Fault.UNEXPECTED, at_device(hello("client", "none"))),
    Attack(
        "token with a typo",
        Fault.TOKEN_TYPO,
        at_tracker(hello("client", "token", "", typo(TOKEN.text))),
    ),
    Attack("no token at all", Fault.TOKEN_TYPO, at_tracker(hello("client", "token"))),
    Attack(
        "join code as a token",
        Fault.TOKEN_TYPO,
        at_tracker(hello("client", "token", "", CODE.text)),
    ),
    Attack(
        "token that was never issued",
        Fault.UNKNOWN_TOKEN,
        at_tracker(hello("client", "token", "", UNKNOWN)),
    ),
    Attack(
        "known id with another secret",
        Fault.UNKNOWN_TOKEN,
        denied(other_secret),
    ),
    Attack(
        "expired token",
        Fault.EXPIRED_TOKEN,
        at_tracker(hello("client", "token", "", EXPIRED.text)),
    ),
    Attack(
        "revoked token",
        Fault.REVOKED_TOKEN,
        at_tracker(hello("client", "token", "", REVOKED.text)),
    ),
    Attack(
        "user's token as an agent",
        Fault.NO_CREDENTIAL,
        at_tracker(hello("agent", "token", "board", TOKEN.text)),
    ),
    Attack(
        "agent's way in as a client",
        Fault.NO_CREDENTIAL,
        at_tracker(hello("client", "key", "board")),
    ),
    Attack("join as a client", Fault.NO_CREDENTIAL, at_tracker(hello("client", "join", "x", "y"))),
    Attack("join code used again", Fault.USED_CODE, used_code()),
    Attack(
        "expired join code",
        Fault.EXPIRED_CODE,
        at_tracker(hello("agent", "join", "new", OLD_CODE.text)),
    ),
    Attack(
        "join code of another agent",
        Fault.UNKNOWN_CODE,
        at_tracker(hello("agent", "join", "mine", CODE.text)),
    ),
    Attack(
        "join code that was never issued",
        Fault.UNKNOWN_CODE,
        at_tracker(hello("agent", "join", "new", make_code().text)),
    ),
    Attack(
        "join code with a typo",
        Fault.TOKEN_TYPO,
        at_tracker(hello("agent", "join", "new", typo(CODE.text))),
    ),
    Attack(
        "join without a name", Fault.BAD_NAME, at_tracker(hello("agent", "join", "", CODE.text))
    ),
    Attack(
        "token in the clear",
        Fault.PLAIN_SECRET,
        at_tracker(hello("client", "token", "", TOKEN.text), far=True),
    ),
    Attack(
        "join code in the clear",
        Fault.PLAIN_SECRET,
        at_tracker(hello("agent", "join", "new", CODE.text), far=True),
    ),
    Attack(
        "version apart by more than one",
        Fault.PROTOCOL,
        at_tracker(Hello(role="client", proto_min=7, proto_max=9, software="x", auth="none")),
    ),
    Attack(
        "session of a version apart by more than one",
        Fault.PROTOCOL,
        at_device(Open(ticket=GOOD, nonce=NONCE, proto_min=7, proto_max=9)),
    ),
    Attack(
        "role escalation",
        Fault.WRONG_ROLE,
        denied(lambda: require_role(VIEWER_PRINCIPAL, Role.OPERATOR, "drain")),
    ),
]
VIEWER_PRINCIPAL = town().tokens[VIEWER.id].principal


# --- connections ---


async def slowloris(tally: Tally) -> None:
    """A good Hello, one byte at a time, each in good time."""

    async def handler(link: Link) -> None:
        await welcome(link, town(), FACTS)

    listener = Listener(LOOPBACK, handler, limits=ListenLimits(handshake_s=0.15), tally=tally)
    async with listener, raw(listener) as sock:
        loop = asyncio.get_running_loop()
        closed = asyncio.create_task(gone(sock))
        start = time.perf_counter()
        for byte in to_frame(hello("client", "token", "", TOKEN.text)).encode():
            if closed.done():
                break
            await loop.sock_sendall(sock, bytes((byte,)))
            await asyncio.wait([closed], timeout=0.01)
        await closed
        assert time.perf_counter() - start < 5
        raise FleetError("closed")


async def flood(tally: Tally) -> None:
    """One connection too many that says nothing."""

    async def handler(link: Link) -> None:
        await link.receive()

    one = Listener(LOOPBACK, handler, limits=ListenLimits(half_open=4), tally=tally)
    async with one, raw(one) as oldest, raw(one), raw(one), raw(one), raw(one):
        await gone(oldest)
        assert one.half_open == 4
        raise FleetError("closed")


async def slow_reader(tally: Tally) -> None:
    """Ask for much and read nothing."""
    link, sock = await victim(tally)
    with sock:
        while True:
            link.send(hello("client", "none", "x" * 100, "y" * 200))


CONNECTIONS = [
    Attack("slowloris", Fault.HANDSHAKE_TIMEOUT, slowloris),
    Attack("flood of half-open connections", Fault.EVICTED, flood),
    Attack("reader that never reads", Fault.SLOW_READER, slow_reader),
]


ATTACKS = [*TICKETS, *PROOFS, *FRAMES, *CREDENTIALS, *CONNECTIONS]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused_and_counted(attack: Attack) -> None:
    must_fail(attack)


def test_each_attack_has_its_own_name() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 50


def test_what_the_attacks_are_made_of_is_good_where_it_should_be() -> None:
    async def work() -> None:
        link, sock = await victim(Tally())
        with sock:
            device = asyncio.create_task(accept_session(link, KEY, lambda _: STATE))
            await say(sock, Open(ticket=GOOD, nonce=NONCE))
            nonce = (await hear(sock)).nonce
            await say(sock, Proof(prove(GOOD_KEY, Purpose.SESSION, nonce, NONCE)))
            assert await device == a_ticket()
        link, sock = await victim(Tally())
        link.protect(*channel_macs(KEY, dialer=False))
        with sock:
            await asyncio.get_running_loop().sock_sendall(sock, ONE + TWO)
            messages: list[Message] = [await link.receive(1), await link.receive(1)]  # type: ignore[list-item]
            assert messages == [Ping(1), Ping(2)]

    run(work())
    assert seal(a_ticket(), KEY) == GOOD

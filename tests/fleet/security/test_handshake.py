from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fleet_links import (
    KEY,
    OTHER_KEY,
    STATE,
    USER,
    Folk,
    a_ticket,
    opened,
    run,
    sealed,
)

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.security.handshake import (
    Admitted,
    Anonymous,
    ByCode,
    ByKey,
    ByToken,
    Credential,
    Facts,
    accept_session,
    greet,
    open_session,
    welcome,
)
from loopwright.fleet.security.tickets import Ticket
from loopwright.fleet.security.tokens import CodeRow, TokenRow, make_code, make_token
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.wire.messages import PROTOCOL, Error, Hello, Ping, Pong, Welcome
from loopwright.fleet.wire.peer import LinkPeer

FACTS = Facts("tracker-1", 3, 2000)
FAR = LinkPeer(address="tcp://192.0.2.7:1", host="192.0.2.7")
TOKEN, CODE = make_token(), make_code()


def folk() -> Folk:
    return Folk(
        tokens={TOKEN.id: TokenRow(TOKEN.id, TOKEN.digest, USER, expires_at=2000.0)},
        codes={CODE.id: CodeRow(CODE.id, CODE.digest, 2000.0)},
        keys={"board": KEY},
    )


async def ends(*, far: bool = False) -> tuple[Link, Link]:
    one, other = await pair()
    if far:  # as if over a network without TLS
        one.peer = other.peer = FAR
    return one, other


async def meet(
    role: str, credential: Credential, directory: Folk, *, far: bool = False
) -> tuple[Welcome, Admitted, Link, Link]:
    one, other = await ends(far=far)
    answer, admitted = await asyncio.gather(
        greet(one, role, credential), welcome(other, directory, FACTS)
    )
    return answer, admitted, one, other


async def talk(one: Link, other: Link) -> None:
    """Both ways still work."""
    one.send(Ping(1))
    assert await other.receive(1) == Ping(1)
    other.send(Pong(1))
    assert await one.receive(1) == Pong(1)


async def bye(one: Link, other: Link) -> None:
    one.close()
    await other.wait_closed()


def test_a_token_lets_a_client_in_as_its_principal() -> None:
    async def work() -> None:
        answer, admitted, one, other = await meet("client", ByToken(TOKEN.text), folk())
        assert (answer.principal, answer.role, answer.tracker) == ("ada", 1, "tracker-1")
        assert admitted.principal == USER
        assert admitted.agent == ""
        assert admitted.proto == PROTOCOL
        await talk(one, other)
        await bye(one, other)

    run(work())


def test_a_join_code_brings_an_agent_its_key_once() -> None:
    async def work() -> None:
        directory = folk()
        answer, admitted, one, other = await meet("agent", ByCode("new", CODE.text), directory)
        assert answer.device_key == KEY
        assert admitted.agent == "new"
        assert directory.codes[CODE.id].used
        await bye(one, other)
        with pytest.raises(AuthError, match="was used"):
            await meet("agent", ByCode("other", CODE.text), directory)

    run(work())


def test_two_agents_with_one_code_at_once_do_not_both_join() -> None:
    async def work() -> None:
        directory = folk()
        met = await asyncio.gather(
            meet("agent", ByCode("one", CODE.text), directory),
            meet("agent", ByCode("two", CODE.text), directory),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, AuthError) for outcome in met) == 1

    run(work())


@pytest.mark.parametrize("far", [False, True])
def test_a_key_lets_an_agent_in_and_proves_the_tracker(far: bool) -> None:
    async def work() -> None:
        answer, admitted, one, other = await meet("agent", ByKey("board", KEY), folk(), far=far)
        assert answer.principal == "board"
        assert answer.device_key == b""
        assert admitted.agent == "board"
        assert (one._macs is not None) == far
        await talk(one, other)
        await bye(one, other)

    run(work())


def test_both_sides_protect_when_one_of_them_is_far() -> None:
    async def work() -> None:
        one, other = await ends()
        other.peer = FAR
        await asyncio.gather(
            greet(one, "agent", ByKey("board", KEY)), welcome(other, folk(), FACTS)
        )
        assert one._macs is not None
        assert other._macs is not None
        await talk(one, other)
        await bye(one, other)

    run(work())


def test_the_owner_needs_no_credential_where_the_door_is_open() -> None:
    async def work() -> None:
        directory = folk()
        directory.open_door = True
        _, admitted, one, other = await meet("client", Anonymous(), directory)
        assert admitted.principal == USER
        await bye(one, other)
        answer, admitted, one, other = await meet("agent", Anonymous("here"), directory)
        assert admitted.agent == "here"
        assert answer.device_key == OTHER_KEY
        await bye(one, other)

    run(work())


def test_a_tracker_that_does_not_have_the_key_is_found_out() -> None:
    async def work() -> None:
        one, other = await ends()

        async def impostor() -> None:
            from loopwright.fleet.wire.messages import Challenge, Proof

            assert isinstance(await other.receive(1), Hello)
            other.send(Challenge(bytes(32)))
            assert isinstance(await other.receive(1), Proof)
            other.send(
                Welcome(
                    proto=PROTOCOL,
                    tracker="evil",
                    tracker_epoch=1,
                    sync_ms=1000,
                    principal="board",
                    role=0,
                    device_key=b"",
                    proof=bytes(32),
                )
            )

        task = asyncio.create_task(impostor())
        with pytest.raises(Denied, match="proof"):
            await greet(one, "agent", ByKey("board", KEY))
        await task
        assert one.tally.of(Fault.BAD_PROOF) == 1
        await other.wait_closed()

    run(work())


def test_a_secret_is_not_sent_in_the_clear() -> None:
    async def work() -> None:
        for credential in (ByToken(TOKEN.text), ByCode("new", CODE.text)):
            one, other = await ends(far=True)
            with pytest.raises(AuthError, match="in the clear"):
                await greet(one, "client", credential)
            await bye(one, other)

    run(work())


def test_credentials_do_not_show_their_secret() -> None:
    for credential in (ByToken(TOKEN.text), ByCode("a", CODE.text), ByKey("a", KEY)):
        assert TOKEN.text not in repr(credential)
        assert CODE.text not in repr(credential)
        assert str(KEY) not in repr(credential)


@pytest.mark.parametrize(("low", "high"), [(PROTOCOL + 1, 9), (0, 0)])
def test_versions_too_far_apart_are_refused_with_both_ranges(low: int, high: int) -> None:
    async def work() -> None:
        one, other = await ends()
        task = asyncio.create_task(welcome(other, folk(), FACTS))
        one.send(Hello(role="client", proto_min=low, proto_max=high, software="old", auth="none"))
        with pytest.raises(FleetError, match=f"speaks protocol {low} to {high}"):
            await task
        assert "update the older" in getattr(await one.receive(1), "detail", "")
        assert other.tally.of(Fault.PROTOCOL) == 1
        await one.wait_closed()

    run(work())


def test_a_newer_side_that_still_speaks_our_version_is_welcome() -> None:
    async def work() -> None:
        one, other = await ends()
        task = asyncio.create_task(welcome(other, folk(), FACTS))
        one.send(
            Hello(
                role="client",
                proto_min=1,
                proto_max=PROTOCOL + 1,
                software="new",
                auth="token",
                principal="",
                secret=TOKEN.text,
            )
        )
        assert (await task).proto == PROTOCOL
        await bye(one, other)

    run(work())


# --- sessions ---


async def session(
    ticket: bytes, key: bytes, *, far: bool = False, mac: bool = False
) -> tuple[Ticket, Link, Link]:
    one, other = await ends(far=far)

    async def device() -> Ticket:
        ticket = await accept_session(other, KEY, lambda name: STATE if "cpu0" in name else None)
        other.send(opened(ticket))
        return ticket

    got, taken = await asyncio.gather(open_session(one, ticket, key, mac=mac), device())
    assert got == opened(taken)
    return taken, one, other


@pytest.mark.parametrize(
    ("far", "mac", "protected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_a_ticket_opens_a_session(far: bool, mac: bool, protected: bool) -> None:
    async def work() -> None:
        taken, one, other = await session(*sealed(), far=far, mac=mac)
        assert taken == a_ticket()
        assert (one._macs is not None) == protected
        await talk(one, other)
        await bye(one, other)

    run(work())


def test_a_client_finds_out_a_device_that_does_not_have_the_key() -> None:
    async def work() -> None:
        ticket, key = sealed()
        one, other = await ends()

        async def impostor() -> None:
            from loopwright.fleet.wire.messages import Challenge, Proof

            await other.receive(1)
            other.send(Challenge(bytes(32)))
            await other.receive(1)
            other.send(Proof(bytes(32)))
            other.send(opened(a_ticket()))

        task = asyncio.create_task(impostor())
        with pytest.raises(Denied, match="proof"):
            await open_session(one, ticket, key)
        await task
        await other.wait_closed()

    run(work())


@pytest.mark.parametrize(("code", "retryable"), [("device", True), ("protocol", False)])
def test_a_device_that_has_no_process_for_a_session_may_have_one_later(
    code: str, retryable: bool
) -> None:
    async def work() -> None:
        ticket, key = sealed()
        one, other = await ends()

        async def device() -> None:
            await accept_session(other, KEY, lambda _: STATE)
            other.send(Error(code=code, detail="the warden is not there"))
            other.close("no session")

        task = asyncio.create_task(device())
        with pytest.raises(FleetError, match="the warden is not there") as refused:
            await open_session(one, ticket, key)
        assert refused.value.retryable is retryable
        await task
        one.close("no session")

    run(work())


def test_a_higher_epoch_that_came_in_meanwhile_wins() -> None:
    async def work() -> None:
        from dataclasses import replace

        ticket, key = sealed()
        one, other = await ends()
        states = iter((STATE, replace(STATE, last_epoch=9)))
        device = asyncio.create_task(accept_session(other, KEY, lambda _: next(states)))
        with pytest.raises(AuthError, match="epoch 5"):
            await open_session(one, ticket, key)
        with pytest.raises(Denied):
            await device
        assert other.tally.of(Fault.OLD_EPOCH) == 1

    run(work())


def test_frames_of_an_older_connection_do_not_fit_into_a_newer_one() -> None:
    async def work() -> None:
        ticket, key = sealed()
        _, one, other = await session(ticket, key, mac=True)
        assert one._macs is not None
        old = one._macs[0]
        body = b"\x91\x01"
        head = b"x" * 16
        _, two, another = await session(ticket, key, mac=True)
        assert two._macs is not None
        while old.frames < two._macs[0].frames:
            old.tag(head, body)
        assert old.tag(head, body) != two._macs[0].tag(head, body)
        await bye(one, other)
        await bye(two, another)

    run(work())


@pytest.mark.parametrize("silent", [welcome, accept_session])
def test_a_silent_side_is_given_up(silent: Callable[..., Awaitable[object]]) -> None:
    async def work() -> None:
        one, other = await ends()
        arguments = (folk(), FACTS) if silent is welcome else (KEY, lambda _: STATE)
        with pytest.raises(FleetError, match="within"):
            await silent(other, *arguments, timeout_s=0.01)
        await one.wait_closed()

    run(work())

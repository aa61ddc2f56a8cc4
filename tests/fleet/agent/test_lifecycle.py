"""Sessions that end: by their clients, by time, by epochs, by signals, and what is left then."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from agents import (
    DEVICE,
    KEY,
    WAIT_S,
    Client,
    connect,
    gone,
    idle,
    item,
    options,
    processes_below,
    running,
    ticket,
    until,
    warden_pid,
    worker_pid,
)

import hostile_kernels
from loopwright.errors import AuthError
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import SessionLimits
from loopwright.fleet.security.signing import make_builder, sign
from loopwright.fleet.wire.messages import (
    Closed,
    Configure,
    Configured,
    Error,
    Have,
    Message,
    Missing,
    Ping,
    Pong,
    PutHead,
    RunBatch,
)
from loopwright.fleet.words import Health, Occupancy
from loopwright.runtime.cpu.native import object_code
from loopwright.sandbox.privileges import children


@pytest.fixture(scope="module")
def hostile_code(machine_dir: Path) -> bytes:
    return object_code(hostile_kernels.hostile()[0], machine_dir)


async def begin_loop(agent: Agent, client: Client, code: bytes) -> tuple[int, ...]:
    """Have the session run an endless candidate; the processes of the session and below it."""
    await client.upload(code)
    client.link.send(RunBatch((item(code, "loop", run_timeout_ms=10_000),)))
    device = agent.devices[DEVICE]
    await until(lambda: len(processes_below(worker_pid(device))) > 1)
    return processes_below(worker_pid(device))


async def last_word(client: Client) -> Closed:
    """The last message of a session that the device ends."""
    message = await client.link.receive(WAIT_S)
    assert isinstance(message, Closed), message
    return message


def test_a_client_that_hangs_up_leaves_nothing(machine_dir: Path, hostile_code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            pids = await begin_loop(agent, client, hostile_code)
            client.link.abort()
            await gone(pids)
            await idle(agent)
            again = await connect(agent, ticket(agent, 1))
            await again.doubles(hostile_code)
            await again.close()

    asyncio.run(scenario())


def test_a_session_ends_at_its_ttl_without_any_tracker(
    machine_dir: Path, hostile_code: bytes
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1, ttl_ms=400))
            pids = await begin_loop(agent, client, hostile_code)
            assert (await last_word(client)).reason == "expired"
            await gone(pids)
            await idle(agent)
            with pytest.raises(AuthError, match="has expired"):
                await connect(agent, ticket(agent, 1))

    asyncio.run(scenario())


def test_a_higher_epoch_ends_the_older_session_first(
    machine_dir: Path, hostile_code: bytes
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            old = await connect(agent, ticket(agent, 1))
            pids = await begin_loop(agent, old, hostile_code)
            new = await connect(agent, ticket(agent, 2))
            assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
            assert (await last_word(old)).reason == "expired"
            await new.doubles(hostile_code)
            for epoch, lease in ((1, "l1"), (2, "another")):
                with pytest.raises(AuthError):
                    await connect(agent, ticket(agent, epoch, lease=lease))
            await new.doubles(hostile_code)
            await new.close()

    asyncio.run(scenario())


def test_a_second_connection_with_the_same_ticket_takes_the_place_of_the_first(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            first = await connect(agent, ticket(agent, 1))
            second = await connect(agent, ticket(agent, 1))
            await last_word(first)
            await second.doubles(code)
            await second.close()

    asyncio.run(scenario())


def test_tickets_of_others_are_refused_and_disturb_nobody(machine_dir: Path, code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 3))
            for shown, key in (
                (ticket(agent, 4, incarnation="before"), KEY),
                (ticket(agent, 4, device="here/cpu9"), KEY),
                (ticket(agent, 4), b"x" * 32),
            ):
                with pytest.raises(AuthError):
                    await connect(agent, shown, key)
            await client.doubles(code)
            await client.close()

    asyncio.run(scenario())


def test_an_agent_that_starts_anew_is_another_incarnation(machine_dir: Path) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            shown = ticket(agent, 5)
        async with running(options(machine_dir)) as restarted:
            assert restarted.incarnation != agent.incarnation
            with pytest.raises(AuthError, match="has started anew"):
                await connect(restarted, shown)

    asyncio.run(scenario())


def test_a_measuring_process_that_is_killed_is_chance_once_and_then_the_candidate(
    machine_dir: Path, hostile_code: bytes
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            for lost, status, kind in ((1, "infra", "worker-lost"), (2, "crash", "crash")):
                await begin_loop(agent, client, hostile_code)
                os.kill(worker_pid(agent.devices[DEVICE]), signal.SIGKILL)
                result, _ = await client.result()
                assert (result.status, result.kind, result.lost) == (status, kind, lost), result
            await client.close()
            await idle(agent)

    asyncio.run(scenario())


def test_a_measuring_process_that_is_stopped_is_replaced(machine_dir: Path, code: bytes) -> None:
    async def scenario() -> None:
        plain = options(machine_dir)
        quick = replace(plain, timers=replace(plain.timers, grace_s=0.5))
        async with running(quick) as agent:
            client = await connect(agent, ticket(agent, 1))
            pid = worker_pid(agent.devices[DEVICE])
            for each in (pid, *children(pid)):  # without rights it is a child of a go-between
                os.kill(each, signal.SIGSTOP)
            await client.upload(code)
            client.link.send(RunBatch((item(code, "double", run_timeout_ms=100),)))
            result, _ = await client.result()
            assert result.status == "infra", result
            await gone((pid,))
            await client.doubles(code)
            await client.close()

    asyncio.run(scenario())


def test_a_stopped_session_is_killed_when_its_client_closes(machine_dir: Path) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            pid = worker_pid(agent.devices[DEVICE])
            os.kill(pid, signal.SIGSTOP)
            await client.close()
            await gone((pid,))
            await idle(agent)
            assert agent.devices[DEVICE].health is Health.GOOD

    asyncio.run(scenario())


def test_a_warden_that_is_killed_takes_its_session_along_and_is_replaced(
    machine_dir: Path, hostile_code: bytes
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            pids = await begin_loop(agent, client, hostile_code)
            device = agent.devices[DEVICE]
            os.kill(warden_pid(device), signal.SIGKILL)
            result, _ = await client.result()
            assert result.status == "infra", result
            await gone(pids)
            await client.doubles(hostile_code)
            await client.close()
            await idle(agent)
            await until(lambda: device.health is Health.GOOD)

    asyncio.run(scenario())


def test_closing_an_agent_leaves_no_process(machine_dir: Path, hostile_code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            pids = await begin_loop(agent, client, hostile_code)
            warden = warden_pid(agent.devices[DEVICE])
        await gone((*pids, warden))
        assert (await last_word(client)).reason == "device-lost"

    asyncio.run(scenario())


# --- uploads and limits ---


def test_a_second_upload_sends_no_byte(machine_dir: Path, tmp_path: Path, code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir), tmp_path) as agent:
            sent: list[int] = []
            for epoch in (1, 2):
                client = await connect(agent, ticket(agent, epoch))
                await client.upload(code)
                sent.append(client.sent)
                await client.close()
            assert sent == [len(code), 0]

    asyncio.run(scenario())


def test_an_upload_that_broke_off_is_continued_in_another_session(
    machine_dir: Path, tmp_path: Path, code: bytes
) -> None:
    import hashlib

    digest, half = hashlib.sha256(code).digest(), len(code) // 2

    async def scenario() -> None:
        async with running(options(machine_dir), tmp_path) as agent:
            first = await connect(agent, ticket(agent, 1))
            await first.link.send_data(PutHead(digest, 0, len(code)), code[:half])
            assert await first.ask(Ping(1)) == Pong(1)
            first.link.abort()
            await idle(agent)
            second = await connect(agent, ticket(agent, 1))
            assert await second.ask(Have((digest,))) == Missing((digest,), (half,))
            await second.upload(code)
            assert second.sent == len(code) - half
            await second.doubles(code)
            await second.close()

    asyncio.run(scenario())


def test_what_is_refused_is_told_and_the_session_goes_on(
    machine_dir: Path, tmp_path: Path, code: bytes
) -> None:
    limits = SessionLimits(
        wall_s=10.0, memory=1 << 30, blob=100_000, batch=2, queued=3, blobs=150_000
    )

    async def scenario() -> None:
        async with running(options(machine_dir, limits=limits), tmp_path) as agent:
            client = await connect(agent, ticket(agent, 1))
            many = tuple(item(code, "double", n) for n in range(3))
            expected = {
                "refused": RunBatch(many),
                "unexpected": Closed("released"),
            }
            for answer, message in expected.items():
                told = await client.ask(message)
                assert isinstance(told, Error), told
                assert (told.code, told.fatal) == (answer, False), told
            for total, answer in ((100_001, "too-large"), (100_000, None), (90_000, "quota")):
                digest = os.urandom(32)
                await client.link.send_data(PutHead(digest, 0, total), b"x")
                if answer is not None:
                    told = await client.link.receive(WAIT_S)
                    assert isinstance(told, Error)
                    assert told.code == answer, told
            await client.close()
            await idle(agent)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threads": 9}, "asks for 9 threads"),
        ({"run_timeout_ms": 3_600_000}, "ms of run time"),
        ({"run_memory": 1 << 40}, "bytes of memory"),
        ({"repeats": 5000}, "repeats"),
        ({"n_outputs": 3}, "outputs"),
        ({"code": bytes(32)}, "was not uploaded"),
    ],
)
def test_an_item_beyond_the_limits_is_answered_and_blames_no_candidate(
    machine_dir: Path, code: bytes, changes: dict[str, object], words: str
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            await client.upload(code)
            (result,) = await client.run(item(code, "double", **changes))
            assert result.status == "infra"
            assert words in result.detail
            await client.doubles(code)
            await client.close()

    asyncio.run(scenario())


def test_a_device_for_signed_code_runs_nothing_else(machine_dir: Path, code: bytes) -> None:
    pytest.importorskip("cryptography")
    import hashlib

    builder, stranger = make_builder(), make_builder()
    digest = hashlib.sha256(code).digest()

    async def scenario() -> None:
        made = options(machine_dir, signed_only=True, builders=(builder.public,))
        async with running(made) as agent:
            client = await connect(agent, ticket(agent, 1))
            await client.upload(code)
            for signature in (
                b"",
                sign(digest, stranger.secret),
                sign(bytes(32), builder.secret),
            ):
                told = await client.ask(RunBatch((item(code, "double", signature=signature),)))
                assert isinstance(told, Error), told
                assert told.code == "auth"
            good = item(code, "double", signature=sign(digest, builder.secret))
            (result,) = await client.run(good)
            assert result.status == "ok", result
            await client.close()

    asyncio.run(scenario())


def test_modules_are_put_in_place_once(machine_dir: Path, code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            missing = await client.ask(Configure({"runtime": "0" * 64}))
            assert isinstance(missing, Error)
            digest = (await client.upload(code)).hex()
            answers: list[Message | object] = [
                await client.ask(Configure({"runtime": digest})) for _ in range(2)
            ]
            assert answers == [Configured(("runtime",)), Configured(())]
            await client.close()
            again = await connect(agent, ticket(agent, 1))
            assert again.opened.modules == {"runtime": digest}
            await again.close()

    asyncio.run(scenario())


def test_a_session_of_a_device_that_is_being_cleaned_waits(machine_dir: Path, code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            for epoch in range(1, 6):
                client = await connect(agent, ticket(agent, epoch))
                assert agent.devices[DEVICE].occupancy is Occupancy.ACTIVE
                await client.doubles(code)
                await client.close()

    asyncio.run(scenario())

"""Wardens that hang, end, or cannot be started: none takes its device along for long."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from agents import (
    DEVICE,
    Client,
    alive,
    connect,
    cpu,
    gone,
    idle,
    options,
    running,
    ticket,
    until,
    warden_pid,
    worker_pid,
)

from loopwright.errors import FleetError
from loopwright.fleet.agent import wardens
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import AgentOptions
from loopwright.fleet.words import Health

PATIENCE_S = 1.0
CLOSE_S = 15.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is well takes long here: a warden is given up after a second."""
    monkeypatch.setattr(wardens, "_LADDER_S", 0.0)


def told(cache_dir: Path, beat_s: float = 1e9) -> AgentOptions:
    """An agent that asks its wardens every `beat_s` whether they are there."""
    plain = options(cache_dir)
    return replace(plain, timers=replace(plain.timers, beat_s=beat_s, warden_s=PATIENCE_S))


def stop_warden(agent: Agent) -> int:
    pid = warden_pid(agent.devices[DEVICE])
    os.kill(pid, signal.SIGSTOP)
    return pid


async def replaced(agent: Agent, pid: int) -> None:
    """Wait for another warden and for what it finds, and for the end of the one before."""
    device = agent.devices[DEVICE]
    await gone((pid,))
    await until(lambda: warden_pid(device) not in (0, pid) and device.health is Health.GOOD)


async def works(agent: Agent, epoch: int, code: bytes) -> None:
    client = await connect(agent, ticket(agent, epoch))
    await client.doubles(code)
    await client.close()
    await idle(agent)


@pytest.mark.usefixtures("impatient")
def test_an_idle_warden_that_is_stopped_is_noticed_and_replaced(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario() -> None:
        async with running(told(machine_dir, beat_s=0.05)) as agent:
            seen: list[str] = []
            device = agent.devices[DEVICE]
            pid = stop_warden(agent)
            await until(lambda: device.health is Health.BAD)
            seen.append(device.detail)
            await replaced(agent, pid)
            assert "the warden was lost: it does not answer" in seen[0]
            await works(agent, 1, code)

    asyncio.run(scenario())


def test_a_warden_that_was_stopped_with_its_agent_gets_time_to_answer(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario() -> None:
        async with running(told(machine_dir)) as agent:
            warden = cpu(agent.devices[DEVICE]).keeper.warden
            assert warden is not None
            pid = stop_warden(agent)
            now = time.monotonic()
            warden.beat(now)
            warden.beat(now + 3600.0)  # the machine was stopped meanwhile
            os.kill(pid, signal.SIGCONT)
            await until(lambda: warden._asked_at is None)
            await works(agent, 1, code)
            assert warden_pid(agent.devices[DEVICE]) == pid

    asyncio.run(scenario())


@pytest.mark.usefixtures("impatient")
def test_a_session_of_a_warden_that_is_stopped_is_refused_and_the_next_one_works(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario() -> None:
        async with running(told(machine_dir)) as agent:
            pid = stop_warden(agent)
            with pytest.raises(FleetError, match="it did not begin a session within 1 s"):
                await connect(agent, ticket(agent, 1))
            await replaced(agent, pid)
            await works(agent, 2, code)

    asyncio.run(scenario())


@pytest.mark.usefixtures("impatient")
def test_a_session_whose_warden_is_stopped_ends_and_leaves_nothing(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario() -> None:
        async with running(told(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            await client.doubles(code)
            session = worker_pid(agent.devices[DEVICE])
            pid = stop_warden(agent)
            await client.close()
            await idle(agent)
            await gone((session,))
            await replaced(agent, pid)
            await works(agent, 2, code)

    asyncio.run(scenario())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("busy", [False, True])
def test_an_agent_can_be_closed_while_its_warden_is_stopped(machine_dir: Path, busy: bool) -> None:
    async def scenario() -> tuple[int, ...]:
        async with asyncio.timeout(CLOSE_S), running(told(machine_dir)) as agent:
            device = agent.devices[DEVICE]
            if busy:
                await connect(agent, ticket(agent, 1))
            return stop_warden(agent), *((worker_pid(device),) if busy else ())

    pids = asyncio.run(scenario())
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.usefixtures("impatient")
def test_a_warden_that_takes_no_orders_is_given_up(machine_dir: Path, code: bytes) -> None:
    async def scenario() -> None:
        async with running(told(machine_dir)) as agent:
            client: Client = await connect(agent, ticket(agent, 1))
            device = agent.devices[DEVICE]
            worker = cpu(device).worker
            assert worker is not None
            pid = stop_warden(agent)
            for _ in range(10_000):  # its socket is full long before
                worker.extend(device.standing.deadline)
            await gone((pid, worker.pid))
            await until(lambda: warden_pid(device) not in (0, pid))
            client.link.abort()
            await replaced(agent, pid)
            await works(agent, 2, code)

    asyncio.run(scenario())


def test_a_warden_that_cannot_be_started_is_tried_again_and_the_reason_is_told(
    machine_dir: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario() -> None:
        async with running(told(machine_dir)) as agent:
            device = agent.devices[DEVICE]
            with monkeypatch.context() as patch:
                patch.setattr(tempfile, "TemporaryFile", full)
                os.kill(warden_pid(device), signal.SIGKILL)
                await until(lambda: "No space left on device" in device.detail)
                assert device.health is Health.BAD
                assert device.detail.startswith("cannot start a warden")
            await until(lambda: device.health is Health.GOOD)
            await works(agent, 1, code)

    asyncio.run(scenario())


def test_a_session_that_cannot_be_begun_costs_no_device(
    machine_dir: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        async with running(told(machine_dir)) as agent:
            with monkeypatch.context() as patch:
                patch.setattr(os, "memfd_create", none)
                with pytest.raises(FleetError, match="Too many open files"):
                    await connect(agent, ticket(agent, 1))
            await works(agent, 2, code)

    asyncio.run(scenario())

"""An agent in a process of its own: how it starts, and how it dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from agents import KEY, WAIT_S, Client, gone, item, processes_below, until

import hostile_kernels
from loopwright.errors import FleetError
from loopwright.fleet.agent import watchdog
from loopwright.fleet.security.handshake import open_session
from loopwright.fleet.security.tickets import Ticket, seal, session_key
from loopwright.fleet.wire.link import dial
from loopwright.fleet.wire.messages import RunBatch
from loopwright.outcome import cores_for
from loopwright.runtime.cpu.native import object_code

START_CPU_S = 0.6
"""Twice what a start may take: machines are busy. benchmarks/fleet_start.py has the goal."""
NAME = "there"


@dataclass(slots=True)
class Running:
    """An agent's process."""

    process: subprocess.Popen[str]
    address: str
    incarnation: str

    async def open(self, epoch: int = 1, ttl_ms: int = 60_000) -> Client:
        """A session; waits until the device is there."""
        shown = Ticket(f"l{epoch}", f"{NAME}/cpu0", self.incarnation, epoch, "t", (), ttl_ms)
        sealed = seal(shown, KEY)
        async with asyncio.timeout(WAIT_S):
            while True:
                link = await dial(self.address)
                try:
                    opened = await open_session(link, sealed, session_key(KEY, sealed))
                except FleetError:
                    link.close()
                    await link.wait_closed()
                    await asyncio.sleep(0.02)
                else:
                    return Client(link, opened)


@contextmanager
def started(cache_dir: Path, folder: Path, *arguments: str) -> Iterator[Running]:
    """An agent that listens on a unix socket."""
    key = folder / "key"
    key.write_bytes(KEY)
    core = cores_for(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "loopwright.fleet.agent", "--name", NAME, "--key-file", str(key),
         "--listen", f"unix://{folder}/agent", "--cache-dir", str(cache_dir), "--tracker", "",
         "--device", f"cpu0={core}", "--drift", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Running(process, told["addresses"][0], told["incarnation"])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def hostile_code(machine_dir: Path) -> bytes:
    return object_code(hostile_kernels.hostile()[0], machine_dir)


async def looping(agent: Running, client: Client, code: bytes) -> tuple[int, ...]:
    """Have the session run an endless candidate; all processes of the agent but itself."""
    await client.upload(code)
    client.link.send(RunBatch((item(code, "loop", run_timeout_ms=9_000),)))
    await until(lambda: len(processes_below(agent.process.pid)) >= 4)
    return processes_below(agent.process.pid)[1:]


def cpu_s(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_it_listens_soon_and_stops_when_it_is_told(machine_dir: Path, tmp_path: Path) -> None:
    with started(machine_dir, tmp_path) as agent:
        assert cpu_s(agent.process.pid) < START_CPU_S
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(WAIT_S) == 0
    assert not (tmp_path / "agent").exists()


def test_an_agent_that_is_killed_takes_everything_along(
    machine_dir: Path, tmp_path: Path, hostile_code: bytes
) -> None:
    async def scenario(agent: Running) -> None:
        client = await agent.open()
        pids = await looping(agent, client, hostile_code)
        agent.process.kill()
        await gone(pids)
        client.link.close()
        await client.link.wait_closed()

    with started(machine_dir, tmp_path) as agent:
        asyncio.run(scenario(agent))


def test_a_lease_ends_in_time_on_an_agent_that_is_stopped(
    machine_dir: Path, tmp_path: Path, hostile_code: bytes
) -> None:
    async def scenario(agent: Running) -> None:
        client = await agent.open(ttl_ms=1500)
        _, *below = await looping(agent, client, hostile_code)
        agent.process.send_signal(signal.SIGSTOP)
        try:
            await gone(tuple(below))
        finally:
            agent.process.send_signal(signal.SIGCONT)
        client.link.close()
        await client.link.wait_closed()

    with started(machine_dir, tmp_path) as agent:
        asyncio.run(scenario(agent))


HANGS = """
import sys, time
from loopwright.fleet.agent import main, wardens
said = main._say
def hang(what, *arguments, **facts):
    said(what, *arguments, **facts)
    if what == "started":
        main.asyncio.get_running_loop().call_later(0.1, time.sleep, 600)
main._say = hang
wardens.bubblewrap_is_there = lambda: True
wardens.in_bubble = lambda command, writable: list(command)
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("tier", ["0", "1", "2"])
def test_an_agent_that_hangs_is_ended_by_its_watchdog(machine_dir: Path, tier: str) -> None:
    """In each tier: a warden in a bubble does not see the agent's process."""
    done = subprocess.run(
        [sys.executable, "-c", HANGS, "--tracker", "", "--cache-dir", str(machine_dir), "--device",
         f"cpu0={cores_for(1)[0]}", "--tier", tier, "--watchdog", "0.5"],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert '"event":"started"' in done.stdout
    assert "loopwright agent: it hangs for 0.5 s and ends itself" in done.stderr
    assert "run_once" in done.stderr


def looks(*turns: bool) -> bool:
    """What a watchdog finds that sees the loop turn, or not, between its looks."""
    left, turned = list(turns), threading.Event()

    def wait() -> bool:
        if left and left.pop(0):
            turned.set()
        return not left

    return watchdog._hangs(wait, turned)


def test_a_watchdog_is_put_off_as_long_as_the_loop_turns() -> None:
    almost = (*[False] * (watchdog._LOOKS - 1), True)

    assert not looks(*almost * 3)
    assert looks(*almost, *[False] * (watchdog._LOOKS + 1))


def test_no_watchdog_looks_without_a_limit() -> None:
    before = threading.active_count()
    asyncio.run(watchdog.watch(0.0))
    assert threading.active_count() == before


def test_a_watchdog_ends_with_what_it_watches() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(watchdog.watch(0.01))
        await until(lambda: any(thread.name == "watchdog" for thread in threading.enumerate()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: all(thread.name != "watchdog" for thread in threading.enumerate()))

    asyncio.run(scenario())


def test_an_agent_that_was_stopped_for_longer_than_its_watchdog_goes_on(
    machine_dir: Path, tmp_path: Path
) -> None:
    with started(machine_dir, tmp_path, "--watchdog", "0.5") as agent:
        pid = agent.process.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(0.8)
        os.kill(pid, signal.SIGCONT)

        async def scenario() -> None:
            client = await agent.open()
            await client.close()

        asyncio.run(scenario())
        assert agent.process.poll() is None


def test_a_key_of_another_length_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"short")
    done = subprocess.run(
        [sys.executable, "-m", "loopwright.fleet.agent", "--key-file", str(key)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "holds 5 bytes" in done.stderr


def test_the_process_of_an_agent_is_alone_without_sessions(
    machine_dir: Path, tmp_path: Path
) -> None:
    async def scenario(agent: Running) -> None:
        client = await agent.open()
        await client.close()
        await until(lambda: len(processes_below(agent.process.pid)) == 2)

    with started(machine_dir, tmp_path) as agent:
        asyncio.run(scenario(agent))
        assert os.getpgid(agent.process.pid) == os.getpgid(0)

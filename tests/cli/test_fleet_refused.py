"""What the command line says when the other side of a fleet says no."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fleet_site import Town, town

from loopwright.fleet.book.events import Event, Requested
from loopwright.fleet.security.tickets import DeviceState
from loopwright.fleet.sim.devices import SimulatedAgent, SimulatedDevice, timed
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.listener import Listener
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import Priority
from loopwright.kernel_call import KernelCall
from loopwright.records.store import SqlStore
from loopwright.target.host import host

if TYPE_CHECKING:
    from conftest import Run

DEVICE = "sim/0"


@pytest.fixture
def fleet() -> Iterator[Town]:
    with town() as made:
        yield made


class Late(SimulatedAgent):
    """An agent for which the time of each lease is up before its session begins."""

    fleet: Town
    asked = 0

    def _state(self, name: str) -> DeviceState | None:
        self.asked += 1
        (lease,) = self.fleet.here.tracker.book.leases()
        return DeviceState(name, self.incarnation, lease.epoch, lease.id, expired=True)


@contextmanager
def late_agent(fleet: Town, folder: Path) -> Iterator[Late]:
    """Such an agent, with a device that is free."""

    async def behave(_: str, item: KernelCall, __: bytes) -> Result:
        return timed(item, 1000.0)

    async def connect() -> Link:
        return await dial(fleet.url)

    async def begin() -> tuple[Late, Listener, asyncio.Task[None]]:
        device = SimulatedDevice(DEVICE, str(host()), "a-device")
        agent = Late("sim", [device], behave, folder, time.monotonic)
        agent.fleet = fleet
        listener = Listener("tcp://127.0.0.1:0", agent.serve_session)
        await listener.__aenter__()
        agent.addresses = tuple(listener.addresses)
        return agent, listener, asyncio.create_task(agent.run(connect))

    async def end(listener: Listener, running: asyncio.Task[None]) -> None:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await listener.__aexit__(None, None, None)

    agent, listener, running = fleet.do(begin())
    try:
        fleet.wait(lambda: is_free(fleet))
        yield agent
    finally:
        fleet.do(end(listener, running))


def is_free(fleet: Town) -> bool:
    device = fleet.here.tracker.book.device(DEVICE)
    return device is not None and device.grantable


def test_a_ticket_that_has_expired_is_exit_code_5_and_costs_no_record_and_no_device(
    run: Run, fleet: Town, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    with SqlStore("sqlite:///r.db"):
        pass
    before = (tmp_path / "r.db").read_bytes()
    words = ["tune", "dqn", "--tasks", "0", "--trials", "2", "--policy", "random"]
    with late_agent(fleet, tmp_path / "sim") as agent:
        result = run(*words, "--records", "sqlite:///r.db", "--fleet", fleet.url)
        assert (result.code, result.out) == (5, "")
        last = result.err.splitlines()[-1]
        assert last.startswith(f"loopwright: {DEVICE} does not open lease l1-")
        assert f"on {DEVICE} has expired; lease a device again" in last
        assert agent.asked == 3  # a new lease each time
        fleet.wait(lambda: is_free(fleet))
    assert (tmp_path / "r.db").read_bytes() == before


def test_tuning_gives_up_when_no_device_is_free_in_time_with_exit_code_4(
    run: Run, fleet: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    fleet.agent()
    fleet.lease()
    tracker, happened, priorities = fleet.here.tracker, fleet.here.tracker.happened, set()

    def note(event: Event) -> None:
        if isinstance(event, Requested):
            priorities.add(event.asked.priority)
        happened(event)

    monkeypatch.setattr(tracker, "happened", note)
    words = ("tune", "dqn", "--tasks", "0", "--trials", "2", "--policy", "random")
    words += ("--records", "sqlite:///r.db", "--fleet", fleet.url, "--device", "board=rpi4")
    result = run(*words, "--max-wait", "0.2", "--priority", "interactive")
    assert (result.code, result.out) == (4, "")
    last = result.err.splitlines()[-1]
    said = "loopwright: no device within 0.2 s: 1 matches, 1 leased and free in <= "
    assert last.startswith(said)
    assert priorities == {int(Priority.INTERACTIVE)}


@pytest.mark.parametrize(
    ("token", "words"),
    [("password", "that is not a token"), ("", "a token is needed here; give it with --token")],
)
def test_who_may_not_tune_is_told_before_any_work(
    run: Run, fleet: Town, tmp_path: Path, token: str, words: str
) -> None:
    result = run(
        "tune", "dqn", "--fleet", fleet.tcp, "--token", token, "--records", "sqlite:///r.db"
    )
    assert (result.code, result.out) == (6, "")
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "r.db").exists()


def test_a_version_that_is_too_far_apart_is_told_with_both(fleet: Town) -> None:
    text = (
        "import sys\n"
        "from loopwright.fleet.security import handshake\n"
        "handshake.PROTOCOL = handshake.PROTOCOL_MIN = 3\n"
        "from loopwright.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, "device", "ls", "--fleet", fleet.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert "speaks protocol 3 to 3, this one 1 to 2; versions may be apart by one" in done.stderr
    assert len(done.stderr.splitlines()) == 1

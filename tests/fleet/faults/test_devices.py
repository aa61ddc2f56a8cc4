"""Devices that are slow, that cannot be cleaned, or that speak another version."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import measure_kernels as kernels
import numpy as np
import pytest
from agents import DEVICE, WAIT_S, alive, connect, item, options, running, ticket
from agents import until as until_soon
from fleet_faults import Site, sessions_of, until, warden_of
from fleet_tracker import run

from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.canary import Canary
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.wire.messages import PROTOCOL, Error, Hello
from loopwright.fleet.words import Health
from loopwright.runtime.cpu.native import object_code

FREEZER = Path("/sys/fs/cgroup/freezer")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Have a process neither run nor die, as one that waits for hardware that hangs."""
    group = FREEZER / f"loopwright-faults-{pid}"
    if not (FREEZER / "cgroup.procs").exists() or os.geteuid() != 0:
        pytest.skip(
            "a process that cannot be killed needs the freezer of control groups, version 1"
        )
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"a process that cannot be killed needs the freezer: {error.strerror}")
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        until(lambda: not (group / "cgroup.procs").read_text(), "the end of what was frozen")
        group.rmdir()


def test_a_session_that_cannot_be_killed_makes_its_device_bad_until_it_is_gone(site: Site) -> None:
    agent = site.agents["one"]
    with site.client() as fleet:
        with fleet.lease("board=one") as lease:
            session = lease.session()
            (pid,) = sessions_of(agent)
            with frozen(pid):
                session.close()
                until(lambda: site.device("one").health == "bad", "a device that is bad")
                assert "cannot be killed" in site.device("one").detail
        with fleet.lease("board=one", max_wait=60.0) as again, again.session():
            assert site.device("one").health == "good"
    assert site.ended([lease.id, again.id]) == ["released", "released"]


def test_a_warden_that_is_stopped_is_ended_with_its_session_and_its_device_is_back(
    site: Site,
) -> None:
    agent = site.agents["one"]
    with site.client() as fleet:
        with fleet.lease("board=one") as lease:
            session = lease.session()
            pids = (warden_of(agent), *sessions_of(agent))
            os.kill(pids[0], signal.SIGSTOP)
            session.close()
        with fleet.lease("board=one", max_wait=60.0) as again, again.session() as session:
            assert warden_of(agent) not in pids
            assert not any(map(alive, pids))
            assert session.upload([b"it works again"]) > 0
    assert site.ended([lease.id, again.id]) == ["released", "released"]


class Scripted(Canary):
    """A canary that takes as long as a test says, whatever else this machine does."""

    def __init__(self) -> None:
        super().__init__(0.05)
        self.ns = 1000.0

    def observe(self, ns: float) -> bool:
        del ns
        return super().observe(self.ns)


def test_a_device_that_slows_down_marks_its_results_and_cools_down(
    site: Site, tmp_path: Path
) -> None:
    machine_dir = tmp_path / "machine"
    shutil.copytree(site.cache_of("one"), machine_dir, ignore=shutil.ignore_patterns("*.key"))
    code = object_code(kernels.TEXT, machine_dir)
    plain = options(machine_dir, drift=0.05)
    quick = replace(plain, timers=replace(plain.timers, canary_s=0.0, cool_s=0.05))

    async def work() -> None:
        async with running(quick) as agent:
            device = agent.devices[DEVICE]
            canary = device.prober.canary = Scripted()
            client = await connect(agent, ticket(agent, 1))
            await client.upload(code)
            before = [(await client.run(item(code, "double")))[0] for _ in range(5)]
            assert [result.status for result in before] == ["ok"] * 5
            assert before[-1].good == before[-1].canary
            canary.ns = 1500.0
            after = [(await client.run(item(code, "double")))[0] for _ in range(8)]
            assert after[-1].status == "drift"
            assert after[-1].drift == pytest.approx(0.5)
            (good,) = {result.good for result in after}  # the last before it was slow
            assert before[-1].good <= good < after[-1].canary
            assert "the canary is off by +50.0%" in after[-1].detail
            assert device.report().health == "drift"
            await client.close()
            canary.ns = 1000.0
            await until_soon(lambda: device.health is Health.GOOD)
            again = await connect(agent, ticket(agent, 2))
            await again.doubles(code)
            await again.close()

    asyncio.run(work())


class Newer:
    """A tracker of a version that speaks nothing that this one does."""

    def __init__(self) -> None:
        self.hellos = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> Link:
        """What an agent dials with."""
        ours, theirs = await pair()
        self.tasks.append(asyncio.create_task(self._serve(theirs)))
        return ours

    async def _serve(self, link: Link) -> None:
        hello = await link.receive(WAIT_S)
        assert isinstance(hello, Hello)
        self.hellos += 1
        low = hello.proto_max + 2
        link.send(
            Error(
                code="protocol", detail=f"you speak 1 to {hello.proto_max}, this one {low} to {low}"
            )
        )
        link.close()


def test_an_agent_of_another_version_says_so_once_and_comes_back_when_one_was_updated(
    tmp_path: Path,
) -> None:
    said: list[str] = []

    async def work() -> None:
        plain = options(tmp_path)
        quick = replace(
            plain, timers=replace(plain.timers, reconnect_s=0.001, reconnect_max_s=0.001)
        )
        rng = np.random.default_rng(5)
        agent = Agent(quick, (), time.monotonic, rng, on_away=said.append)
        tracker = Newer()
        task = asyncio.create_task(agent.run(tracker.connect))
        await until_soon(lambda: tracker.hellos > 3)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, *tracker.tasks, return_exceptions=True)

    run(work())
    (words,) = said
    low = PROTOCOL + 2
    assert f"you speak 1 to {PROTOCOL}, this one {low} to {low}" in words

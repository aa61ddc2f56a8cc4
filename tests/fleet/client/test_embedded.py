"""The fleet of one device within a process: the runner's contract, no port, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import measure_kernels as kernels
import pytest
from agents import gone, processes_below
from runner_contract import WAIT_S, RunnerContract

from loopwright.build.pool import BuilderPool
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.fleet.agent import runs
from loopwright.fleet.client.api import Fleet, connect
from loopwright.fleet.client.runner import FleetRunner, device_class
from loopwright.fleet.local import LocalRunner
from loopwright.measure.pipeline import Run
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import MeasurePlan, Timed
from loopwright.sandbox.wire import RunRequest
from loopwright.settings import Settings, from_environment

PLAN = MeasurePlan(repeats=2, min_repeat_s=0.0005, run_memory=512 << 20, build_memory=512 << 20)
LONG = replace(PLAN, repeats=3, min_repeat_s=0.1)
TASK = kernels.task()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def settings(cache_dir: Path) -> Settings:
    return replace(from_environment({}), cache_dir=cache_dir)


@pytest.fixture
def fleet(settings: Settings) -> Iterator[Fleet]:
    with connect(settings=settings) as made:
        yield made


def request(action: str) -> MeasureRequest:
    return MeasureRequest(TASK, kernels.config(action), PLAN)


class TestContract(RunnerContract):
    """`FleetRunner` on links within the process, and a device that is there."""

    @pytest.fixture
    def new_runner(self, fleet: Fleet) -> Callable[[], FleetRunner]:
        def make() -> FleetRunner:
            return FleetRunner(fleet, device_class(fleet, ""), BuilderPool(kernels.build, 1))

        return make

    @pytest.fixture
    def good(self) -> MeasureRequest:
        return request("double")

    @pytest.fixture
    def bad(self) -> MeasureRequest:
        return request("abort")


def listening() -> set[tuple[str, str]]:
    """The TCP sockets that listen, of this process and of all below it, by what /proc says.

    Each is the network namespace and the address in it. A process that is gone has none.
    """
    found: set[tuple[str, str]] = set()
    for pid in processes_below(os.getpid()):
        with contextlib.suppress(OSError):
            found |= listening_of(Path(f"/proc/{pid}"))
    return found


def listening_of(process: Path) -> set[tuple[str, str]]:
    """Those of one process. Raises: OSError when it is gone."""
    mine: set[str] = set()
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed
            target = str(entry.readlink())
            if target.startswith("socket:["):
                mine.add(target.removeprefix("socket:[").removesuffix("]"))
    space = str((process / "ns" / "net").readlink())
    found: set[tuple[str, str]] = set()
    for table in ("tcp", "tcp6"):
        path = process / "net" / table
        if path.exists():
            rows = [line.split() for line in path.read_text().splitlines()[1:]]
            found |= {(space, row[1]) for row in rows if row[3] == "0A" and row[9] in mine}
    return found


def test_no_port_is_opened_and_no_set_up_is_needed(cache_dir: Path) -> None:
    before = listening()
    seen: set[int] = set()
    with LocalRunner(kernels.build, cache_dir=cache_dir) as runner:
        running = runner.submit(replace(request("double"), plan=LONG))
        while not running.done():
            assert listening() == before
            seen.update(processes_below(os.getpid()))
        outcome = running.result(WAIT_S)
        pids = runner.embedded.pids

    assert isinstance(outcome, Timed)
    assert outcome.where is not None
    assert (outcome.where.device, outcome.where.epoch) == ("here/cpu0", 1)
    assert len(pids) == 2
    assert {os.getpid(), *pids} <= seen
    assert len(seen) >= 5, "a builder and the candidate are among them"
    asyncio.run(gone(pids))
    assert not list(cache_dir.rglob("uploads"))


def test_a_port_that_a_process_far_below_opens_would_be_found() -> None:
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(flush=True); input()"
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {listen!r}])"
    before = listening()
    process = subprocess.Popen(
        [sys.executable, "-c", between], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert len(listening() - before) == 1
        process.communicate(b"\n")
    assert listening() == before


def test_a_machine_that_cannot_run_its_probe_says_so_and_is_not_waited_for(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = runs.canary_request

    def broken(code: bytes, entry: str, cores: Sequence[int], limit_s: float) -> RunRequest:
        del entry
        return sound(code, "nowhere", cores, limit_s)

    monkeypatch.setattr(runs, "canary_request", broken)
    with LocalRunner(kernels.build, cache_dir=cache_dir) as runner:
        told = runner.submit(request("double"))
        with pytest.raises(EnvironmentFailure, match="cannot be measured: the canary failed"):
            told.result(WAIT_S)


def test_this_machine_is_a_fleet_of_one_device(fleet: Fleet) -> None:
    (found,) = fleet.devices()
    assert found.name == "here/cpu0"
    assert found.labels["kind"] == "cpu"
    built = kernels.artifact(kernels.compile_here(kernels.TEXT), "double")
    runs = [Run(built, PLAN, 0, want_output=True)] * 2
    with fleet.lease("kind=cpu") as lease, lease.session() as session:
        results = list(session.run_batch(runs))

    assert all(isinstance(result.outcome, Timed) for result in results)
    assert [array.shape for array in results[0].outputs] == [(kernels.N,)]


def test_builders_or_a_build_function_are_needed() -> None:
    with pytest.raises(ConfigError, match="a build function, or builders"):
        LocalRunner()

"""The tuner's runner on a real fleet: a tracker and two agents in processes of their own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import measure_kernels as kernels
import pytest
from fleet_processes import Processes
from runner_contract import WAIT_S, RunnerContract

import loopwright as lw
from loopwright.build.pool import BuilderPool
from loopwright.cli.main import main
from loopwright.errors import AuthError
from loopwright.fleet.client.api import Fleet, connect
from loopwright.fleet.client.runner import FleetRunner, device_class
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import MeasurePlan, Timed
from loopwright.records.store import SqlStore

PLAN = MeasurePlan(repeats=2, min_repeat_s=0.0005, run_memory=512 << 20, build_memory=512 << 20)
TASK = kernels.task()
LAST = max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    made = Processes(tmp_path_factory.mktemp("fleet"), tmp_path_factory.mktemp("cache"))
    with made:
        for name in ("one", "two"):
            made.start_agent(name, (LAST,), f"board={name}")
        yield made


@pytest.fixture
def fleet(processes: Processes) -> Iterator[Fleet]:
    with processes.fleet() as made:
        yield made


def request(action: str) -> MeasureRequest:
    return MeasureRequest(TASK, kernels.config(action), PLAN)


class TestContract(RunnerContract):
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


def test_a_token_is_needed_over_tcp(processes: Processes) -> None:
    with pytest.raises(AuthError) as caught:
        connect(processes.address)
    assert caught.value.exit_code == 6
    with pytest.raises(AuthError):
        connect(processes.address, token="lw1.made.up")  # it is none


def test_trials_on_a_fleet_are_recorded_once_each_with_their_leases(
    fleet: Fleet, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'r.db'}"
    a = lw.te.placeholder((64, 128), name="A")
    b = lw.te.compute((64, 128), lambda y, x: a[y, x] * 2.0 + 1.0, name="B")
    task = lw.task(lw.workload(b, name="scaled"))
    result = lw.tune(task, trials=4, records=url, policy="random", fleet=fleet, device="board=one")
    with SqlStore(url, create=False) as store:
        records = list(store.query())

    assert result.best is not None
    assert {record.trial for record in records} == {0, 1, 2, 3}
    assert {record.key.device for record in records} == {fleet.devices()[0].device}
    for record in records:
        assert record.provenance is not None
        assert record.provenance.device == "one/cpu0"
        assert record.provenance.epoch > 0
    assert lw.build(task, records=url).config == result.best.config


def test_a_runner_is_made_of_a_selector(fleet: Fleet) -> None:
    with lw.FleetRunner(fleet, "board=two", BuilderPool(kernels.build, 1)) as runner:
        outcome = runner.submit(request("double")).result(WAIT_S)
    assert isinstance(outcome, Timed)
    assert outcome.where is not None
    assert outcome.where.device == "two/cpu0"
    with pytest.raises(lw.fleet.NoDeviceError, match="no device matches 'board=three'"):
        lw.FleetRunner(fleet, "board=three", BuilderPool(kernels.build, 1))


def test_the_command_tunes_a_model_for_leased_devices(
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setenv("LOOPWRIGHT_TOKEN", processes.token)
    url = f"sqlite:///{tmp_path / 'r.db'}"
    words = ["tune", "dqn", "--tasks", "0", "--trials", "2", "--policy", "random"]
    words += ["--records", url, "--fleet", processes.address, "-o", "json"]

    assert main([*words, "--device", "board=two"]) == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["tasks"][0]["trials"] == 2
    assert "devices: 1 x " in told.err
    with SqlStore(url, create=False) as store:
        where = {r.provenance.device for r in store.query() if r.provenance is not None}
    assert where == {"two/cpu0"}
    assert main([*words, "--device", "bord=two"]) == 3
    told = capfd.readouterr()
    assert "no device has a label 'bord'; there are arch, board, " in told.err
    assert main([*words, "--device", "board=three"]) == 3
    assert "no device matches 'board=three'; board is one, two" in capfd.readouterr().err


def test_tuning_goes_on_while_the_tracker_is_killed_and_started_again(
    processes: Processes, fleet: Fleet
) -> None:
    devices = device_class(fleet, "board=one")
    with FleetRunner(fleet, devices, BuilderPool(kernels.build, 1)) as runner:
        assert isinstance(runner.submit(request("double")).result(WAIT_S), Timed)
        assert processes.tracker is not None
        processes.tracker.send_signal(signal.SIGKILL)
        processes.tracker.wait(WAIT_S)
        during = [runner.submit(request("double")).result(WAIT_S) for _ in range(3)]
        processes.start_tracker()
        after = runner.submit(request("double")).result(WAIT_S)

    assert all(isinstance(outcome, Timed) for outcome in (*during, after))
    assert during[0].where is not None
    assert after.where == during[0].where

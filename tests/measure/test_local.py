"""The local runner: the contract, the pipeline, the oracle gate, and that nothing is left
behind.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import measure_kernels as kernels
import numpy as np
import pytest
from runner_contract import WAIT_S, RunnerContract

from loopwright.errors import ConfigError
from loopwright.fleet.agent.wardens import Worker, WorkerLost
from loopwright.fleet.local import LocalRunner, keep_to
from loopwright.layout import Array
from loopwright.measure.check import Checker, Oracle
from loopwright.measure.request import MeasureRequest, Runner
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan, Timed
from loopwright.te.workload import Workload

PLAN = MeasurePlan(repeats=2, min_repeat_s=0.0005, run_memory=512 << 20, build_memory=512 << 20)
TASK = kernels.task()
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


def request(action: str, plan: MeasurePlan = PLAN, *, check: bool = False) -> MeasureRequest:
    return MeasureRequest(TASK, kernels.config(action), plan, check)


def evaluate(workload: Workload, inputs: Sequence[Array]) -> Sequence[Array]:
    assert workload.name == "double"
    return (inputs[0] + inputs[0],)  # type: ignore[operator]  # float32


def compare(workload: Workload, actual: Array, expected: Array) -> str | None:  # noqa: ARG001
    wrong = np.flatnonzero(~(actual == expected))
    return f"{wrong.size} wrong, first at {wrong[0]}" if wrong.size else None


@pytest.fixture
def new_runner(cache_dir: Path) -> Callable[[], LocalRunner]:
    def make() -> LocalRunner:
        checker = Checker(Oracle(evaluate, compare), seed=5)
        return LocalRunner(kernels.build, checker=checker, cache_dir=cache_dir)

    return make


class TestContract(RunnerContract):
    @pytest.fixture
    def good(self) -> MeasureRequest:
        return request("double")

    @pytest.fixture
    def bad(self) -> MeasureRequest:
        return request("abort")


def test_every_stage_reports_its_failure(new_runner: Callable[[], LocalRunner]) -> None:
    with new_runner() as runner:
        actions = ("illegal", "codegen", "compiler-aborts", "null", "triple_first", "double")
        futures = [runner.submit(request(a, check=True)) for a in actions]
        outcomes = [f.result(WAIT_S) for f in futures]

    kinds = [o.kind if isinstance(o, Failed) else None for o in outcomes]
    assert kinds == [
        FailureKind.ILLEGAL_SCHEDULE,
        FailureKind.COMPILE_ERROR,
        FailureKind.COMPILER_CRASH,
        FailureKind.CRASH,
        FailureKind.WRONG_OUTPUT,
        None,
    ]
    assert isinstance(outcomes[-1], Timed)
    assert outcomes[-1].checked
    assert outcomes[-1].build_s > 0
    assert outcomes[-1].run_s > 0


@pytest.mark.parametrize(
    ("action", "detail"),
    [
        ("triple_first", "1 wrong, first at 0"),
        ("leaves_the_last", "1 wrong, first at 999"),
        ("adds_to_what_was_there", "1000 wrong, first at 0"),
    ],
)
def test_a_wrong_output_is_caught(
    new_runner: Callable[[], LocalRunner], action: str, detail: str
) -> None:
    with new_runner() as runner:
        outcome = runner.submit(request(action, check=True)).result(WAIT_S)

    assert isinstance(outcome, Failed)
    assert (outcome.stage, outcome.kind) == (FailureStage.CHECK, FailureKind.WRONG_OUTPUT)
    assert outcome.detail == f"output y: {detail}"


def test_without_check_a_wrong_output_is_timed(new_runner: Callable[[], LocalRunner]) -> None:
    with new_runner() as runner:
        outcome = runner.submit(request("triple_first")).result(WAIT_S)

    assert isinstance(outcome, Timed)
    assert not outcome.checked


def test_an_oracle_that_raises_is_raised_by_the_future(cache_dir: Path) -> None:
    def broken(*_: object) -> Sequence[Array]:
        raise ZeroDivisionError

    checker = Checker(Oracle(broken, compare))
    with LocalRunner(kernels.build, checker=checker, cache_dir=cache_dir) as runner:
        future = runner.submit(request("double", check=True))
        with pytest.raises(ZeroDivisionError):
            future.result(WAIT_S)
        assert isinstance(runner.submit(request("double")).result(WAIT_S), Timed)


@two_cores
def test_a_parallel_kernel_is_measured_on_all_cores_beside_builds(cache_dir: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    task = kernels.task(threads=cores)
    plan = replace(PLAN, threads=cores)
    with LocalRunner(kernels.build, threads=cores, cache_dir=cache_dir) as runner:
        assert runner.background_cores == ()
        futures = [
            runner.submit(MeasureRequest(task, kernels.config(a), plan))
            for a in ("spin-0.05", "double", "null", "spin-0.02", "double")
        ]
        wait(futures, WAIT_S)
        kinds = [type(f.result(0)) for f in futures]

    assert kinds == [Timed, Timed, Failed, Timed, Timed]


def test_a_plan_for_other_threads_is_refused(new_runner: Callable[[], Runner]) -> None:
    with (
        new_runner() as runner,
        pytest.raises(ConfigError, match="a plan for 7 threads on a runner for 1"),
    ):
        runner.submit(request("double", replace(PLAN, threads=7)))


def test_a_check_without_a_checker_is_refused(cache_dir: Path) -> None:
    with (
        LocalRunner(kernels.build, cache_dir=cache_dir) as runner,
        pytest.raises(ConfigError, match="no checker"),
    ):
        runner.submit(request("double", check=True))


def test_a_cancelled_request_is_not_measured(new_runner: Callable[[], LocalRunner]) -> None:
    with new_runner() as runner:
        first = runner.submit(request("spin-0.1"))
        second = runner.submit(request("double"))
        assert second.cancel()
        third = runner.submit(request("double"))

        assert isinstance(first.result(WAIT_S), Timed)
        assert isinstance(third.result(WAIT_S), Timed)
        assert second.cancelled()


def test_a_candidate_that_takes_the_measuring_process_with_it_twice_is_to_blame(
    new_runner: Callable[[], LocalRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Worker] = []

    async def lost(self: Worker, *_: object) -> None:
        asked.append(self)
        raise WorkerLost("it ended")

    with new_runner() as runner:
        assert isinstance(runner.submit(request("double")).result(WAIT_S), Timed)
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "run", lost)
            outcome = runner.submit(request("spin-0.01")).result(WAIT_S)
        assert isinstance(runner.submit(request("triple_first")).result(WAIT_S), Timed)

    assert len(asked) == 2
    assert asked[0] is not asked[1]
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.CRASH
    assert "lost 2 times" in outcome.detail


@two_cores
def test_this_process_keeps_off_the_measured_core_while_a_runner_is_open(
    new_runner: Callable[[], LocalRunner],
) -> None:
    before = os.sched_getaffinity(0)
    with new_runner() as runner:
        inside = os.sched_getaffinity(0)

        assert inside == set(runner.background_cores)
        assert not inside & set(runner.cores)
    assert os.sched_getaffinity(0) == before


def test_keep_to_gives_back_what_was_there() -> None:
    before = os.sched_getaffinity(0)
    with keep_to((min(before),)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


_IMPORTS = """
import sys
sys.path[:0] = sys.argv[1:3]
from dataclasses import replace
from pathlib import Path
import measure_kernels as kernels
from loopwright.fleet.local import LocalRunner
from loopwright.measure.request import MeasureRequest

"""
_HANGING = """
if __name__ == "__main__":
    runner = LocalRunner(kernels.build, cache_dir=Path(sys.argv[3]))
    task = kernels.task()
    ask = lambda action: runner.submit(MeasureRequest(task, kernels.config(action)))
    ask("double").result(60)
    hanging = [ask("compiler-sleeps"), ask("sleep")]
    print(*runner.embedded.pids, *runner.builders.pids, flush=True)
    hanging[0].result(60)
"""
_OWN_TEMPLATE = """
def schedule(s, config):
    pass

def tune():
    task = kernels.task()
    task = replace(task, template=replace(task.template, schedule=schedule))
    with LocalRunner(kernels.build, cache_dir=Path(sys.argv[3])) as runner:
        print(runner.submit(MeasureRequest(task, kernels.config("double"))).result(60))
"""
_GUARDED = "if __name__ == '__main__':\n    tune()\n"


def start(tmp_path: Path, cache_dir: Path, text: str) -> subprocess.Popen[str]:
    """A Python process that runs the script `text`; its standard output is piped."""
    script = tmp_path / "tuner.py"
    script.write_text(_IMPORTS + text)
    here = Path(kernels.__file__).parent
    return subprocess.Popen(
        [sys.executable, str(script), str(here), str(here.parents[1] / "src"), str(cache_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_tuner_that_is_killed_leaves_no_process(
    tmp_path: Path, cache_dir: Path, number: signal.Signals
) -> None:
    with start(tmp_path, cache_dir, _HANGING) as tuner:
        assert tuner.stdout is not None
        pids = [int(word) for word in tuner.stdout.readline().split()]
        watches = [os.pidfd_open(pid) for pid in pids]
        tuner.send_signal(number)
        tuner.wait(WAIT_S)

    assert len(pids) == 3
    for watch in watches:
        ready, _, _ = select.select([watch], [], [], WAIT_S)
        os.close(watch)
        assert ready


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (_GUARDED, "Timed("),
        ("tune()\n", "put it under if __name__ == '__main__'"),
    ],
)
def test_a_template_of_the_main_script_is_built_if_the_script_can_be_imported(
    tmp_path: Path, cache_dir: Path, call: str, outcome: str
) -> None:
    with start(tmp_path, cache_dir, _OWN_TEMPLATE + call) as tuner:
        said, _ = tuner.communicate(timeout=WAIT_S)

    assert outcome in said
    assert tuner.returncode == 0

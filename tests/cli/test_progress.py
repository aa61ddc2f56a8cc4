from __future__ import annotations

import io

import pytest
from rich.console import Console

from loopwright.cli.board import Board, TaskState
from loopwright.cli.progress import Lines, LiveBoard, show_duration, summary
from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.search.result import Best, TaskResumed, TrialDone
from loopwright.space.config import Config
from loopwright.target.presets import PRESETS
from loopwright.te import language as te
from loopwright.templates import derived
from loopwright.templates.task import Task, make

FAILED = Failed(FailureStage.RUN, FailureKind.CRASH, "signal 11")
CONFIG = Config.of({"tile": (1, 1)})


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def task_of() -> Task:
    a = te.placeholder((10, 100), name="A")
    b = te.compute((10, 100), lambda y, x: a[y, x] * 2.0, name="B")
    return make(te.workload(b), derived.TEMPLATE, PRESETS["x86-64-avx2"])


TASK = task_of()


def best_of(ns: float | None) -> Best | None:
    return None if ns is None else Best(ns, TASK.flops / ns, CONFIG, 0)


def done(
    index: int, best_ns: float | None, *, failed: bool = False, again: bool = False
) -> TrialDone:
    outcome = FAILED if failed else Timed((9.0,), 9.0)
    return TrialDone(index, TASK, CONFIG, outcome, 1, best_of(best_ns), 0.0, recheck=again)


def resumed(index: int, trials: int, best_ns: float) -> TaskResumed:
    return TaskResumed(index, TASK, trials, 0, best_of(best_ns))


def board_of(clock: Clock, tasks: int = 2, **budget: float) -> Board:
    states = [TaskState(f"task {n}", count=n + 1, flops=1000) for n in range(tasks)]
    trials, seconds = budget.get("trials"), budget.get("seconds")
    return Board(states, None if trials is None else int(trials), seconds, clock, 20.0)


def test_the_best_is_what_the_tuner_says_and_failures_are_counted() -> None:
    board = board_of(Clock())
    for event in (done(0, 200.0), done(0, 200.0, failed=True), done(0, 100.0)):
        board.take(event)
    best = board.tasks[0].best
    assert best is not None
    assert (best.ns, best.gflops) == (100.0, 10.0)
    assert (board.trials, board.failed, board.latest) == (3, 1, 0)


def test_a_second_measurement_is_no_trial() -> None:
    board = board_of(Clock())
    board.take(done(0, None))
    board.take(done(0, 100.0, again=True))
    assert board.trials == 1


def test_the_models_time_counts_each_task_as_often_as_it_is_computed() -> None:
    board = board_of(Clock())
    board.take(done(0, 100.0))
    assert board.model_ns is None
    board.take(done(1, 10.0))
    assert board.model_ns == 120.0


def test_what_is_left_follows_from_the_rate_of_this_run() -> None:
    clock = Clock()
    board = board_of(clock, trials=20)
    board.take(resumed(0, 4, 1.0))
    assert board.eta_s is None
    clock.now += 10
    for _ in range(5):
        board.take(done(0, 1.0))
    assert board.rate == 0.5
    assert board.eta_s == 22.0
    assert board.done == 9 / 20


def test_the_budget_that_ends_first_counts() -> None:
    clock = Clock()
    board = board_of(clock, trials=1000, seconds=60.0)
    clock.now += 15
    board.take(done(0, 1.0))
    assert board.eta_s == 45.0
    assert board.done == 0.25


def test_the_summary_says_what_counts() -> None:
    clock = Clock()
    board = board_of(clock, seconds=125.0)
    board.take(resumed(0, 1, 1e6))
    clock.now += 4
    board.take(done(1, None, failed=True))
    board.take(done(1, 1e6))
    assert summary(board) == (
        "4s, 3 trials (0.5/s), 1 failed, 1 of them from before, 2m01s left, all tasks together 3 ms"
    )


def test_lines_come_every_few_seconds_and_at_the_end() -> None:
    clock, out = Clock(), io.StringIO()
    board = board_of(clock)
    lines = Lines(board, Console(file=out, width=200))
    for _ in range(100):
        clock.now += 0.2
        board.take(done(0, 5.0))
        lines.changed()
    lines.finish()
    found = out.getvalue().splitlines()
    assert [line.partition(",")[0] for line in found] == ["5s", "10s", "15s", "20s", "20s"]


def test_the_live_table_shows_speed_share_of_peak_and_failures() -> None:
    board = board_of(Clock())
    board.take(done(0, 100.0))
    board.take(done(0, 100.0, failed=True))
    out = io.StringIO()
    Console(file=out, width=100, height=40, force_terminal=False).print(LiveBoard(board))
    row = next(line for line in out.getvalue().splitlines() if "1 x task 0" in line)
    cells = row.split()
    assert (cells[-4], cells[-3], cells[-1]) == ("1", "10.0", "50%")


def test_a_live_table_that_does_not_fit_says_how_many_more_there_are() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, height=16)
    console.print(LiveBoard(board_of(Clock(), tasks=30)))
    assert "and 20 more tasks" in out.getvalue()
    assert "30 x task 29" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (125, "2m05s"), (3725, "1h02m")]
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text

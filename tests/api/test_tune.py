from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

import loopwright as lw
from loopwright.api import tune
from loopwright.api.tune import TuneSettings, tune_many
from loopwright.build.candidate import BuildFunction, ExecutorBuilders
from loopwright.build.executors import ExecutorSpec, InlineExecutor, Workshop
from loopwright.build.offload import Offload
from loopwright.errors import ConfigError
from loopwright.records.store import SqlStore
from loopwright.search.result import Budget, Event, TaskResumed, TrialDone


def scaled(target: str = "cpu", threads: int = 1) -> lw.Task:
    a = lw.te.placeholder((64, 128), name="A")
    b = lw.te.compute((64, 128), lambda y, x: a[y, x] * 2.0 + 1.0, name="B")
    return lw.task(lw.workload(b, name="scaled"), target=target, threads=threads)


def test_tuning_finds_a_checked_program_and_keeps_every_trial(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'r.db'}"
    task = scaled()
    result = lw.tune(task, trials=3, records=url, policy="random", seed=1)
    assert result.trials == 3
    assert result.best is not None
    assert result.best.ns > 0
    assert result.gflops == pytest.approx(task.flops / result.best.ns)
    with SqlStore(url, create=False) as store:
        assert {record.trial for record in store.query()} == {0, 1, 2}
    assert lw.build(task, records=url).config == result.best.config


def test_tuning_again_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with SqlStore(f"sqlite:///{tmp_path / 'r.db'}") as store:
        events: list[Event] = []
        settings = TuneSettings(Budget(2), "random", 1, peak_gflops=100.0)
        tune_many([scaled()], settings, store)
        longer = TuneSettings(Budget(3), "random", 1, peak_gflops=100.0)
        (result,) = tune_many([scaled()], longer, store, on_event=events.append)
    assert (result.trials, result.resumed) == (3, 2)
    assert isinstance(events[0], TaskResumed)
    assert sum(isinstance(e, TrialDone) and not e.recheck for e in events) == 1


@pytest.mark.parametrize(
    ("tasks", "policy", "words"),
    [
        ([scaled()], "magic", "unknown policy 'magic'; use one of model"),
        ([scaled(target="aarch64-neon")], "random", "is for aarch64-neon, which this machine"),
        ([scaled(), scaled(threads=2)], "random", r"tasks for \[1, 2\] threads"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_runs(
    tmp_path: Path, tasks: list[lw.Task], policy: str, words: str
) -> None:
    with (
        SqlStore(f"sqlite:///{tmp_path / 'r.db'}") as store,
        pytest.raises(ConfigError, match=words),
    ):
        tune_many(tasks, TuneSettings(Budget(1), policy, 0, 1.0), store)


def test_no_tasks_have_no_results() -> None:
    with SqlStore("sqlite://") as store:
        assert tune_many([], TuneSettings(Budget(1)), store) == ()


def test_what_a_policy_learns_is_computed_where_candidates_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Cluster(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: object, **named: object) -> Future[Any]:
            done.append(fn.__name__)
            return InlineExecutor().submit(fn, *args, **named)

    def workshop(_: ExecutorSpec, build: BuildFunction, *__: object) -> Workshop:
        cluster = Cluster()
        return Workshop(ExecutorBuilders(cluster, build, 1, confine=False), Offload(cluster))

    monkeypatch.setattr(tune, "open_workshop", workshop)
    with SqlStore(f"sqlite:///{tmp_path / 'r.db'}") as store:
        settings = TuneSettings(Budget(20), "model", 1, peak_gflops=100.0)
        (result,) = tune_many([lw.task("matmul", a=(64, 64), b=(64, 64))], settings, store)

    assert result.trials == 20
    assert set(done) == {"build_packed", "featurize_packed", "train_text"}

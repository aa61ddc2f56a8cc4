"""Builder processes: what a build may do to them, and what it may not."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import measure_kernels as kernels
import pytest

from loopwright.build import process as builder
from loopwright.build.candidate import Built, ExecutorBuilders, pack_task, unpack_task
from loopwright.build.pool import BuilderPool
from loopwright.codegen.artifact import Artifact
from loopwright.errors import EnvironmentFailure, TemplateError, UserError
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan
from loopwright.templates.template import Template

PLAN = MeasurePlan(build_timeout_s=20.0, build_memory=256 << 20)
TASK = kernels.task()
WAIT_S = 60.0


@pytest.fixture(scope="module")
def pool() -> Iterator[BuilderPool]:
    with BuilderPool(kernels.build, 1) as running:
        yield running


def build(pool: BuilderPool, action: str, plan: MeasurePlan = PLAN) -> Artifact | Failed:
    return pool.submit(TASK, kernels.config(action), plan).result(WAIT_S).result


@pytest.mark.parametrize(
    ("action", "stage", "kind", "detail"),
    [
        ("illegal", FailureStage.SCHEDULE, FailureKind.ILLEGAL_SCHEDULE, "split of j by 0"),
        ("template", FailureStage.SCHEDULE, FailureKind.TEMPLATE_ERROR, "the template raised"),
        ("codegen", FailureStage.BUILD, FailureKind.COMPILE_ERROR, "no rule for erf"),
        (
            "bug",
            FailureStage.BUILD,
            FailureKind.COMPILE_ERROR,
            "ZeroDivisionError: division by zero",
        ),
        ("compiler-aborts", FailureStage.BUILD, FailureKind.COMPILER_CRASH, "ended with SIGABRT"),
        (
            "compiler-segfaults",
            FailureStage.BUILD,
            FailureKind.COMPILER_CRASH,
            "ended with SIGSEGV",
        ),
        ("compiler-eats", FailureStage.BUILD, FailureKind.BUILD_MEMORY, "268435456 bytes"),
        ("compiler-killed", FailureStage.BUILD, FailureKind.BUILD_MEMORY, "SIGKILL"),
    ],
)
def test_a_bad_build_fails_alone(
    pool: BuilderPool, action: str, stage: FailureStage, kind: FailureKind, detail: str
) -> None:
    failed = build(pool, action)

    assert isinstance(failed, Failed)
    assert (failed.stage, failed.kind) == (stage, kind)
    assert detail in failed.detail
    assert isinstance(build(pool, "double"), Artifact)


@pytest.mark.parametrize("action", ["compiler-loops", "compiler-sleeps"])
def test_an_endless_build_is_ended(pool: BuilderPool, action: str) -> None:
    failed = build(pool, action, replace(PLAN, build_timeout_s=0.1))

    assert isinstance(failed, Failed)
    assert (failed.stage, failed.kind) == (FailureStage.BUILD, FailureKind.BUILD_TIMEOUT)
    assert isinstance(build(pool, "double"), Artifact)


def test_a_killed_builder_is_replaced(pool: BuilderPool) -> None:
    assert isinstance(build(pool, "double"), Artifact)
    os.killpg(pool.pids[0], 9)

    lost = build(pool, "double")

    assert isinstance(lost, Failed)
    assert lost.kind is FailureKind.WORKER_LOST
    assert isinstance(build(pool, "double"), Artifact)


def test_a_pause_stops_the_builders_and_no_limit_runs(pool: BuilderPool) -> None:
    plan = replace(PLAN, build_timeout_s=0.2)
    build(pool, "double")
    with pool.paused():
        future = pool.submit(TASK, kernels.config("spin-0.05"), plan)
        with pytest.raises(TimeoutError):
            future.result(0.7)  # more than the build's limit on the wall: 3 x 0.2 s
        state = Path(f"/proc/{pool.pids[0]}/stat").read_text().rpartition(")")[2].split()[0]

    assert state in "Tt"
    assert isinstance(future.result(WAIT_S).result, Artifact)


def test_two_builders_build_every_candidate_once() -> None:
    with BuilderPool(kernels.build, 2) as pool:
        futures = [pool.submit(TASK, kernels.config("double"), PLAN) for _ in range(12)]
        results = [f.result(WAIT_S).result for f in futures]

    assert all(isinstance(r, Artifact) for r in results)


def test_closing_cancels_what_waits_and_leaves_no_process() -> None:
    pool = BuilderPool(kernels.build, 1)
    pool.submit(TASK, kernels.config("double"), PLAN).result(WAIT_S)
    pids = pool.pids
    futures: list[Future[Built]] = [
        pool.submit(TASK, kernels.config("compiler-sleeps"), PLAN) for _ in range(3)
    ]
    while not futures[0].running():
        pass
    pool.close()

    first = futures[0].result(WAIT_S).result
    assert isinstance(first, Failed)
    assert first.kind is FailureKind.WORKER_LOST
    assert [f.cancelled() for f in futures[1:]] == [True, True]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)
    with pytest.raises(EnvironmentFailure, match="closed"):
        pool.submit(TASK, kernels.config("double"), PLAN)


def test_a_task_is_packed_without_its_space() -> None:
    again = unpack_task(pack_task(TASK))

    assert again.key == TASK.key
    assert again.space.names == TASK.space.names


def test_a_template_that_cannot_be_pickled_says_so() -> None:
    local = replace(TASK, template=Template("local", 1, lambda *_: TASK.space, kernels._schedule))

    with pytest.raises(TemplateError, match="template local: its functions must be at the top"):
        pack_task(local)


def test_any_executor_of_processes_builds() -> None:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        builders = ExecutorBuilders(executor, kernels.build, workers=1)
        good = builders.submit(TASK, kernels.config("double"), PLAN).result(WAIT_S).result
        dead = builders.submit(TASK, kernels.config("compiler-aborts"), PLAN).result(WAIT_S).result

    assert isinstance(good, Artifact)
    assert isinstance(dead, Failed)
    assert dead.kind is FailureKind.COMPILER_CRASH


def test_a_broken_executor_is_a_compiler_crash() -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, *_: object, **__: object) -> Future[Built]:  # type: ignore[override]
            future: Future[Built] = Future()
            future.set_exception(BrokenProcessPool("a worker died"))
            return future

    builders = ExecutorBuilders(Broken(1), kernels.build, workers=1)
    built = builders.submit(TASK, kernels.config("double"), PLAN).result(WAIT_S)

    assert isinstance(built.result, Failed)
    assert built.result.kind is FailureKind.COMPILER_CRASH


def test_a_script_that_tunes_when_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing.process

    current = multiprocessing.process.current_process()
    monkeypatch.setattr(current, "_inheriting", True, raising=False)

    with pytest.raises(UserError, match="if __name__ == '__main__'"):
        builder.refuse_nesting()


def test_messages_survive_the_wire() -> None:
    order = builder.Order(1, b"task", kernels.config("double"), 2.0, 3)

    assert pickle.loads(pickle.dumps(order)) == order

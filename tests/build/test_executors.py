"""Builders on executors: one suite, passed by this process, our own processes, Dask and Ray."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path
from typing import Any

import measure_kernels as kernels
import numpy as np
import pytest

from loopwright.build.candidate import Builders
from loopwright.build.executors import (
    DaskExecutor,
    Engine,
    ExecutorSpec,
    InlineExecutor,
    RayExecutor,
    Workshop,
    open_workshop,
    parse_executor,
)
from loopwright.build.offload import Offload
from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.learn.dataset import Observations, collect
from loopwright.learn.features import features_of, featurize
from loopwright.learn.gbt import GbtModel
from loopwright.ops.registry import build
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan, Timed
from loopwright.search.policies import make_policy
from loopwright.search.policy import Trial
from loopwright.target.parse import parse
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make
from operators import OPERATORS

WAIT_S = 120.0
PLAN = MeasurePlan(build_memory=1 << 30)
TASK = kernels.task()


def pid() -> int:
    return os.getpid()


def layer() -> Task:
    workload = build("conv2d", **OPERATORS["conv2d"]["3x3"])
    target = parse("x86-64-avx2")
    return make(workload, template_for("conv2d", workload, target), target)


def learned(offload: Offload, task: Task, trials: int) -> list[str]:
    """What the learned policy asks for, on times that are made of the features."""
    featurizer = offload.featurizer(task)
    rng = np.random.default_rng(3)
    policy = make_policy("model", task.space, rng, featurizer, offload.trainer)
    asked: list[str] = []
    while len(asked) < trials:
        (config,) = policy.ask(1)
        asked.append(config.key)
        ns = 1e6 * float(1 + np.abs(np.sin(features_of(task, config))).sum())
        policy.tell([Trial(config, Timed((ns,), ns))])
    return asked


class Conformance:
    """Needs the fixture `new_shop`; `survives` says whether a compiler may die, `away` whether
    features and training are somewhere else.
    """

    survives = True
    away = False

    @pytest.fixture
    def new_builders(self, new_shop: Callable[[], Workshop]) -> Callable[[], Builders]:
        return lambda: new_shop().builders

    def test_features_and_trained_trees_are_the_same_to_the_bit(
        self, new_shop: Callable[[], Workshop]
    ) -> None:
        task = layer()
        points = task.space.sample(np.random.default_rng(1), 200)
        other = task.space.sample(np.random.default_rng(2), 200)
        shop = new_shop()
        found = shop.offload.featurizer(task)(points)
        data = collect([Observations("w", found, 1e3 + found.sum(axis=1, dtype=np.float64))])
        scores = []
        for trainer in (shop.offload.trainer, None):
            model = GbtModel("rank", 7, trainer=trainer)
            model.fit(data)
            scores.append(model.predict(featurize(task, other)))
        shop.builders.close()

        assert shop.offload.here != self.away
        np.testing.assert_array_equal(found, featurize(task, points))
        np.testing.assert_array_equal(*scores)

    def test_a_search_goes_the_same_way(self, new_shop: Callable[[], Workshop]) -> None:
        shop = new_shop()
        asked = learned(shop.offload, layer(), 28)
        shop.builders.close()

        assert asked == learned(Offload(), layer(), 28)

    def test_what_is_learned_is_learned_here_when_the_worker_dies_of_it(
        self, new_shop: Callable[[], Workshop]
    ) -> None:
        shop = new_shop()
        found = shop.offload.do(kernels.ends_elsewhere, os.getpid())
        again = shop.offload.do(pid)
        shop.builders.close()

        assert found == "here"
        assert (again != os.getpid()) == self.away

    def test_after_closing_everything_is_done_here(self, new_shop: Callable[[], Workshop]) -> None:
        shop = new_shop()
        shop.builders.close()

        assert shop.offload.do(pid) == os.getpid()

    def test_what_a_person_has_to_mend_is_raised(self, new_shop: Callable[[], Workshop]) -> None:
        shop = new_shop()
        with pytest.raises(ConfigError, match="is not one of"):
            shop.offload.do(parse_executor, "threads")
        shop.builders.close()

    def test_a_candidate_is_built(self, new_builders: Callable[[], Builders]) -> None:
        builders = new_builders()
        built = builders.submit(TASK, kernels.config("double"), PLAN).result(WAIT_S)
        builders.close()

        assert isinstance(built.result, Artifact)
        assert built.build_s > 0
        assert builders.workers >= 1

    def test_each_of_many_gets_its_own_result(self, new_builders: Callable[[], Builders]) -> None:
        builders = new_builders()
        actions = ("double", "illegal", "codegen", "null", "bug")
        futures = [builders.submit(TASK, kernels.config(action), PLAN) for action in actions]
        results = [future.result(WAIT_S).result for future in futures]
        builders.close()

        found = [r.entry if isinstance(r, Artifact) else r.kind for r in results]
        assert found == [
            "k_double",
            FailureKind.ILLEGAL_SCHEDULE,
            FailureKind.COMPILE_ERROR,
            "k_null",
            FailureKind.COMPILE_ERROR,
        ]

    def test_a_compiler_that_dies_is_the_candidates_failure_alone(
        self, new_builders: Callable[[], Builders]
    ) -> None:
        if not self.survives:
            pytest.skip("a task that dies takes this process with it")
        builders = new_builders()
        dead = builders.submit(TASK, kernels.config("compiler-aborts"), PLAN).result(WAIT_S).result
        good = builders.submit(TASK, kernels.config("double"), PLAN).result(WAIT_S).result
        builders.close()

        assert isinstance(dead, Failed)
        assert (dead.stage, dead.kind) == (FailureStage.BUILD, FailureKind.COMPILER_CRASH)
        assert "\n" not in dead.detail
        assert isinstance(good, Artifact)

    def test_closing_settles_what_waits_and_refuses_more(
        self, new_builders: Callable[[], Builders]
    ) -> None:
        builders = new_builders()
        action = "spin-0.05"
        futures = [builders.submit(TASK, kernels.config(action), PLAN) for _ in range(6)]
        builders.close()
        builders.close()

        for future in futures:
            with contextlib.suppress(CancelledError):
                future.result(WAIT_S)
        with pytest.raises(EnvironmentFailure, match="closed"):
            builders.submit(TASK, kernels.config("double"), PLAN)

    def test_what_is_cancelled_while_it_waits_is_not_built(
        self, new_builders: Callable[[], Builders]
    ) -> None:
        if not self.survives:
            pytest.skip("nothing waits: a task runs when it is submitted")
        builders = new_builders()
        action = kernels.config("spin-0.2")
        first = [builders.submit(TASK, action, PLAN) for _ in range(builders.workers + 2)]
        assert first[-1].cancel()
        last = builders.submit(TASK, kernels.config("double"), PLAN)
        kept = [*first[:-1], last]
        built = [future.result(WAIT_S).result for future in kept]  # a cluster keeps no order
        builders.close()

        assert first[-1].cancelled()
        assert all(isinstance(result, Artifact) for result in built)


class TestInline(Conformance):
    survives = False

    @pytest.fixture
    def new_shop(self) -> Callable[[], Workshop]:
        return lambda: open_workshop(ExecutorSpec(Engine.INLINE), kernels.build, 1)


class TestProcesses(Conformance):
    @pytest.fixture
    def new_shop(self) -> Callable[[], Workshop]:
        return lambda: open_workshop(ExecutorSpec(Engine.PROCESSES), kernels.build, 1)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    import dask
    from distributed import LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address.removeprefix("tcp://")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    here = str(Path(kernels.__file__).parent)
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([here, *sys.path])}},
    )
    yield ray
    ray.shutdown()


def check_that_it_is_a_guest(executor: Executor, again: Callable[[], Executor]) -> None:
    """It runs elsewhere, carries exceptions, ends without ending the cluster, and only once."""
    with executor:
        assert executor.submit(pid).result(WAIT_S) != os.getpid()
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result(WAIT_S)
        cancelled = executor.submit(pid)
        cancelled.cancel()
        assert cancelled.done()
    executor.shutdown()
    with pytest.raises(EnvironmentFailure, match="shut down"):
        executor.submit(pid)
    with again() as other:
        assert other.submit(pid).result(WAIT_S) > 0


@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="Dask is not installed ([dask])"
)
class TestDask(Conformance):
    away = True

    @pytest.fixture
    def new_shop(self, scheduler: str) -> Callable[[], Workshop]:
        return lambda: open_workshop(parse_executor(f"dask://{scheduler}"), kernels.build, 1)

    def test_it_is_a_guest_of_the_cluster(self, scheduler: str) -> None:
        check_that_it_is_a_guest(DaskExecutor(scheduler), lambda: DaskExecutor(scheduler))

    def test_what_a_cluster_would_not_take_is_not_waited_for(self, scheduler: str) -> None:
        executor = DaskExecutor(scheduler)
        executor._client.close()
        with pytest.raises(Exception, match=r"[Cc]los"):
            executor.submit(pid)
        end = threading.Thread(target=executor.shutdown, daemon=True)
        end.start()
        end.join(WAIT_S / 8)
        assert not end.is_alive()

    def test_a_scheduler_that_lets_one_task_end_many_workers_is_told(self, scheduler: str) -> None:
        def allow(failures: int) -> None:
            def change(dask_scheduler: Any) -> None:  # noqa: ANN401  # Dask has no types
                dask_scheduler.allowed_failures = failures

            with DaskExecutor(scheduler) as executor:
                executor._client.run_on_scheduler(change)

        allow(3)
        try:
            with pytest.warns(
                RuntimeWarning, match=r"candidate end 4 workers .*ALLOWED_FAILURES=1"
            ):
                DaskExecutor(scheduler).shutdown()
        finally:
            with pytest.warns(RuntimeWarning):
                allow(1)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed ([ray])")
class TestRay(Conformance):
    away = True

    @pytest.fixture
    def new_shop(self, cluster: object) -> Callable[[], Workshop]:
        del cluster
        return lambda: open_workshop(parse_executor("ray://auto"), kernels.build, 1)

    def test_it_is_a_guest_of_the_cluster(self, cluster: Any) -> None:  # noqa: ANN401  # Ray has no types
        check_that_it_is_a_guest(RayExecutor("auto"), lambda: RayExecutor("auto"))
        assert cluster.is_initialized()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("processes", ExecutorSpec(Engine.PROCESSES)),
        ("inline", ExecutorSpec(Engine.INLINE)),
        ("dask://lab:8786", ExecutorSpec(Engine.DASK, "lab:8786")),
        ("ray://lab:10001", ExecutorSpec(Engine.RAY, "lab:10001")),
        ("ray://auto", ExecutorSpec(Engine.RAY, "auto")),
    ],
)
def test_an_executor_is_read_from_text_and_prints_as_it(text: str, spec: ExecutorSpec) -> None:
    assert parse_executor(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize("text", ["", "threads", "dask", "dask://", "processes://4", "ray://"])
def test_an_unknown_executor_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not one of processes, inline, dask://"):
        parse_executor(text)


def test_a_dask_address_without_a_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="no port"):
        parse_executor("dask://lab")


@pytest.mark.parametrize("engine", ["dask://127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_engine_that_is_not_installed_says_what_to_install(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    spec = parse_executor(engine)
    with pytest.raises(EnvironmentFailure, match=rf"loopwright\[{spec.engine.value}\]"):
        open_workshop(spec, kernels.build, 1)


def test_the_inline_executor_carries_exceptions() -> None:
    with InlineExecutor() as executor, pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(0)

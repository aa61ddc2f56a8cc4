"""The derived template schedules any workload, and what it makes is right."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import check_compiled, check_interpreted
from workloads import workloads

from loopwright.learn.features import features_of, featurize
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.target.parse import parse
from loopwright.te.workload import Workload
from loopwright.templates import derived
from loopwright.templates.apply import scheduled
from loopwright.templates.task import make

LAW = settings(deadline=None, suppress_health_check=[*HealthCheck])
seeds = st.integers(0, 1 << 30)


@settings(LAW, max_examples=60)
@given(workloads(), seeds)
def test_any_config_of_any_workload_is_right(cpu: CpuDevice, workload: Workload, seed: int) -> None:
    task = make(workload, derived.TEMPLATE, parse("x86-64-avx2"))
    for point in task.space.sample(np.random.default_rng(seed), 2):
        check_compiled(scheduled(task, task.space.decode(point)), cpu, task.target)


@settings(LAW, max_examples=40)
@given(workloads(), seeds)
def test_any_config_stays_within_bounds(workload: Workload, seed: int) -> None:
    task = make(workload, derived.TEMPLATE, parse("x86-64-sse4"))
    (point,) = task.space.sample(np.random.default_rng(seed), 1)
    check_interpreted(scheduled(task, task.space.decode(point)))


@settings(LAW, max_examples=40)
@given(workloads(), seeds)
def test_any_batch_has_the_features_of_its_configs(workload: Workload, seed: int) -> None:
    task = make(workload, derived.TEMPLATE, parse("x86-64-avx512"), threads=2)
    points = task.space.sample(np.random.default_rng(seed), 8)
    alone = np.concatenate([features_of(task, task.space.decode(p)) for p in points])
    np.testing.assert_allclose(featurize(task, points), alone, rtol=1e-6, atol=1e-6)

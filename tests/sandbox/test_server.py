"""The measuring process against kernels that misbehave in every way we know."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import measure_kernels as kernels
import numpy as np
import pytest
from measuring import Measuring

from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan, Timed, cores_for
from loopwright.sandbox.inputs import generate

PLAN = MeasurePlan(repeats=2, min_repeat_s=0.0005, run_timeout_s=5.0, run_memory=512 << 20)
SHORT = replace(PLAN, run_timeout_s=0.25)

HOSTILE = [
    ("null", FailureKind.CRASH, "SIGSEGV at address 0x0"),
    ("wild", FailureKind.CRASH, "SIGSEGV at address 0x1000"),
    ("trap", FailureKind.CRASH, "SIGILL"),
    ("abort", FailureKind.CRASH, "SIGABRT"),
    ("print_and_abort", FailureKind.CRASH, "SIGABRT; it printed: garbage"),
    ("exit", FailureKind.CRASH, r"exit\(0\) before it was done"),
    ("quick_exit", FailureKind.CRASH, r"exit\(3\) before it was done"),
    ("past_slack", FailureKind.OUT_OF_BOUNDS, "wrote 4 bytes past the end of y"),
    ("past_guard", FailureKind.OUT_OF_BOUNDS, "past the end of y"),
    ("before_slack", FailureKind.OUT_OF_BOUNDS, "wrote 4 bytes before the start of y"),
    ("before_guard", FailureKind.OUT_OF_BOUNDS, "before the start of y"),
    ("past_input", FailureKind.OUT_OF_BOUNDS, "past the end of x"),
    ("into_input", FailureKind.OUT_OF_BOUNDS, "wrote into input x at byte 0"),
    ("past_workspace", FailureKind.OUT_OF_BOUNDS, "past the end of the workspace"),
    ("malloc", FailureKind.RUN_MEMORY, "limit of 536870912 bytes used up"),
    ("mmap_and_touch", FailureKind.RUN_MEMORY, "limit of 536870912 bytes used up"),
    ("recurse", FailureKind.CRASH, "stack overflow"),
    ("fork", FailureKind.CRASH, "SIGSYS"),
    ("fork_bomb", FailureKind.CRASH, "SIGSYS"),
    ("kill_parent", FailureKind.CRASH, "SIGSYS"),
    ("unlink", FailureKind.CRASH, "SIGSYS"),
]
SLOW = [
    ("hang", FailureKind.RUN_TIMEOUT, "not done after 0.25 s"),
    ("sleep", FailureKind.RUN_TIMEOUT, "not done after 0.25 s"),
    ("reserve_and_hang", FailureKind.RUN_MEMORY, "bytes at the time limit"),
]


@pytest.fixture
def make(code: bytes) -> Callable[[str], Artifact]:
    return lambda entry: kernels.artifact(code, entry)


def assert_measures_doubling(server: Measuring, good: Artifact) -> None:
    result = server.run(good, PLAN, seed=3, want_output=True)
    x = generate("float32", (kernels.N,), 3, 0)
    assert isinstance(result.outcome, Timed), result.outcome
    np.testing.assert_array_equal(result.outputs[0], x + x)


@pytest.mark.parametrize(("entry", "kind", "detail"), [*HOSTILE, *SLOW])
def test_a_hostile_kernel_fails_alone(
    server: Measuring,
    make: Callable[[str], Artifact],
    entry: str,
    kind: FailureKind,
    detail: str,
) -> None:
    plan = SHORT if entry in [slow for slow, _, _ in SLOW] else PLAN
    outcome = server.run(make(entry), plan).outcome

    assert isinstance(outcome, Failed), outcome
    assert (outcome.stage, outcome.kind) == (FailureStage.RUN, kind), outcome
    with pytest.raises(ValueError, match=detail):
        raise ValueError(outcome.detail)
    assert_measures_doubling(server, make("double"))


@pytest.mark.parametrize("entry", ["close_all", "scribble"])
def test_a_kernel_that_spoils_descriptors_is_still_measured(
    server: Measuring, make: Callable[[str], Artifact], entry: str
) -> None:
    assert_measures_doubling(server, make(entry))


def test_an_undefined_symbol_is_a_load_error(server: Measuring) -> None:
    code = kernels.compile_here(kernels.UNDEFINED)

    outcome = server.run(kernels.artifact(code, "double"), PLAN).outcome

    assert isinstance(outcome, Failed)
    assert (outcome.stage, outcome.kind) == (FailureStage.LOAD, FailureKind.LOAD_ERROR)


@pytest.mark.parametrize("damage", [b"", b"not an object", None])
def test_a_broken_object_is_a_load_error(
    server: Measuring, code: bytes, damage: bytes | None
) -> None:
    broken = code[: len(code) // 2] if damage is None else damage

    outcome = server.run(kernels.artifact(broken, "double"), PLAN).outcome

    assert isinstance(outcome, Failed)
    assert (outcome.stage, outcome.kind) == (FailureStage.LOAD, FailureKind.LOAD_ERROR)


def test_arguments_over_the_memory_limit_are_refused_before_the_run(
    server: Measuring, make: Callable[[str], Artifact]
) -> None:
    greedy = replace(make("double"), workspace_shared=1 << 40)

    outcome = server.run(greedy, PLAN).outcome

    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.RUN_MEMORY


def test_unwritten_output_is_seen_as_nan(
    server: Measuring, make: Callable[[str], Artifact]
) -> None:
    result = server.run(make("leaves_the_last"), PLAN, want_output=True)

    assert np.flatnonzero(np.isnan(result.outputs[0])).tolist() == [kernels.N - 1]


def test_a_slow_first_call_is_the_only_figure(
    server: Measuring, make: Callable[[str], Artifact]
) -> None:
    outcome = server.run(make("double"), replace(PLAN, abandon_ns=0.5)).outcome

    assert isinstance(outcome, Timed)
    assert len(outcome.ns) == 1


def test_there_is_one_figure_a_repeat_and_the_best_is_the_least(
    server: Measuring, make: Callable[[str], Artifact]
) -> None:
    outcome = server.run(make("double"), replace(PLAN, repeats=5)).outcome

    assert isinstance(outcome, Timed)
    assert len(outcome.ns) == 5
    assert outcome.best_ns == min(outcome.ns)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_parallel_kernel_runs_on_two_threads(
    server: Measuring, make: Callable[[str], Artifact]
) -> None:
    plan = replace(PLAN, threads=2)

    result = server.run(make("parallel_double"), plan, want_output=True)

    x = generate("float32", (kernels.N,), 0, 0)
    np.testing.assert_array_equal(result.outputs[0], x + x)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_crash_on_a_pool_thread_is_a_crash(
    server: Measuring, make: Callable[[str], Artifact]
) -> None:
    outcome = server.run(make("parallel_null"), replace(PLAN, threads=2)).outcome

    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.CRASH
    assert_measures_doubling(server, make("double"))


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 threads cannot be measured on 2 cores"):
        cores_for(3, [0, 1])


def test_the_last_cores_are_measured() -> None:
    assert cores_for(2, [4, 1, 7]) == (4, 7)

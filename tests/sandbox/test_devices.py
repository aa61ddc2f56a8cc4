"""The measuring process and kernels that run on a device instead of this processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import measure_kernels as kernels
import numpy as np
import pytest
import tally_device
from measuring import Measuring

from loopwright.kernel_call import CPU, Form
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan, Timed
from loopwright.sandbox.inputs import generate

PLAN = MeasurePlan(repeats=3, run_timeout_s=5.0, run_memory=512 << 20)
SHORT = MeasurePlan(repeats=3, run_timeout_s=0.25, run_memory=512 << 20)


@pytest.fixture(scope="module")
def server(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measuring]:
    with pytest.MonkeyPatch.context() as patch:
        tally_device.install(tmp_path_factory.mktemp("tally"), patch)
        with Measuring(cache_dir) as running:
            yield running


def assert_works(server: Measuring, code: bytes) -> None:
    """Kernels of both kinds of devices go on being measured."""
    result = server.run(tally_device.artifact("scale 3"), PLAN, seed=5, want_output=True)
    x = generate("float32", (tally_device.N,), 5, 0)
    assert isinstance(result.outcome, Timed), result.outcome
    np.testing.assert_array_equal(result.outputs[0], np.float32(3) * x)
    assert isinstance(server.run(kernels.artifact(code, "double"), PLAN).outcome, Timed)


def test_a_kernel_is_timed_by_the_clock_of_its_device(server: Measuring) -> None:
    outcome = server.run(tally_device.artifact("scale 3"), PLAN).outcome

    assert isinstance(outcome, Timed), outcome
    assert outcome.ns == (tally_device.NS * tally_device.N,)  # cycles: one figure says all


def test_outputs_come_from_the_device(server: Measuring, code: bytes) -> None:
    assert_works(server, code)


@pytest.mark.parametrize(
    ("text", "plan", "stage", "kind", "detail"),
    [
        ("fault 1", PLAN, "run", FailureKind.OUT_OF_BOUNDS, "wrote to element 100 of y"),
        ("hang 1", SHORT, "run", FailureKind.RUN_TIMEOUT, "not done after 0.25 s"),
        ("abort 1", PLAN, "run", FailureKind.CRASH, "SIGABRT"),
        ("raise 1", PLAN, "run", FailureKind.CRASH, "ValueError: a bug of the device"),
        ("exec 1", PLAN, "run", FailureKind.CRASH, "SIGSYS"),
        ("scale", PLAN, "load", FailureKind.LOAD_ERROR, "the code of tally is broken"),
    ],
)
def test_a_kernel_fails_on_a_device_as_it_does_here(
    server: Measuring,
    code: bytes,
    text: str,
    plan: MeasurePlan,
    stage: str,
    kind: FailureKind,
    detail: str,
) -> None:
    outcome = server.run(tally_device.artifact(text), plan).outcome

    assert isinstance(outcome, Failed), outcome
    assert (outcome.stage, outcome.kind) == (FailureStage(stage), kind), outcome
    assert detail in outcome.detail
    assert_works(server, code)


@pytest.mark.parametrize(
    ("kind", "form", "detail"),
    [
        (CPU, Form.STREAM, "kernel tally is stream code; a device of kind cpu loads object code"),
        ("tally", Form.OBJECT, "kernel tally is object code; a device of kind tally loads stream"),
    ],
)
def test_code_in_a_form_that_the_device_does_not_load_is_one_line(
    server: Measuring, code: bytes, kind: str, form: Form, detail: str
) -> None:
    outcome = server.run(tally_device.artifact("scale 3", kind=kind, form=form), PLAN).outcome

    assert isinstance(outcome, Failed), outcome
    assert (outcome.stage, outcome.kind) == (FailureStage.LOAD, FailureKind.LOAD_ERROR)
    assert outcome.detail.startswith(detail)
    assert_works(server, code)


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("abacus", "there is no device of kind 'abacus'; there are broken, cpu, null, tally; "),
        ("broken", "entry point 'tally_device:Nothing'"),
    ],
)
def test_no_candidate_is_to_blame_for_a_device_that_is_not_there(
    server: Measuring, code: bytes, kind: str, detail: str
) -> None:
    outcome = server.run(tally_device.artifact("scale 3", kind=kind), PLAN).outcome

    assert isinstance(outcome, Failed), outcome
    assert not outcome.blames_candidate
    assert outcome.detail.startswith(detail)
    assert_works(server, code)


def test_the_null_device_measures_what_measuring_costs(server: Measuring, code: bytes) -> None:
    null = tally_device.artifact("", kind="null", form=Form.SOURCE)
    result = server.run(null, PLAN, want_output=True)

    assert isinstance(result.outcome, Timed), result.outcome
    assert result.outcome.ns == (1.0,)
    assert np.isnan(result.outputs[0]).all()  # what is left where nothing was written
    assert_works(server, code)

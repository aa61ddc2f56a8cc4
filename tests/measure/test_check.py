"""The oracle gate, with an oracle of two lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import measure_kernels as kernels
import numpy as np
import pytest

from loopwright.codegen.artifact import Artifact
from loopwright.ir.dtype import F32
from loopwright.layout import Array, Layout
from loopwright.measure.check import Checker, Oracle
from loopwright.outcome import Failed, FailureKind
from loopwright.sandbox.inputs import generate
from loopwright.te import language as te
from loopwright.te.workload import Workload, workload

BLOCKED = Layout.parse("A16a", "A")


class Twice:
    """The oracle of y = x + x; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def evaluate(self, asked: Workload, inputs: Sequence[Array]) -> Sequence[Array]:
        self.asked.append(asked.key)
        return (np.asarray(inputs[0], np.float32) * 2,)

    def compare(self, _: Workload, actual: Array, expected: Array) -> str | None:
        worst = int(np.argmax(actual != expected))
        return None if np.array_equal(actual, expected) else f"worst at {worst}"


def artifact(layout: Layout = Layout.plain(1)) -> Artifact:  # noqa: B008  # frozen
    plain = kernels.artifact(b"", "double")
    return replace(plain, params=(plain.params[0], replace(plain.params[1], layout=layout)))


@pytest.fixture
def oracle() -> Twice:
    return Twice()


@pytest.fixture
def checker(oracle: Twice) -> Checker:
    return Checker(Oracle(oracle.evaluate, oracle.compare), seed=4)


def right() -> Array:
    return generate("float32", (kernels.N,), 4, 0) * np.float32(2)  # type: ignore[operator]


def test_a_right_output_passes(checker: Checker) -> None:
    assert checker.check(kernels.double_workload(), artifact(), [right()]) is None


def test_a_wrong_output_names_the_output_and_the_place(checker: Checker) -> None:
    wrong = right()
    wrong[17] = 9

    failed = checker.check(kernels.double_workload(), artifact(), [wrong])

    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.WRONG_OUTPUT
    assert failed.detail == "output y: worst at 17"


def test_the_padding_of_a_blocked_layout_is_not_compared(checker: Checker) -> None:
    memory = BLOCKED.pack(right())
    memory.reshape(-1)[kernels.N :] = np.nan

    assert memory.size > kernels.N
    assert checker.check(kernels.double_workload(), artifact(BLOCKED), [memory]) is None


def test_what_is_expected_is_computed_once(checker: Checker, oracle: Twice) -> None:
    for _ in range(3):
        checker.check(kernels.double_workload(), artifact(), [right()])

    assert len(oracle.asked) == 1


def test_only_the_last_few_workloads_are_kept(checker: Checker, oracle: Twice) -> None:
    works = [scaled(n) for n in range(1, 8)]
    for work in works:
        checker.expected(work)
    checker.expected(works[-1])
    checker.expected(works[0])

    assert oracle.asked == [*(w.key for w in works), works[0].key]


def test_inputs_are_those_of_the_measuring_process(checker: Checker) -> None:
    (x,) = checker.inputs(kernels.double_workload())

    assert x.dtype == F32.numpy
    np.testing.assert_array_equal(x, generate("float32", (kernels.N,), 4, 0))


def scaled(n: int) -> Workload:
    x = te.placeholder((n,), name="x")
    return workload(te.compute((n,), lambda i: x[i] + x[i], name="y"))

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from workloads import workloads

from loopwright.errors import ShapeError
from loopwright.ops.registry import build
from loopwright.te import language as te
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload


def scaled(source: Tensor, name: str) -> Tensor:
    return te.compute(source.shape, lambda *i: source[i] * 2.0, name=name)


A = te.placeholder((4, 6), name="A")
B = te.placeholder((4, 6), name="B")


def test_arguments_are_inputs_as_they_are_met_then_outputs() -> None:
    c = te.compute((4, 6), lambda y, x: B[y, x] - A[y, x], name="C")
    d = scaled(c, "D")
    w = te.workload([d, c], name="two")
    assert [t.name for t in w.args] == ["B", "A", "D", "C"]
    assert [t.name for t in w.inputs] == ["B", "A"]
    assert [t.name for t in w.outputs] == ["D", "C"]
    assert [t.name for t in w.stages] == ["C", "D"]


def test_arguments_can_be_put_in_order() -> None:
    c = te.compute((4, 6), lambda y, x: B[y, x] - A[y, x], name="C")
    assert [t.name for t in te.workload(c, [A, B, c]).inputs] == ["A", "B"]


def test_an_input_may_be_unused() -> None:
    c = scaled(A, "C")
    assert [t.name for t in te.workload(c, [A, B, c]).inputs] == ["A", "B"]


def test_stages_come_after_what_they_read() -> None:
    b = scaled(A, "b")
    c = scaled(b, "c")
    d = te.compute((4, 6), lambda y, x: b[y, x] + c[y, x], name="d")
    e = te.compute((4, 6), lambda y, x: d[y, x] + b[y, x], name="e")
    assert [t.name for t in te.workload(e).stages] == ["b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: te.workload([], name="w"), "w: a workload computes at least one output"),
        (lambda: te.workload(A, name="w"), "w: the output A is an input; compute a copy of it"),
        (lambda: te.workload([c := scaled(A, "C"), c], name="w"), "the output C is given twice"),
        (
            lambda: te.workload(c := scaled(A, "C"), [c, A], name="w"),
            "args must end with the outputs C",
        ),
        (lambda: te.workload(c := scaled(A, "C"), [B, c], name="w"), "the inputs A are read but"),
        (lambda: te.workload(scaled(scaled(A, "B"), "A"), name="w"), "two tensors are called 'A'"),
        (
            lambda: te.workload(scaled(A, "C"), name="w", constants=["B"]),
            r"w: constants \['B'\] are not inputs",
        ),
    ],
)
def test_a_workload_that_does_not_fit_together_is_refused(make: object, reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        make()


def test_a_tensor_is_found_by_its_name() -> None:
    w = te.workload(c := scaled(A, "C"))
    assert w.tensor("A") is A
    assert w.tensor("C") is c
    with pytest.raises(KeyError):
        w.tensor("X")


def test_the_text_says_all_there_is_to_compute() -> None:
    k = te.reduce_axis(6, name="k")
    c = te.compute((4,), lambda y: te.sum(A[y, k] * B[y, k], axis=k), name="C")
    assert str(te.workload(c, constants=["B"])).splitlines() == [
        "A: float32[4, 6]",
        "const B: float32[4, 6]",
        "C: float32[4] at (C.y) k<6 = sum(A[C.y, k] * B[C.y, k] for k in 0..6)",
        "return C",
    ]


def conv(**attrs: object) -> Workload:
    return build("conv2d", **{"data": (1, 8, 9, 9), "weight": (4, 8, 3, 3), **attrs})


def test_equal_computations_have_equal_keys() -> None:
    assert conv().key == conv().key
    assert len(conv().key) == 16


@pytest.mark.parametrize(
    "other",
    [
        {"strides": (2, 2)},
        {"padding": (1, 1, 1, 1)},
        {"dilation": (2, 2)},
        {"relu": True},
        {"bias": True},
        {"dtype": "float64"},
        {"data": (2, 8, 9, 9)},
        {"groups": 2, "weight": (4, 4, 3, 3)},
    ],
)
def test_different_computations_have_different_keys(other: dict[str, object]) -> None:
    assert conv(**other).key != conv().key


def test_the_key_is_the_same_in_another_process() -> None:
    code = (
        "from loopwright.ops.registry import build;"
        "print(build('conv2d', data=(1, 8, 9, 9), weight=(4, 8, 3, 3)).key)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == conv().key


def test_flops_count_arithmetic_on_elements() -> None:
    assert conv().flops == 2 * 4 * 7 * 7 * 8 * 3 * 3
    assert conv(relu=True).flops == conv().flops + 4 * 7 * 7
    assert conv(padding=(1, 1, 1, 1)).flops == 2 * 4 * 9 * 9 * 8 * 3 * 3
    assert te.workload(scaled(A, "C")).flops == 24


@settings(max_examples=30, deadline=None, suppress_health_check=[*HealthCheck])
@given(workloads())
def test_a_workload_survives_pickling(workload: Workload) -> None:
    again = pickle.loads(pickle.dumps(workload))
    assert (again.text, again.key, again.flops) == (workload.text, workload.key, workload.flops)
    reads = {id(t) for stage in again.stages for t in stage.inputs}
    assert reads <= {id(t) for t in (*again.inputs, *again.stages)}


def test_a_workload_shows_its_name_and_key() -> None:
    w = te.workload(scaled(A, "C"), name="twice")
    assert repr(w) == f"Workload(twice {w.key})"

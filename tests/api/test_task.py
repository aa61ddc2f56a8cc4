from __future__ import annotations

import pytest

import loopwright as lw
from loopwright.deploy.model import load_model
from loopwright.errors import ConfigError, ShapeError, UnsupportedError
from loopwright.templates import derived

C2 = {"data": (1, 64, 56, 56), "weight": (64, 64, 3, 3), "padding": (1, 1, 1, 1)}


def test_a_task_is_made_of_an_operator_and_its_attributes() -> None:
    task = lw.task("conv2d", **C2, strides=(1, 1), target="x86-64-avx2", threads=2)
    assert (task.operator, task.threads, task.target.name) == ("conv2d", 2, "x86-64-avx2")
    assert task.flops == 2 * 56 * 56 * 64 * 64 * 9
    assert dict(task.attrs)["dilation"] == (1, 1)


def test_a_task_is_made_of_a_workload_with_a_derived_template() -> None:
    a = lw.te.placeholder((8, 8), name="A")
    b = lw.te.compute((8, 8), lambda y, x: a[y, x] * 2.0, name="B")
    task = lw.task(lw.workload(b, name="twice"), target="x86-64-avx2")
    assert task.operator == "twice"
    assert task.template == derived.TEMPLATE


def test_the_template_can_be_chosen() -> None:
    task = lw.task("conv2d", **C2, template=derived.TEMPLATE, target="x86-64-avx2")
    assert task.template.name == "derived"


def test_equal_tasks_have_equal_keys_and_others_have_not() -> None:
    first, same = (lw.task("conv2d", **C2, target="x86-64-avx2") for _ in range(2))
    other = lw.task("conv2d", **C2, relu=True, target="x86-64-avx2")
    assert first.key == same.key != other.key


@pytest.mark.parametrize(
    ("operator", "changes", "kind", "words"),
    [
        ("conv3d", {}, UnsupportedError, "unknown operator 'conv3d'; use one of conv2d"),
        ("conv2d", {"target": "z80"}, ConfigError, "unknown target 'z80'; use one of cpu"),
        ("conv2d", {"threads": 0}, ConfigError, "threads=0: a kernel runs on at least 1"),
        ("conv2d", {"data": (None, 64, 56, 56)}, ShapeError, "dynamic shapes are not supported"),
        ("conv2d", {"dtype": "complex64"}, UnsupportedError, "dtype 'complex64' is not supported"),
        ("conv2d", {"dtype": "int8"}, UnsupportedError, "dtype int8 is not supported; use float32"),
        ("conv2d", {"groups": 3}, ShapeError, "groups=3 does not divide"),
        ("conv2d", {"stride": 1}, ShapeError, "unknown attribute 'stride'; it takes"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(
    operator: str, changes: dict[str, object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        lw.task(operator, **{**C2, **changes})  # type: ignore[arg-type]  # wrong on purpose
    assert "\n" not in str(caught.value)


def test_a_models_tasks_have_counts_and_flops() -> None:
    model = load_model("resnet18", target="x86-64-avx512", exact=True)
    assert (len(model.parts), sum(part.count for part in model.parts)) == (16, 21)
    assert 3.6e9 < model.flops < 3.7e9

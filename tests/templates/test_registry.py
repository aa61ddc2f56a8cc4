from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from loopwright.errors import ConfigError, TemplateError
from loopwright.ops.registry import build
from loopwright.target.parse import parse
from loopwright.te import language as te
from loopwright.te.workload import Workload
from loopwright.templates import derived
from loopwright.templates.cpu import conv2d_direct, conv2d_winograd, depthwise, matmul
from loopwright.templates.cpu.table import TEMPLATES
from loopwright.templates.registry import template_for, templates_for
from loopwright.templates.task import make
from loopwright.templates.template import Template
from operators import OPERATORS

AVX2 = parse("x86-64-avx2")


def elementwise() -> Workload:
    a = te.placeholder((4, 6), name="A")
    return te.workload(te.compute((4, 6), lambda y, x: a[y, x] * 2.0, name="B"), name="twice")


def two_products() -> Workload:
    a = te.placeholder((4, 4), name="A")
    k, l = te.reduce_axis(4, name="k"), te.reduce_axis(4, name="l")  # noqa: E741  # as in k, l
    b = te.compute((4, 4), lambda y, x: te.sum(a[y, k] * a[k, x], axis=k), name="B")
    c = te.compute((4, 4), lambda y, x: te.sum(b[y, l] * a[l, x], axis=l), name="C")
    return te.workload(c, name="two")


def row_sums() -> Workload:
    a = te.placeholder((4, 6), name="A")
    k = te.reduce_axis(6, name="k")
    return te.workload(te.compute((4,), lambda y: te.sum(a[y, k], axis=k), name="S"), name="sums")


def one_operand() -> Workload:
    a = te.placeholder((4, 6), name="A")
    k = te.reduce_axis(6, name="k")
    s = te.compute((4, 5), lambda *i: te.sum(a[i[0], k], axis=k), name="S")
    return te.workload(s, name="one")


def integers() -> Workload:
    a, b = te.placeholder((4, 4), "int32", name="A"), te.placeholder((4, 4), "int32", name="B")
    k = te.reduce_axis(4, name="k")
    c = te.compute((4, 4), lambda y, x: te.sum(a[y, k] * b[k, x], axis=k), name="C")
    return te.workload(c, name="integers")


def test_operators_have_handcrafted_templates() -> None:
    for operator, shapes in OPERATORS.items():
        workload = build(operator, **next(iter(shapes.values())))
        assert template_for(operator, workload, AVX2) is TEMPLATES[operator][-1]


def test_what_has_none_gets_the_derived_template() -> None:
    assert template_for("twice", elementwise(), AVX2) is derived.TEMPLATE
    assert template_for("matmul", integers(), AVX2) is derived.TEMPLATE


def test_an_algorithm_that_rounds_more_is_offered_first_and_answers_wishes() -> None:
    workload = build("conv2d", data=(1, 16, 8, 8), weight=(16, 16, 3, 3))
    winograd, direct = templates_for("conv2d", workload, AVX2)
    assert (winograd, direct) == (conv2d_winograd.TEMPLATE, conv2d_direct.TEMPLATE)
    assert winograd.answers(exact=False, constant_weight=True)
    assert not winograd.answers(exact=True, constant_weight=True)
    assert not winograd.answers(exact=False, constant_weight=False)
    assert direct.answers(exact=True, constant_weight=False)


def test_an_algorithm_is_offered_only_where_it_fits() -> None:
    workload = build("conv2d", data=(1, 16, 8, 8), weight=(16, 16, 5, 5))
    assert templates_for("conv2d", workload, AVX2) == (conv2d_direct.TEMPLATE,)


@dataclass(frozen=True)
class Abacus:
    """A target of a kind that no package brings."""

    kind: str = "abacus"
    name: str = "abacus-9"
    features: tuple[str, ...] = ()
    key: str = "abacus-9-0"
    cores: int = 1
    registers: int = 9

    def lanes(self, dtype: object) -> int:
        del dtype
        return 1


def test_a_kind_without_templates_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"no templates for targets of kind 'abacus'.*for cpu"):
        templates_for("matmul", integers(), Abacus())


def test_a_template_of_cpus_refuses_other_targets() -> None:
    with pytest.raises(ConfigError, match=r"template cpu.matmul: it is for CPUs; .*abacus-9"):
        make(build("matmul", a=(4, 4), b=(4, 4)), matmul.TEMPLATE, Abacus())


@pytest.mark.parametrize(
    "template", [*{t.name: t for row in TEMPLATES.values() for t in row}.values(), derived.TEMPLATE]
)
def test_templates_pickle_by_reference(template: Template) -> None:
    again = pickle.loads(pickle.dumps(template))
    assert again == template
    assert again.schedule is template.schedule


@pytest.mark.parametrize(
    ("template", "make_workload", "reason"),
    [
        (conv2d_direct.TEMPLATE, elementwise, "twice is not a convolution of NCHW data"),
        (conv2d_direct.TEMPLATE, row_sums, "sums is not a convolution"),
        (depthwise.TEMPLATE, elementwise, "twice is not a depthwise convolution"),
        (matmul.TEMPLATE, elementwise, "twice is not a matrix product"),
        (matmul.TEMPLATE, row_sums, "sums is not a matrix product"),
        (matmul.TEMPLATE, two_products, "two is not a matrix product"),
        (
            matmul.TEMPLATE,
            one_operand,
            "one: a product needs one operand by rows and one by columns",
        ),
    ],
)
def test_a_template_refuses_what_it_is_not_for(
    template: Template, make_workload: Callable[[], Workload], reason: str
) -> None:
    with pytest.raises(TemplateError, match=reason):
        make(make_workload(), template, AVX2)


def test_a_convolution_may_name_its_weight_first() -> None:
    data, weight = te.placeholder((1, 8, 6, 6), name="D"), te.placeholder((8, 8, 3, 3), name="W")
    i, r, c = (te.reduce_axis(n, name=x) for n, x in ((8, "i"), (3, "r"), (3, "c")))
    conv = te.compute(
        (1, 8, 4, 4),
        lambda n, o, y, x: te.sum(weight[o, i, r, c] * data[n, i, y + r, x + c], axis=(i, r, c)),
        name="C",
    )
    found = conv2d_direct.roles(te.workload(conv))
    assert (found.data.name, found.weight.name) == ("D", "W")


@pytest.mark.parametrize(
    "make_workload", [elementwise, two_products, row_sums, one_operand, integers]
)
def test_the_derived_template_has_a_space_for_anything(
    make_workload: Callable[[], Workload],
) -> None:
    assert make(make_workload(), derived.TEMPLATE, AVX2).space.cardinality >= 1


def test_a_task_survives_pickling_and_has_a_key() -> None:
    task = make(elementwise(), derived.TEMPLATE, AVX2, operator="twice", attrs=(("n", 4),))
    again = pickle.loads(pickle.dumps(task))
    assert again.key == task.key == f"{task.workload.key}:derived@{derived.TEMPLATE.version}"
    assert again.space.knobs == task.space.knobs
    assert task.name == "twice n=4"
    assert task.flops == 24

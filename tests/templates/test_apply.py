from __future__ import annotations

import numpy as np
import pytest

from loopwright.errors import InternalError, LoopwrightError, ScheduleError, TemplateError
from loopwright.learn.features import features_of, featurize
from loopwright.sched.schedule import Schedule
from loopwright.space.knobs import ChoiceKnob, SplitKnob
from loopwright.space.space import Space
from loopwright.target.parse import parse
from loopwright.target.union import Target
from loopwright.te import language as te
from loopwright.te.workload import Workload
from loopwright.templates.apply import scheduled
from loopwright.templates.task import Task, make
from loopwright.templates.template import Configuration, Template


def add_one() -> Workload:
    a = te.placeholder((12,), name="A")
    return te.workload(te.compute((12,), lambda i: a[i] + 1.0, name="B"), name="add_one")


def space(_: Workload, __: Target) -> Space:
    return Space([SplitKnob("tile", 12, policy="factors"), ChoiceKnob("how", ("a", "b"))])


def good(s: Schedule, config: Configuration) -> None:
    _, inner = s["B"].split("B.i", config.sizes("tile")[1])
    if config.text("how") == "b":
        s["B"].unroll(inner)


def branches(s: Schedule, config: Configuration) -> None:
    if config.sizes("tile")[1] == 4:
        s["B"].split("B.i", 4)


def branches_on_a_loop(s: Schedule, config: Configuration) -> None:
    outer, inner = s["B"].split("B.i", config.sizes("tile")[1])
    if outer.extent > 2:
        s["B"].unroll(inner)


def raises(_: Schedule, __: Configuration) -> None:
    raise KeyError("no such loop")


def splits_nothing(s: Schedule, _: Configuration) -> None:
    s["B"].split("B.j", 4)


def breaks(_: Schedule, __: Configuration) -> None:
    raise InternalError("ours")


def asks_for_another_knob(s: Schedule, config: Configuration) -> None:
    s["B"].split("B.i", config.sizes("tiles")[1])


def task(schedule: object) -> Task:
    return make(add_one(), Template("mine", 1, space, schedule), parse("x86-64-avx2"))


def points(of: Task) -> np.ndarray:
    return of.space.sample(np.random.default_rng(0), 20)


def test_a_config_makes_a_schedule() -> None:
    of = task(good)
    config = of.space.decode(points(of)[0])
    schedule = scheduled(of, config)
    assert schedule.workload is of.workload
    assert str(schedule).startswith(f"split B B.i by {config.sizes('tile')[1]} into B.i.o B.i.i")


@pytest.mark.parametrize(
    ("schedule", "error", "reason"),
    [
        (raises, TemplateError, "template mine: KeyError: 'no such loop'"),
        (splits_nothing, ScheduleError, "template mine: add_one: cannot `split B B.j by 4 into"),
        (asks_for_another_knob, LoopwrightError, "template mine: no knob 'tiles' in this config"),
        (breaks, InternalError, "^ours$"),
    ],
)
def test_a_template_that_raises_is_named(
    schedule: object, error: type[Exception], reason: str
) -> None:
    of = task(schedule)
    with pytest.raises(error, match=reason) as caught:
        scheduled(of, of.space.decode(points(of)[0]))
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=reason):
        features_of(of, of.space.decode(points(of)[0]))


@pytest.mark.parametrize("schedule", [branches, branches_on_a_loop])
def test_a_template_that_branches_on_a_size_is_told_so(schedule: object) -> None:
    of = task(schedule)
    with pytest.raises(TemplateError, match="template mine: the template branched on a tile size"):
        featurize(of, points(of))


def test_features_of_a_batch_name_a_template_that_raises() -> None:
    of = task(raises)
    with pytest.raises(TemplateError, match="template mine: KeyError"):
        featurize(of, points(of))


def raises_in_space(_: Workload, __: Target) -> Space:
    raise ZeroDivisionError("by lanes")


def test_a_template_whose_space_raises_is_named() -> None:
    broken = Template("mine", 1, raises_in_space, good)
    with pytest.raises(TemplateError, match="template mine: ZeroDivisionError: by lanes"):
        make(add_one(), broken, parse("x86-64-avx2"))

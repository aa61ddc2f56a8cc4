from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import loopwright as lw
from loopwright.api.program import Program, build, example_inputs
from loopwright.errors import ConfigError, RecordsError, ScheduleError, ShapeError, TemplateError
from loopwright.outcome import Timed
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import SqlStore
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.target.host import host


def product(**options: object) -> lw.Task:
    """A small matrix product with the derived template."""
    a = lw.te.placeholder((16, 24), name="A")
    b = lw.te.placeholder((24, 32), name="B")
    k = lw.te.reduce_axis(24)
    c = lw.te.compute((16, 32), lambda y, x: lw.te.sum(a[y, k] * b[k, x], axis=k), name="C")
    return lw.task(lw.workload(c, name="product", constants=["B"]), **options)  # type: ignore[arg-type]


def some_config(task: lw.Task) -> Config:
    return task.space.decode(task.space.sample(np.random.default_rng(0), 1)[0])


def record_of(task: lw.Task, device: str) -> Record:
    return Record(
        key=task_key(task, device),
        operator=task.operator,
        attrs=task.attrs,
        flops=task.flops,
        config=some_config(task),
        outcome=Timed((1000.0,), 1000.0, checked=True),
        policy="random",
        seed=0,
        trial=0,
        at_s=1e9,
        software="none",
    )


@pytest.fixture(scope="module")
def program() -> Program:
    task = product()
    return build(task, config=some_config(task))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'r.db'}"


def test_a_program_computes_the_expression(program: Program) -> None:
    a, b = example_inputs(program.task)
    np.testing.assert_allclose(program(a, b), a @ b, rtol=1e-5, atol=1e-5)


def test_a_bound_program_takes_the_other_inputs(program: Program) -> None:
    a, b = example_inputs(program.task)
    bound = program.bind(B=b)
    assert (program.inputs, bound.inputs) == (("A", "B"), ("A",))
    np.testing.assert_allclose(bound(a), a @ b, rtol=1e-5, atol=1e-5)


def test_binding_everything_leaves_no_inputs(program: Program) -> None:
    a, b = example_inputs(program.task)
    np.testing.assert_allclose(program.bind(B=b).bind(A=a)(), a @ b, rtol=1e-5, atol=1e-5)


def test_the_timed_call_runs_the_kernel(program: Program) -> None:
    a, b = example_inputs(program.task)
    program.bind(B=b).timed_call(a)()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, a, _b: p(a), "got 1 inputs, takes 2"),
        (lambda p, a, b: p.bind(B=b)(a, b), "got 2 inputs, takes 1: A"),
        (lambda p, a, _b: p.bind(D=a), "there is no input 'D'; there are A, B"),
        (lambda p, a, _b: p.bind(B=a), "B"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    program: Program, call: Callable[..., object], words: str
) -> None:
    with pytest.raises(ShapeError, match=words):
        call(program, *example_inputs(program.task))


def test_the_best_record_of_this_machine_is_built(url: str) -> None:
    task = product()
    record = record_of(task, fingerprint(host()))
    with SqlStore(url) as store:
        store.append([record])
    assert lw.build(task, records=url).config == record.config


def test_records_of_another_device_are_refused_and_named(url: str) -> None:
    task = product()
    with SqlStore(url) as store:
        store.append([record_of(task, "elsewhere-8c-0")])
    words = r"no usable record for product: only records of another device \(elsewhere-8c-0\)"
    with pytest.raises(RecordsError, match=words):
        lw.build(task, records=url)


def test_records_of_another_template_version_are_refused(url: str) -> None:
    task = product()
    record = record_of(task, fingerprint(host()))
    old = dataclasses.replace(record, key=dataclasses.replace(record.key, version=99))
    with SqlStore(url) as store:
        store.append([old])
    with pytest.raises(RecordsError, match="version 99 of the template derived, which is now at 1"):
        lw.build(task, records=url)


def one_choice(_workload: lw.Workload, _target: lw.Target) -> lw.Space:
    return lw.Space((ChoiceKnob("n", (1, 2)),))


def raising(_s: lw.Schedule, _config: object) -> None:
    raise KeyError("oops")


def illegal(s: lw.Schedule, _config: object) -> None:
    s["C"].split("nowhere", 4)


@pytest.mark.parametrize(
    ("schedule", "kind", "words"),
    [
        (raising, TemplateError, r"product.*\[n=1\].*template bad: KeyError: 'oops'"),
        (illegal, ScheduleError, r"product.*\[n=1\].*nowhere"),
    ],
)
def test_a_template_that_fails_is_named(
    schedule: Callable[[lw.Schedule, object], None], kind: type[Exception], words: str
) -> None:
    task = product(template=lw.Template("bad", 1, one_choice, schedule))
    with pytest.raises(kind, match=words) as caught:
        build(task, config=Config.of({"n": 1}))
    assert "\n" not in str(caught.value)


def test_a_program_for_another_machine_is_refused() -> None:
    task = product(target="aarch64-neon")
    with pytest.raises(ConfigError):
        build(task, config=some_config(task))

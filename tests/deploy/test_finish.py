"""What ships: kernels that are exact enough, and a model that is not slower than an untuned one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from graphs import Sketch, example

import loopwright as lw
from loopwright.build.compile import kernel_name
from loopwright.codegen.artifact import Artifact
from loopwright.deploy import finish as finishing
from loopwright.deploy import optimize as optimizing
from loopwright.deploy.accuracy import Errors
from loopwright.deploy.choose import DEFAULT, TRANSFERRED, TUNED, Chooser, ModelOptions, tasks
from loopwright.deploy.finish import Stopwatch, difference, finish
from loopwright.deploy.make import ModelMaker, compile_graph
from loopwright.graph.evaluate import evaluate
from loopwright.graph.fuse import fuse
from loopwright.graph.ir import Graph
from loopwright.outcome import Timed
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import RecordStore, SqlStore
from loopwright.runtime.cpu.model import KernelTime, Model
from loopwright.space.config import Config
from loopwright.target.parse import parse
from loopwright.templates.apply import good_config
from loopwright.templates.task import Task

OPTIONS = ModelOptions(parse("cpu"))
WINOGRAD = "cpu.conv2d_winograd"


def profiled(model: Model, ns: Mapping[str, int]) -> list[KernelTime]:
    """What kernels take: `ns` by their origin, otherwise 100 ns."""
    return [KernelTime(call, (ns.get(call.origin, 100),)) for call in model.manifest.calls]


EVEN = Stopwatch(lambda model, _: profiled(model, {}), lambda *_: (99.0, 100.0))
"""Every kernel is as fast as any other, and the tuned model a little faster."""


def network() -> Graph:
    """A convolution that Winograd can compute, a mean, and a product."""
    sketch = Sketch()
    x = sketch.node("relu", sketch.conv(sketch.input(1, 32, 14, 14), 32))
    flat = sketch.node("reduce_mean", x, axes=(2, 3), keepdims=0)
    return sketch.graph(sketch.node("gemm", flat, sketch.weight(10, 32), trans_b=1))


def direct_task() -> Task:
    """The convolution of the network as it is written."""
    (conv,) = (k for k in fuse(network()).kernels if k.operator == "conv2d")
    return tasks(conv, replace(OPTIONS, exact=True))[0]


def record(task: Task, config: Config, ns: float, device: str = "") -> Record:
    key = task_key(task, device or fingerprint(task.target))
    outcome = Timed((ns,), ns, checked=True)
    return Record(
        key, task.operator, task.attrs, task.flops, config, outcome, "model", 0, 0, 1e9, "x"
    )


@pytest.fixture
def store() -> RecordStore:
    return SqlStore("sqlite://")


def right(model: Model) -> bool:
    graph = network()
    inputs = example(graph)
    expected = dict(zip(graph.outputs, evaluate(graph, inputs), strict=True))
    return difference(model.run(inputs), expected) < 1e-5


def test_every_kernel_is_compared_with_float64() -> None:
    built: dict[str, Artifact] = {}
    compiled = compile_graph(network(), Chooser(OPTIONS, use_records=False), built)
    found = Errors(built).of(compiled.choices)
    kernels = [n for n, c in compiled.choices.items() if c.origin != "copy"]
    assert sorted(found) == sorted(kernels)
    assert all(0 < error < 1e-4 for error in found.values())


def test_a_kernel_that_is_wrong_has_a_large_error() -> None:
    built: dict[str, Artifact] = {}
    compiled = compile_graph(network(), Chooser(OPTIONS, use_records=False), built)
    ((name, conv),) = ((n, c) for n, c in compiled.choices.items() if c.task.operator == "conv2d")
    sketch = Sketch()
    graph = sketch.graph(sketch.conv(sketch.input(1, 32, 14, 14), 32))
    without_relu = replace(conv.task, workload=fuse(graph).kernels[0].workload)
    taken = built[kernel_name(conv.task, conv.config)]
    errors = Errors({kernel_name(without_relu, conv.config): taken})
    assert errors.of({name: replace(conv, task=without_relu)})[name] > 0.1


def templates(maker: ModelMaker) -> set[str]:
    _, model = maker.make_exact(Chooser(OPTIONS, use_records=False))
    with model:
        assert right(model)
        return {call.template for call in model.manifest.calls}


def test_a_kernel_that_is_off_by_more_than_the_tolerance_is_computed_another_way() -> None:
    assert WINOGRAD in templates(ModelMaker(network(), 1e-4))
    assert WINOGRAD not in templates(ModelMaker(network(), 1e-9))


def test_a_record_that_is_off_by_more_than_the_tolerance_is_not_used(store: RecordStore) -> None:
    (conv,) = (k for k in fuse(network()).kernels if k.operator == "conv2d")
    winograd, direct = tasks(conv, OPTIONS)
    assert winograd.template.name == WINOGRAD
    store.append([record(winograd, good_config(winograd), 1.0)])
    store.append([record(direct, good_config(direct), 2.0)])
    for tolerance, template in ((1e-4, WINOGRAD), (1e-9, direct.template.name)):
        _, model = ModelMaker(network(), tolerance).make_exact(Chooser(OPTIONS, (store,)))
        model.close()
        (call,) = (c for c in model.manifest.calls if c.operator == "conv2d")
        assert (call.template, call.origin) == (template, TUNED)


def test_the_manifest_says_how_exact_kernels_are() -> None:
    with finish(network(), OPTIONS, (), stopwatch=EVEN).model as model:
        worst = model.manifest.worst
        assert worst is not None
        assert worst.error == max(c.error or 0.0 for c in model.manifest.calls)
        assert all(call.error for call in model.manifest.calls if call.origin != "copy")


def test_without_records_the_default_model_ships() -> None:
    found = finish(network(), OPTIONS, (), stopwatch=EVEN)
    with found.model as model:
        assert found.shipped == DEFAULT
        assert "no kernel is by a record" in found.why
        assert right(model)
        assert (found.checked.tuned_ns, found.checked.default_ns) == (99.0, 100.0)


def test_models_and_their_kernels_are_timed_unless_times_are_given() -> None:
    found = finish(network(), OPTIONS, ())
    with found.model as model:
        assert min(found.checked.tuned_ns, found.checked.default_ns) > 0
        times = Stopwatch().profile(model, example(network()))
        assert [time.info for time in times] == list(model.manifest.calls)
        assert all(ns > 0 for time in times for ns in time.ns)


def test_a_model_of_records_ships_and_says_so(store: RecordStore) -> None:
    task = direct_task()
    store.append([record(task, good_config(task), 1.0)])
    found = finish(network(), replace(OPTIONS, exact=True), (store,), stopwatch=EVEN)
    with found.model as model:
        assert found.shipped == TUNED
        assert model.manifest.origins[TUNED] == 1
        assert not model.manifest.elsewhere
        assert right(model)


def test_records_of_another_machine_are_used_and_named(store: RecordStore) -> None:
    task = direct_task()
    store.append([record(task, good_config(task), 1.0, "some-cpu-8c-00000000")])
    found = finish(network(), replace(OPTIONS, exact=True), (store,), stopwatch=EVEN)
    with found.model as model:
        assert model.manifest.origins[TRANSFERRED] == 1
        assert dict(model.manifest.elsewhere) == {"some-cpu-8c-00000000": 1}


def test_a_tuned_kernel_that_is_slow_inside_the_model_is_not_used(store: RecordStore) -> None:
    task = direct_task()
    other = task.space.decode(task.space.sample(np.random.default_rng(0), 1)[0])
    assert other != good_config(task)
    store.append([record(task, other, 1.0)])
    slow = replace(EVEN, profile=lambda model, _: profiled(model, {TUNED: 1000}))
    found = finish(network(), replace(OPTIONS, exact=True), (store,), stopwatch=slow)
    with found.model as model:
        (call,) = (c for c in model.manifest.calls if c.operator == "conv2d")
        assert (call.config, call.origin) == (str(good_config(task)), DEFAULT)
        assert right(model)


def test_a_model_that_turns_out_slower_does_not_ship(store: RecordStore) -> None:
    task = direct_task()
    store.append([record(task, good_config(task), 1.0)])
    races: list[int] = []

    def race(*_: object) -> tuple[float, float]:
        races.append(1)
        return 150.0, 100.0

    found = finish(network(), OPTIONS, (store,), stopwatch=replace(EVEN, race=race))
    found.model.close()
    assert (found.shipped, found.why) == (
        DEFAULT,
        "the tuned model is 1.50 times as slow as the default one",
    )
    assert len(races) == 2
    assert TUNED not in found.model.manifest.origins


def test_a_model_whose_outputs_are_off_does_not_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "difference", lambda *_: 1e-3)
    found = finish(network(), OPTIONS, (), tolerance=1e-4, stopwatch=EVEN)
    found.model.close()
    assert found.shipped == DEFAULT
    assert "off by more than 1.0e-04" in found.why
    assert WINOGRAD not in {call.template for call in found.model.manifest.calls}


@pytest.mark.parametrize("exact", [False, True])
def test_no_kernel_of_an_exact_model_rounds_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, exact: bool
) -> None:
    monkeypatch.setattr(optimizing, "finish", partial(finish, stopwatch=EVEN))
    made = lw.optimize(network(), tmp_path / "net.lw", time_budget=0, exact=exact)
    assert (WINOGRAD in {call.template for call in made.manifest.calls}) is not exact


@pytest.mark.parametrize("winograd", [False, True])
def test_optimize_still_takes_winograd_and_warns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, winograd: bool
) -> None:
    monkeypatch.setattr(optimizing, "finish", partial(finish, stopwatch=EVEN))
    with pytest.warns(DeprecationWarning, match="use exact=True") as warned:
        made = lw.optimize(network(), tmp_path / "net.lw", time_budget=0, winograd=winograd)
    assert [warning.filename for warning in warned] == [__file__]
    assert (WINOGRAD in {call.template for call in made.manifest.calls}) is winograd

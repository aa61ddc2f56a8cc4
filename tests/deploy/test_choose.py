"""Ways to compute a kernel that lay its arguments out differently, and the changes between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphs import Sketch, example

from loopwright.deploy.changes import ChangeTimes
from loopwright.deploy.choose import DEFAULT, TRANSFERRED, TUNED, Chooser, ModelOptions, tasks
from loopwright.deploy.finish import difference
from loopwright.deploy.make import compile_graph
from loopwright.graph.evaluate import evaluate
from loopwright.graph.fuse import FusedKernel, fuse
from loopwright.graph.ir import Graph, Value
from loopwright.ir.dtype import F32
from loopwright.layout import Layout
from loopwright.outcome import Timed
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import SqlStore
from loopwright.space.config import Config
from loopwright.target.parse import parse
from loopwright.target.presets import PRESETS
from loopwright.templates.apply import good_config
from loopwright.templates.task import Task

OPTIONS = ModelOptions(parse("cpu"))
LANES = OPTIONS.target.lanes(F32)


def network(lanes: int = LANES) -> Graph:
    """Two convolutions; the channels between them fill one block and a half."""
    sketch = Sketch()
    first = sketch.conv(sketch.input(1, lanes, 6, 6), lanes * 3 // 2, 1)
    return sketch.graph(sketch.node("relu", sketch.conv(first, lanes, 1)))


def convolutions(lanes: int = LANES) -> tuple[FusedKernel, FusedKernel]:
    one, two = fuse(network(lanes)).kernels
    return one, two


def config(task: Task, **knobs: object) -> Config:
    found = good_config(task)
    made = Config.of({**{name: found[name] for name in found}, **knobs})
    assert task.space.contains(made)
    return made


def record(task: Task, of: Config, ns: float) -> Record:
    key = task_key(task, fingerprint(task.target))
    outcome = Timed((ns,), ns, checked=True)
    return Record(key, task.operator, task.attrs, task.flops, of, outcome, "model", 0, 0, 1e9, "x")


def recorded(options: ModelOptions = OPTIONS) -> SqlStore:
    """The fastest records of two kernels, which disagree about the layout between them."""
    store, lanes = SqlStore("sqlite://"), options.target.lanes(F32)
    one, two = (tasks(kernel, options)[0] for kernel in convolutions(lanes))
    whole = config(one, lanes=lanes, oc=(2, 1, 1), tile_w=(1, 6))
    store.append([record(one, config(one, lanes=lanes // 2), 1e3), record(one, whole, 1001.0)])
    halves = config(two, data_lanes=lanes // 2)
    store.append([record(two, config(two, data_lanes=lanes), 1e3), record(two, halves, 9e9)])
    return store


@pytest.mark.parametrize("target", [*PRESETS, "cpu"])
def test_the_fastest_way_of_each_layout_is_an_alternative(target: str) -> None:
    options = ModelOptions(parse(target))
    lanes = options.target.lanes(F32)
    kernel = convolutions(lanes)[0]
    with recorded(options) as store:
        chooser = Chooser(options, (store,))
        found = chooser.alternatives(kernel)
        assert [(way.config["lanes"], way.expected_ns) for way in found] == [
            (lanes // 2, 1e3),
            (lanes, 1001.0),
        ]
        one = tasks(kernel, options)[0]
        refused = replace(chooser, refused=frozenset({(one.key, found[1].config)}))
        left = refused.alternatives(kernel)
        assert [way.config for way in left] == [found[0].config]


def test_without_records_there_is_one_way() -> None:
    kernel = convolutions()[0]
    chooser = Chooser(OPTIONS, use_records=False)
    assert chooser.alternatives(kernel) == (chooser(kernel, ()),)  # of the same kernel, kept


def test_records_of_one_thread_that_more_cannot_share_are_not_used_on_more() -> None:
    kernel, two = convolutions()[1], replace(OPTIONS, threads=2)
    (task,) = tasks(kernel, OPTIONS)
    rows = config(task, order="rows,oc", rows=(6, 1, 1))
    alone = config(task, order="oc,rows", oc=(1, 1, 1))
    for of, origin in ((rows, TRANSFERRED), (alone, DEFAULT)):
        with SqlStore("sqlite://") as store:
            store.append([record(task, of, 1e3)])
            assert Chooser(OPTIONS, (store,))(kernel, ()).origin == TUNED
            assert Chooser(two, (store,))(kernel, ()).origin == origin


def test_kernels_are_taken_that_leave_no_change_of_layout_between_them() -> None:
    graph = network()
    with recorded() as store:
        compiled = compile_graph(graph, Chooser(OPTIONS, (store,)))
    ways = [compiled.choices[kernel.name] for kernel in convolutions()]
    assert [way.expected_ns for way in ways] == [1001.0, 1e3]
    with compiled.model() as model:
        expected = dict(zip(graph.outputs, evaluate(graph, example(graph)), strict=True))
        assert difference(model.run(example(graph)), expected) < 1e-5


def test_a_change_of_layout_is_timed_once() -> None:
    value = Value((1, LANES, 8, 8), F32)
    plain = Layout.plain(4)
    ((_, blocked), *_) = Chooser(OPTIONS)(convolutions()[1], ()).layouts().items()
    with ChangeTimes(OPTIONS) as times:
        found = times(value, plain, blocked)
        assert 0 < found < 1e9
        assert times(value, plain, blocked) == found
        assert np.isfinite(times(value, blocked, plain))

"""The choice of layouts is compared with every choice there is, placed and added up."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping

from graphs import Sketch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopwright.deploy.choose import Chooser, ModelOptions, tasks
from loopwright.graph.fuse import FusedKernel, fuse
from loopwright.graph.ir import Graph, Value
from loopwright.graph.layouts import Chosen, PlacedKernel, place
from loopwright.graph.selection import select
from loopwright.layout import Layout
from loopwright.space.config import Config
from loopwright.target.presets import PRESETS

OPTIONS = ModelOptions(PRESETS["x86-64-avx512"], exact=True)
CHOOSER = Chooser(OPTIONS, use_records=False)


def change_ns(value: Value, before: Layout, after: Layout) -> float:
    return float(zlib.crc32(f"{value.shape} {before} {after}".encode()) % 50)


def ways(kernel: FusedKernel, seed: int) -> tuple[Chosen, ...]:
    """The default config of each blocking that the space has, with a time that is made up."""
    (task,) = tasks(kernel, OPTIONS)
    default = CHOOSER(kernel, ()).config
    found = []
    for lanes, data in itertools.product((16, 8), (16, 8)):
        values = {name: default[name] for name in default} | {"lanes": lanes}
        if "data_lanes" in values:
            values["data_lanes"] = data
        elif data == 8:
            continue
        if lanes == 16:
            values["oc"] = (-(-task.workload.outputs[0].shape[1] // 16), 1, 1)
        config = Config.of(values)
        if "lanes" in values and task.space.contains(config):
            ns = float(zlib.crc32(f"{kernel.name} {config} {seed}".encode()) % 100)
            found.append(Chosen(task, config, "tuned", ns))
    return tuple(found) or (CHOOSER(kernel, ()),)


def total(graph: Graph, chosen: Mapping[str, Chosen]) -> float:
    """What the kernels and the changes of layout take when placed so."""
    fused = fuse(graph)
    placed = place(fused, Chooser(OPTIONS, use_records=False, pinned=chosen), OPTIONS.target, 1)
    ns = sum(way.expected_ns or 0.0 for way in chosen.values())
    for step in placed.steps:
        if isinstance(step, PlacedKernel) and "%" in step.name and "%copy" not in step.name:
            before, after = placed.stored[step.inputs[0]], placed.stored[step.outputs[0]]
            ns += change_ns(before.value, before.layout, after.layout)
    return ns


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Convolutions with 16, 24 and 40 channels in rows, sums, concatenations and pools."""
    sketch = Sketch()
    values = [sketch.conv(sketch.input(1, 24, 5, 5), 24, 1)]
    for _ in range(draw(st.integers(1, 4))):
        x = draw(st.sampled_from(values[-2:]))
        kind = draw(st.sampled_from(["conv", "conv", "conv", "add", "concat", "relu"]))
        others = [v for v in values if sketch.shape(v) == sketch.shape(x) and v != x]
        if kind == "add" and others:
            values.append(sketch.node("add", x, draw(st.sampled_from(others))))
        elif kind == "concat" and others:
            values.append(sketch.node("concat", x, others[0], axis=1))
        elif kind == "relu":
            values.append(sketch.node("relu", x))
        else:
            values.append(sketch.conv(x, draw(st.sampled_from([16, 24, 40])), 1))
    return sketch.graph(*dict.fromkeys([values[-1], draw(st.sampled_from(values))]))


@given(networks(), st.integers(0, 9))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_other_choice_takes_less(graph: Graph, seed: int) -> None:
    fused = fuse(graph)
    named = {k.name: ways(k, seed) for k in fused.kernels if k.operator != "fused"}
    several = {name: found for name, found in named.items() if len(found) > 1}
    chosen = select(fused, lambda k: named[k.name], CHOOSER, change_ns)
    assert chosen.keys() == several.keys()
    every = itertools.islice(itertools.product(*several.values()), 300)
    least = min(total(graph, dict(zip(several, choice, strict=True))) for choice in every)
    assert total(graph, chosen) <= least + 1e-6


def test_a_slower_kernel_is_taken_where_it_saves_a_change_of_layout() -> None:
    sketch = Sketch()
    first = sketch.conv(sketch.input(1, 32, 5, 5), 24, 1)
    graph = sketch.graph(sketch.conv(first, 32, 1))
    fused = fuse(graph)
    one, two = fused.kernels
    found = {k.name: {w.task.blocking(w.config): w for w in ways(k, 0)} for k in (one, two)}
    fast = Chosen(*_parts(found[one.name][8, 16]), 10.0)
    slow = Chosen(*_parts(found[one.name][16, 16]), 15.0)
    (reads_8,) = [w for key, w in found[two.name].items() if key == (16, 8)]
    (reads_16,) = [w for key, w in found[two.name].items() if key == (16, 16)]
    second = (Chosen(*_parts(reads_8), 30.0), Chosen(*_parts(reads_16), 10.0))

    def chosen(cost: float) -> tuple[Chosen, Chosen]:
        ways_of = {one.name: (fast, slow), two.name: second}
        picked = select(fused, lambda k: ways_of[k.name], CHOOSER, lambda *_: cost)
        return picked[one.name], picked[two.name]

    assert chosen(1.0) == (fast, second[1])
    assert chosen(9.0) == (slow, second[1])


def _parts(way: Chosen) -> tuple[object, ...]:
    return way.task, way.config, way.origin


def test_nothing_is_chosen_where_there_is_one_way() -> None:
    sketch = Sketch()
    graph = sketch.graph(sketch.conv(sketch.input(1, 16, 5, 5), 16, 1))
    assert select(fuse(graph), lambda k: (CHOOSER(k, ()),), CHOOSER, change_ns) == {}

"""A plan is checked by doing what it says with bytes instead of numbers.

Every value has bytes of its own; a call must find those of its inputs where the plan says, and
writes those of its outputs. A concatenation that does not run is its parts, one after another.
"""

from __future__ import annotations

import numpy as np
from graphs import Sketch, networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopwright.deploy.choose import Chooser, ModelOptions
from loopwright.graph.fuse import fuse
from loopwright.graph.in_place import overwritable
from loopwright.graph.ir import Graph, Value
from loopwright.graph.layouts import (
    Alias,
    Chosen,
    Placed,
    PlacedKernel,
    PlacedStep,
    StoredValue,
    change,
)
from loopwright.graph.layouts import place as place_values
from loopwright.graph.plan import MemoryPlan, Slot, SlotKind, plan
from loopwright.ir.dtype import F32
from loopwright.layout import Array, Layout
from loopwright.target.presets import PRESETS

TARGET = PRESETS["x86-64-avx2"]
ALIGNMENT = 32
COPY = change(Value((1, 1, 4, 4), F32), Layout.plain(4), Layout.plain(4), TARGET, 1)


def first(_: Chosen) -> tuple[int, ...]:
    return (0,)


def none(_: Chosen) -> tuple[int, ...]:
    return ()


def at_of(array: Array) -> Array:
    """Where the bytes of an array begin and end."""
    return np.array([array.ctypes.data, array.ctypes.data + array.nbytes])


def contents(placed: Placed, skipped: set[str]) -> dict[str, Array]:
    """The bytes that each value shall have."""
    rng = np.random.default_rng(0)

    def fresh(key: str) -> Array:
        return rng.integers(0, 256, placed.stored[key].nbytes, np.uint8)

    found = {key: fresh(key) for key in placed.inputs}
    for step in placed.steps:
        match step:
            case Alias(source=source, output=output):
                found[output] = found[source]
            case PlacedKernel() if step.name in skipped:
                found[step.outputs[0]] = np.concatenate([found[key] for key in step.inputs])
            case PlacedKernel():
                found.update({key: fresh(key) for key in step.outputs})
    return found


def simulate(placed: Placed, planned: MemoryPlan) -> None:
    """Do what the plan says; fail where a value is not in its place."""
    called = {entry.call.name for entry in planned.calls}
    calls = [step for step in placed.steps if isinstance(step, PlacedKernel)]
    skipped = {call.name for call in calls} - called
    assert all(call.join_axis is not None for call in calls if call.name in skipped)
    wanted = contents(placed, skipped)
    inputs = [wanted[key].copy() for key in placed.inputs]
    outputs = [np.zeros(placed.stored[key].nbytes, np.uint8) for key in placed.outputs]
    memory = np.zeros(planned.nbytes, np.uint8)

    def at(slot: Slot, nbytes: int) -> Array:
        base = {
            SlotKind.INPUT: lambda: inputs[slot.index],
            SlotKind.OUTPUT: lambda: outputs[slot.index],
            SlotKind.MEMORY: lambda: memory,
        }[slot.kind]()
        assert slot.offset % ALIGNMENT == 0
        assert 0 <= slot.offset <= slot.offset + nbytes <= base.nbytes
        return base[slot.offset : slot.offset + nbytes]

    for entry in planned.calls:
        call = entry.call
        keys = (*call.inputs, *call.outputs)
        places = [
            None if slot.kind is SlotKind.CONSTANT else at(slot, placed.stored[key].nbytes)
            for key, slot in zip(keys, entry.arguments, strict=True)
        ]
        count = len(call.inputs)
        for place, (key, found) in enumerate(zip(call.inputs, places[:count], strict=True)):
            if found is not None:
                np.testing.assert_array_equal(found, wanted[key], f"{call.name} reads {key}")
                for written in places[count:]:
                    assert written is not None
                    if place == entry.over:
                        assert np.array_equal(at_of(found), at_of(written))
                    else:
                        assert not np.shares_memory(found, written)
        for key, found in zip(call.outputs, places[count:], strict=True):
            assert found is not None
            found[...] = wanted[key]
    for key, found in zip(placed.outputs, outputs, strict=True):
        np.testing.assert_array_equal(found, wanted[key], f"output {key}")
    assert all((a == wanted[k]).all() for k, a in zip(placed.inputs, inputs, strict=True))


@st.composite
def placings(draw: st.DrawFn) -> Placed:
    """Calls, views and concatenations of values of 64 or 36 bytes a channel."""
    stored: dict[str, StoredValue] = {}
    roots: dict[str, str] = {}
    steps: list[PlacedStep] = []

    def make(key: str, channels: int, size: int, root: str | None = None) -> str:
        value = Value((1, channels, size, size), F32)
        stored[key] = StoredValue(key, value, Layout.plain(4))
        roots[key] = root or key
        return key

    def shape(key: str) -> tuple[int, int]:
        return stored[key].value.shape[1], stored[key].value.shape[2]

    size = draw(st.sampled_from([4, 4, 3]))
    inputs = [make(f"x{n}", draw(st.integers(1, 3)), size) for n in range(draw(st.integers(1, 2)))]
    for number in range(draw(st.integers(3, 12))):
        keys = list(stored)
        kind = draw(st.sampled_from(["call", "call", "join", "prefix", "prefix", "view"]))
        some = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3))
        joins_before = [s for s in steps if isinstance(s, PlacedKernel) and s.join_axis is not None]
        if kind == "prefix" and joins_before:
            begun = draw(st.sampled_from(joins_before)).inputs
            some = [*begun[: draw(st.integers(2, 3))], *some[:2]][: draw(st.integers(2, 4))]
        name = f"v{number}"
        if kind == "view":
            make(name, *shape(some[0]), root=roots[some[0]])
            steps.append(Alias(some[0], name))
            continue
        if kind in ("join", "prefix"):
            outputs = (make(name, sum(shape(key)[0] for key in some), size),)
        else:
            channels = st.integers(1, 4)
            count = draw(st.sampled_from([1, 1, 2]))
            outputs = tuple(make(f"{name}.{n}", draw(channels), size) for n in range(count))
        axis = 1 if kind in ("join", "prefix") else None
        steps.append(PlacedKernel(name, (), COPY, tuple(some), outputs, frozenset(), axis))
    if draw(st.booleans()):
        read = {key for step in steps if isinstance(step, PlacedKernel) for key in step.inputs}
        last = tuple(key for key in stored if key not in read) or tuple(inputs)
        steps.append(PlacedKernel("last", (), COPY, last, (make("end", 1, size),)))
    outputs = draw(st.lists(st.sampled_from(list(stored)), unique_by=roots.__getitem__, max_size=3))
    outputs = [key for key in outputs if roots[key] not in inputs]
    return Placed(tuple(steps), stored, tuple(inputs), tuple(outputs))


@given(placings())
@settings(max_examples=100, deadline=None)
def test_every_value_is_where_it_is_read_and_no_two_alive_overlap(placed: Placed) -> None:
    simulate(placed, plan(placed, ALIGNMENT, first))
    simulate(placed, plan(placed, ALIGNMENT, none))


@given(placings())
@settings(max_examples=50, deadline=None)
def test_sharing_takes_no_more_than_not_sharing(placed: Placed) -> None:
    planned = plan(placed, ALIGNMENT, first)
    assert 0 <= planned.nbytes <= planned.sum_bytes


def placed_of(graph: Graph) -> Placed:
    chooser = Chooser(ModelOptions(TARGET), use_records=False)
    return place_values(fuse(graph), chooser, TARGET, 1)


@given(networks())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_plans_of_networks_are_right(graph: Graph) -> None:
    placed = placed_of(graph)
    simulate(placed, plan(placed, ALIGNMENT, overwritable))


def parts(*ops: str) -> tuple[Sketch, list[str]]:
    sketch = Sketch()
    x = sketch.input(4, 16)
    return sketch, [sketch.node(op, x) for op in ops]


def planned(graph: Graph) -> MemoryPlan:
    placed = placed_of(graph)
    found = plan(placed, ALIGNMENT, overwritable)
    simulate(placed, found)
    return found


def joins(found: MemoryPlan) -> int:
    return sum(entry.call.join_axis is not None for entry in found.calls)


def test_the_parts_of_one_concatenation_are_written_into_it() -> None:
    sketch, (a, b) = parts("relu", "exp")
    y = sketch.node("concat", a, b, axis=0)
    assert joins(planned(sketch.graph(sketch.node("softmax", y, axis=1)))) == 0


def test_a_concatenation_that_another_begins_with_is_a_stretch_of_it() -> None:
    sketch, (a, b, c) = parts("relu", "exp", "tanh")
    short = sketch.node("concat", a, b, axis=0)
    long = sketch.node("concat", a, b, c, axis=0)
    ends = [sketch.node("softmax", x, axis=1) for x in (short, long)]
    assert joins(planned(sketch.graph(*ends))) == 0


def test_a_stretch_of_one_that_is_a_part_of_another_is_copied_once() -> None:
    sketch, (a, b, c, d) = parts("relu", "exp", "tanh", "sigmoid")
    short = sketch.node("concat", a, b, axis=0)
    long = sketch.node("concat", a, b, c, axis=0)
    other = sketch.node("concat", short, d, axis=0)
    ends = [sketch.node("softmax", x, axis=1) for x in (long, other)]
    assert joins(planned(sketch.graph(*ends))) == 1


def test_a_stretch_that_is_an_output_in_another_shape_is_written_there() -> None:
    sketch, (a, b, c) = parts("relu", "exp", "tanh")
    short = sketch.node("concat", a, b, axis=0)
    long = sketch.node("concat", a, b, c, axis=0)
    shown = sketch.node("reshape", short, shape=(16, 8))
    assert joins(planned(sketch.graph(sketch.node("softmax", long, axis=1), shown))) == 1


def test_no_two_outputs_share_memory() -> None:
    sketch, (a,) = parts("relu")
    views = [sketch.node("reshape", a, shape=shape) for shape in ((64,), (8, 8))]
    placed = placed_of(sketch.graph(a, a, *views, views[0]))
    assert len(set(placed.outputs)) == 5
    simulate(placed, plan(placed, ALIGNMENT, overwritable))


def test_inputs_and_constants_as_outputs_are_copied() -> None:
    sketch = Sketch()
    x, w = sketch.input(4, 4), sketch.weight(4, 4)
    placed = placed_of(sketch.graph(x, w, x, w, sketch.node("reshape", x, shape=(16,))))
    assert len(set(placed.outputs)) == 5
    found = plan(placed, ALIGNMENT, overwritable)
    assert found.nbytes == 0
    simulate(placed, found)

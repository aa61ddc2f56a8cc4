"""The last steps of optimizing: a play-off of kernels where they run, and the check of the whole.

Three models are made: from the records, from what is good without tuning, and from exact kernels of
the latter alone. No kernel of theirs is off by more than the tolerance where there is another way
for it. Each kernel is timed in all of them, in turns, inside the model and not by itself, and the
fastest of each makes the model that ships, if that agrees with the last of the three within the
tolerance and is not slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loopwright.deploy.choose import DEFAULT, TRANSFERRED, TUNED, BestRecords, Chooser, ModelOptions
from loopwright.deploy.make import TOLERANCE, Compiled, ModelMaker
from loopwright.graph.ir import Graph
from loopwright.graph.layouts import Chosen
from loopwright.ir import dtype as dt
from loopwright.layout import Array
from loopwright.runtime.cpu.model import KernelTime, Model
from loopwright.runtime.model_file import Port
from loopwright.sandbox.inputs import generate

_ROUNDS = 15
_PLAY_OFF_ROUNDS = 7
_SLOWER = 1.02
_CLEARLY = 0.97
"""A kernel without tuning replaces the tuned one only when it takes less than this share."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found out about a model: medians of a call in ns, and the largest difference of
    its outputs from those of the default model, as a share of their scale.
    """

    tuned_ns: float
    default_ns: float
    error: float

    @property
    def speedup(self) -> float:
        """How many times as fast as the default model."""
        return self.default_ns / self.tuned_ns


@dataclass(frozen=True, slots=True)
class Finished:
    """The model that ships, and why."""

    model: Model
    checked: Checked
    shipped: str
    why: str


@dataclass(frozen=True, slots=True)
class _Contender:
    """A way to compute the whole model correctly."""

    compiled: Compiled
    model: Model
    error: float


def _race(one: Model, other: Model, inputs: Mapping[str, Array]) -> tuple[float, float]:
    """Median nanoseconds of a call of each, taken in turns."""
    times: tuple[list[int], list[int]] = ([], [])
    arrays = [inputs[port.name] for port in one.inputs]
    for turn in range(_ROUNDS + 2):
        for model, found in zip((one, other), times, strict=True):
            start = time.perf_counter_ns()
            model(*arrays)
            if turn >= 2:
                found.append(time.perf_counter_ns() - start)
    return float(np.median(times[0])), float(np.median(times[1]))


def _profile(model: Model, inputs: Mapping[str, Array]) -> Sequence[KernelTime]:
    """Nanoseconds of each kernel, where it runs."""
    return model.profile(inputs, runs=2, warmup=1)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """How models are timed: each kernel inside a model, and two models against each other."""

    profile: Callable[[Model, Mapping[str, Array]], Sequence[KernelTime]] = _profile
    race: Callable[[Model, Model, Mapping[str, Array]], tuple[float, float]] = _race


def finish(
    graph: Graph,
    options: ModelOptions,
    stores: Sequence[BestRecords],
    tolerance: float = TOLERANCE,
    stopwatch: Stopwatch = Stopwatch(),
) -> Finished:
    """The fastest correct model, as `stopwatch` times it."""
    maker = ModelMaker(graph, tolerance)
    plain = replace(options, exact=True)
    compiled, default = maker.make(Chooser(plain, use_records=False))
    inputs = example_inputs(default.inputs)
    expected = default.run(inputs)
    reference = _Contender(compiled, default, 0.0)
    others = []
    for chooser in (Chooser(options, stores), Chooser(options, use_records=False)):
        made = _right(maker, chooser, inputs, expected)
        if made is not None:
            others.append(made)
    if not others:
        why = f"other ways to compute it are off by more than {tolerance:.1e} of the outputs' scale"
        checked = Checked(*stopwatch.race(default, default, inputs), 0.0)
        return Finished(default, checked, DEFAULT, why)
    contenders = [*others, reference]
    pinned = _fastest(contenders, _kernel_times(contenders, inputs, stopwatch))
    final = _played_off(maker, Chooser(options, pinned=pinned), others[0], inputs, expected)
    for other in others:
        if other is not final:
            other.model.close()
    return _shipped(final, default, inputs, stopwatch)


def _shipped(
    final: _Contender, default: Model, inputs: Mapping[str, Array], stopwatch: Stopwatch
) -> Finished:
    """The final model if it is not slower than the default one; a slower one is timed again."""
    tuned_ns, default_ns = stopwatch.race(final.model, default, inputs)
    if tuned_ns > default_ns * _SLOWER:
        tuned_ns, default_ns = stopwatch.race(final.model, default, inputs)
    if tuned_ns > default_ns * _SLOWER:
        final.model.close()
        why = f"the tuned model is {tuned_ns / default_ns:.2f} times as slow as the default one"
        return Finished(default, Checked(default_ns, default_ns, 0.0), DEFAULT, why)
    default.close()
    kind, why = TUNED, "it is right and not slower than the default model"
    if not final.model.manifest.origins.keys() & {TUNED, TRANSFERRED}:
        kind, why = DEFAULT, "no kernel is by a record; each is the fastest untuned one"
    return Finished(final.model, Checked(tuned_ns, default_ns, final.error), kind, why)


def _right(
    maker: ModelMaker,
    chooser: Chooser,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
) -> _Contender | None:
    """The model of a chooser, of exact kernels alone if it is wrong; None if it stays wrong."""
    for exact in dict.fromkeys((chooser.options.exact, True)):
        options = replace(chooser.options, exact=exact)
        compiled, model = maker.make_exact(replace(chooser, options=options))
        error = difference(model.run(inputs), expected)
        if error <= maker.tolerance:
            return _Contender(compiled, model, error)
        model.close()
    return None


def _kernel_times(
    contenders: Sequence[_Contender], inputs: Mapping[str, Array], stopwatch: Stopwatch
) -> list[dict[str, list[int]]]:
    """Nanoseconds of each kernel of each contender, by name, taken in turns."""
    times: list[dict[str, list[int]]] = [{} for _ in contenders]
    for _ in range(_PLAY_OFF_ROUNDS):
        for contender, known in zip(contenders, times, strict=True):
            for kernel in stopwatch.profile(contender.model, inputs):
                known.setdefault(kernel.info.name, []).extend(kernel.ns)
    return times


def _fastest(
    contenders: Sequence[_Contender], times: Sequence[Mapping[str, list[int]]]
) -> dict[str, Chosen]:
    """The fastest way to compute each kernel of the first contender, by the kernel's name."""
    pinned: dict[str, Chosen] = {}
    for name, choice in contenders[0].compiled.choices.items():
        pinned[name] = choice
        best = float(np.median(times[0].get(name, [0]))) * _CLEARLY
        for contender, known in zip(contenders[1:], times[1:], strict=True):
            other = contender.compiled.choices.get(name)
            if other is None or name not in known or other.task.layouts != choice.task.layouts:
                continue
            median = float(np.median(known[name]))
            if median < best:
                best, pinned[name] = median, other
    return pinned


def _played_off(
    maker: ModelMaker,
    chooser: Chooser,
    first: _Contender,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
) -> _Contender:
    """The model of what the chooser has pinned; `first` if that is the same or it is wrong."""
    if chooser.pinned == first.compiled.choices:
        return first
    compiled, model = maker.make(chooser)
    error = difference(model.run(inputs), expected)
    if error > maker.tolerance:
        model.close()
        return first
    return _Contender(compiled, model, error)


def difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """The largest difference of outputs, as a share of the largest number of each.

    NaN where one has it and the other not counts as infinite.
    """
    worst = 0.0
    for name, right in expected.items():
        a, b = (np.asarray(x, np.float64) for x in (found[name], right))
        if not a.size:
            continue
        if (np.isnan(a) != np.isnan(b)).any():
            return float("inf")
        scale = float(np.nanmax(np.abs(b), initial=0.0)) or 1.0
        with np.errstate(invalid="ignore"):
            apart = np.abs(a - b)
        worst = max(worst, float(np.nanmax(apart, initial=0.0)) / scale)
    return worst


def example_inputs(ports: Sequence[Port], seed: int = 0) -> dict[str, Array]:
    """Seeded inputs of a model: floats in [-1, 1], small whole numbers for integers."""
    found: dict[str, Array] = {}
    for place, port in enumerate(ports):
        dtype = dt.parse(port.dtype)
        array = generate(dtype.name, port.shape, seed, place).view(dtype.numpy)
        found[port.name] = np.abs(array) if dtype.is_int else array
    return found

"""A model made fast: its kernels tuned within a budget, put together, checked, and written.

The tuned model ships only if its outputs agree with those of the model that is made without any
records, and if it is not slower; otherwise that one does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from loopwright.api.choose import DEFAULT, TUNED, BestRecords, Chooser, Options
from loopwright.api.compile import Compiled, Source, compile_graph, import_graph, open_stores
from loopwright.api.model import Part, model_of
from loopwright.api.tune import TuneSettings, tune_many
from loopwright.errors import ModelError
from loopwright.graph.ir import Graph
from loopwright.ir import dtype as dt
from loopwright.layout import Array
from loopwright.measure.inputs import generate
from loopwright.records.store import RecordStore, SqlStore
from loopwright.runtime.model import Model
from loopwright.runtime.model_file import Manifest, Port
from loopwright.search.result import Budget, Event, TuneResult
from loopwright.settings import from_environment
from loopwright.target import Target, parse

TOLERANCE = 1e-4
"""How far outputs may be off, as a share of the largest of them."""
_ROUNDS = 15
_SLOWER = 1.02


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How kernels are tuned: seconds or trials each on average; neither tunes nothing."""

    time_budget: float | None = 600.0
    trials: int | None = None
    policy: str = "model"
    seed: int = 0


class Watcher(Protocol):
    """Told how optimizing a model goes."""

    def stage(self, name: str) -> None:
        """`name` begins: importing, tuning, building."""

    def tasks(self, parts: Sequence[Part], tuning: TuneOptions) -> None:
        """These will be tuned; events count them from 0."""

    def event(self, event: Event) -> None:
        """A trial is done."""


class _Nobody:
    """A watcher that does not care."""

    def stage(self, name: str) -> None:
        del name

    def tasks(self, parts: Sequence[Part], tuning: TuneOptions) -> None:
        del parts, tuning

    def event(self, event: Event) -> None:
        del event


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
class Optimized:
    """What `optimize` made. `shipped` says which model was written, and `why`."""

    path: Path
    manifest: Manifest
    origins: Mapping[str, int]
    results: tuple[TuneResult, ...]
    checked: Checked
    shipped: str
    why: str
    seconds: float


def optimize(
    model: Source,
    output: str | Path,
    *,
    threads: int = 1,
    target: str | Target = "cpu",
    time_budget: float | None = 600.0,
    trials: int | None = None,
    records: str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    tolerance: float = TOLERANCE,
    winograd: bool = True,
    policy: str = "model",
    seed: int = 0,
    watcher: Watcher | None = None,
) -> Optimized:
    """Tune `model`, write it to `output`, and say what came of it.

    Run it again to go on: every trial is kept in `records`.

    Args:
        time_budget: seconds to tune for; None with `trials` for a budget of trials, and 0 to tune
            nothing.
        trials: trials a task on average.
        tolerance: largest difference of outputs, as a share of their scale.
        watcher: told how it goes.

    Raises: ModelError, UnsupportedError, ConfigError or RecordsError for what cannot be used.
    """
    began = time.monotonic()
    watch = watcher if watcher is not None else _Nobody()
    watch.stage("importing")
    graph = import_graph(model, input_shapes)
    options = Options(parse(target), threads, winograd)
    tuning = TuneOptions(time_budget, trials, policy, seed)
    url = records or from_environment().records
    results: tuple[TuneResult, ...] = ()
    with ExitStack() as stack:
        if wants_tuning(tuning):
            store = stack.enter_context(SqlStore(url))
            parts = model_of(graph, options).parts
            watch.stage("tuning")
            watch.tasks(parts, tuning)
            results = tune_model(parts, tuning, store, watch.event)
        stores = open_stores(records, options.target, stack)
        watch.stage("building")
        finished = finish(graph, options, stores, tolerance)
    return _written(finished, Path(output), results, time.monotonic() - began)


def _written(
    finished: Finished, path: Path, results: tuple[TuneResult, ...], seconds: float
) -> Optimized:
    """Write the model; what came of it."""
    with finished.model as model:
        model.save(path)
        manifest = model.manifest
    return Optimized(
        path,
        manifest,
        Counter(call.origin for call in manifest.calls),
        results,
        finished.checked,
        finished.shipped,
        finished.why,
        seconds,
    )


def wants_tuning(tuning: TuneOptions) -> bool:
    """Whether the budget allows a trial at all."""
    return bool(tuning.time_budget) or bool(tuning.trials)


def tune_model(
    parts: Sequence[Part],
    tuning: TuneOptions,
    store: RecordStore,
    on_event: Callable[[Event], None] | None = None,
    peak_gflops: float | None = None,
) -> tuple[TuneResult, ...]:
    """Tune the tasks of a model; the budget is shared by what the model gains."""
    if not parts:
        return ()
    budget = Budget(tuning.trials, tuning.time_budget or None)
    settings = TuneSettings(budget, tuning.policy, tuning.seed, peak_gflops)
    counts = [part.count for part in parts]
    tasks_ = [part.task for part in parts]
    return tune_many(tasks_, settings, store, counts=counts, on_event=on_event)


@dataclass(frozen=True, slots=True)
class Finished:
    """The model that ships, and why."""

    model: Model
    checked: Checked
    shipped: str
    why: str


def finish(
    graph: Graph, options: Options, stores: Sequence[BestRecords], tolerance: float = TOLERANCE
) -> Finished:
    """The fastest model that is right: of records, or without any.

    Raises: ModelError when even the model without records is not within the tolerance of the one
        whose convolutions are computed as they are written.
    """
    plain = replace(options, winograd=False)
    default = compile_graph(graph, Chooser(plain, use_records=False)).model()
    inputs = example_inputs(default.inputs)
    expected = default.run(inputs)
    tuned, error = _tuned(graph, options, stores, inputs, expected, tolerance)
    if tuned is None:
        return Finished(default, Checked(*_race(default, default, inputs), 0.0), DEFAULT, error)
    model, found = tuned
    tuned_ns, default_ns = _race(model, default, inputs)
    checked = Checked(tuned_ns, default_ns, found)
    if tuned_ns > default_ns * _SLOWER:
        model.close()
        why = f"the tuned model is {tuned_ns / default_ns:.2f} times as slow as the default one"
        return Finished(default, checked, DEFAULT, why)
    default.close()
    return Finished(model, checked, TUNED, "it is right and not slower than the default model")


def _tuned(
    graph: Graph,
    options: Options,
    stores: Sequence[BestRecords],
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    tolerance: float,
) -> tuple[tuple[Model, float] | None, str]:
    """The model of records and its error; without Winograd if that is too inexact."""
    why = ""
    for winograd in dict.fromkeys((options.winograd, False)):
        compiled: Compiled = compile_graph(
            graph, Chooser(replace(options, winograd=winograd), stores)
        )
        model = compiled.model()
        found = difference(model.run(inputs), expected)
        if found <= tolerance:
            return (model, found), ""
        model.close()
        why = f"the tuned model is off by {found:.1e} of its outputs' scale, above {tolerance:.1e}"
    return None, why


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


def require_output(path: Path) -> None:
    """Nothing, if a model can be written to `path`.

    Raises: ModelError when its folder is not there or it is a folder itself.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the file to write, as model.lw")
    if not path.parent.is_dir():
        raise ModelError(f"{path.parent} is not a folder; make it first")

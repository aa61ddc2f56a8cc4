"""A model made fast: its kernels tuned within a budget, put together, checked, and written.

What ships, and why, is decided in `deploy/finish.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from loopwright.api.tune import TuneSettings, tune_many
from loopwright.deploy.choose import ModelOptions, exact_option
from loopwright.deploy.compile import Source, import_graph, open_stores
from loopwright.deploy.finish import Checked, Finished, finish
from loopwright.deploy.make import TOLERANCE, require_tolerance
from loopwright.deploy.model import ModelTask, model_of
from loopwright.errors import ConfigError, ModelError
from loopwright.outcome import cores_for
from loopwright.records.store import RecordStore, SqlStore
from loopwright.runtime.cpu.loader import runnable_keys
from loopwright.runtime.model_file import Manifest
from loopwright.search.result import Budget, Event, TuneResult
from loopwright.settings import from_environment
from loopwright.target.host import host
from loopwright.target.parse import parse
from loopwright.target.union import Target

NOTE_TUNED_NS, NOTE_DEFAULT_NS = "tuned_ns", "default_ns"
"""Notes of a written model: the time of a call, as it ships and without tuning."""


@dataclass(frozen=True, slots=True)
class ModelTuning:
    """How kernels are tuned: seconds or trials each on average; neither tunes nothing."""

    time_budget: float | None = 600.0
    trials: int | None = None
    policy: str = "model"
    seed: int = 0


class Watcher(Protocol):
    """Told how optimizing a model goes."""

    def stage(self, name: str) -> None:
        """`name` begins: importing, tuning, building."""

    def tasks(self, parts: Sequence[ModelTask], tuning: ModelTuning) -> None:
        """These will be tuned; events count them from 0."""

    def event(self, event: Event) -> None:
        """A trial is done."""


class _Nobody:
    """A watcher that ignores everything."""

    def stage(self, name: str) -> None:
        del name

    def tasks(self, parts: Sequence[ModelTask], tuning: ModelTuning) -> None:
        del parts, tuning

    def event(self, event: Event) -> None:
        del event


@dataclass(frozen=True, slots=True)
class Optimized:
    """What `optimize` made. `shipped` says which model was written, and `why`."""

    path: Path
    manifest: Manifest
    results: tuple[TuneResult, ...]
    checked: Checked
    shipped: str
    why: str
    seconds: float

    @property
    def origins(self) -> Mapping[str, int]:
        """How many kernels are tuned, transferred, default or copies."""
        return self.manifest.origins


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
    exact: bool = False,
    winograd: bool | None = None,
    policy: str = "model",
    seed: int = 0,
    watcher: Watcher | None = None,
) -> Optimized:
    """Tune `model`, write it to `output`, and return the result.

    Run it again to go on: every trial is kept in `records`.

    Args:
        time_budget: seconds to tune for; None with `trials` for a budget of trials, and 0 to tune
            nothing.
        trials: trials a task on average.
        tolerance: largest difference of outputs, as a share of their scale.
        exact: whether no kernel may round more than what it computes, as Winograd's do.
        winograd: deprecated; False is exact=True.
        watcher: told how it goes.

    Raises: ModelError, UnsupportedError, ConfigError or RecordsError for what cannot be used.
    """
    options = ModelOptions(parse(target), threads, exact_option(exact, winograd))
    require_tolerance(tolerance)
    _require_measurable(options)
    began = time.monotonic()
    watch = watcher if watcher is not None else _Nobody()
    watch.stage("importing")
    graph = import_graph(model, input_shapes)
    tuning = ModelTuning(time_budget, trials, policy, seed)
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


def _require_measurable(options: ModelOptions) -> None:
    """Check that kernels can be timed here. Raises: ConfigError before any work is done."""
    target = options.target
    if target.key not in runnable_keys():
        raise ConfigError(
            f"a model for {target.name} cannot be timed on this machine ({host().name}); optimize "
            "it on one like that, or use target cpu"
        )
    cores_for(options.threads)


def _written(
    finished: Finished, path: Path, results: tuple[TuneResult, ...], seconds: float
) -> Optimized:
    """Write the model, with notes on how it was checked; returns the result."""
    checked = finished.checked
    notes = {
        NOTE_TUNED_NS: f"{checked.tuned_ns:.0f}",
        NOTE_DEFAULT_NS: f"{checked.default_ns:.0f}",
        "error": f"{checked.error:.1e}",
        "ships": f"the {finished.shipped} model: {finished.why}",
    }
    with finished.model as model:
        model.manifest = msgspec.structs.replace(model.manifest, notes=notes)
        model.save(path)
        manifest = model.manifest
    return Optimized(
        path=path,
        manifest=manifest,
        results=results,
        checked=finished.checked,
        shipped=finished.shipped,
        why=finished.why,
        seconds=seconds,
    )


def wants_tuning(tuning: ModelTuning) -> bool:
    """Whether the budget allows a trial at all."""
    return bool(tuning.time_budget) or bool(tuning.trials)


def tune_model(
    parts: Sequence[ModelTask],
    tuning: ModelTuning,
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


def require_output(path: Path) -> None:
    """Check that a model can be written to `path`.

    Raises: ModelError when its folder is not there or it is a folder itself.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the file to write, as model.lw")
    if not path.parent.is_dir():
        raise ModelError(f"{path.parent} is not a folder; make it first")

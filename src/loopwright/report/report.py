"""What a report on a tuned model says: measured here and now, and read from records.

`page.py` makes a page of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from loopwright.deploy.finish import example_inputs
from loopwright.deploy.optimize import NOTE_DEFAULT_NS, NOTE_TUNED_NS
from loopwright.errors import ConfigError
from loopwright.outcome import Failed
from loopwright.records.curve import Curve, curves
from loopwright.records.record import Record
from loopwright.records.store import Query, RecordStore
from loopwright.report.compare import OURS as OURS
from loopwright.runtime.cpu.machine import measure_fma_peak
from loopwright.runtime.cpu.model import KernelTime, load_model
from loopwright.runtime.facts import MachineFacts, facts
from loopwright.runtime.model_file import Manifest
from loopwright.target.host import host
from loopwright.templates.task import task_name


@dataclass(frozen=True, slots=True)
class Tuning:
    """What records say of one task of the model. `ours` is GFLOP/s of the kernel in the model."""

    task: str
    curves: tuple[Curve, ...]
    ours: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """A model as it runs on this machine.

    Args:
        path: the file, as it was given.
        call_ns: nanoseconds of each whole call.
        kernels: the time of each kernel, in the order in which they run.
        peak: GFLOP/s of fused multiply-adds on all threads together; None where it is not known.
        others: milliseconds of a call of what the model is compared with, by name; of the model
            itself too, as OURS, if they were timed in turns.
        tunings: of the tasks that have records, those that take longest first.
        trials: how many records that is.
        failures: how many of them failed, by kind.
    """

    path: str
    manifest: Manifest
    machine: MachineFacts
    made_at: datetime
    threads: int
    call_ns: tuple[int, ...]
    kernels: tuple[KernelTime, ...]
    peak: float | None
    others: Mapping[str, float]
    tunings: tuple[Tuning, ...]
    trials: int
    failures: Mapping[str, int]

    @property
    def ms(self) -> float:
        """Milliseconds of the median call."""
        return float(np.median(self.call_ns)) / 1e6

    @property
    def kernels_ns(self) -> float:
        """Nanoseconds of all kernels together."""
        return sum(kernel.median_ns for kernel in self.kernels)

    @property
    def speedup(self) -> float | None:
        """How many times as fast as untuned the model is, by what was noted of both."""
        notes = self.manifest.notes
        try:
            tuned, default = (float(notes[name]) for name in (NOTE_TUNED_NS, NOTE_DEFAULT_NS))
        except (KeyError, ValueError):
            return None
        return default / tuned if tuned > 0 else None


def gather(
    path: Path,
    *,
    threads: int | None = None,
    runs: int = 20,
    records: RecordStore | None = None,
    others: Mapping[str, float] | None = None,
) -> Report:
    """Run the model at `path` and collect what there is to say of it.

    Args:
        threads: how many it runs on; as many as it was tuned for when None.
        others: milliseconds of a call of other programs for the same model, by name, and of this
            one as OURS.

    Raises: ModelError or ConfigError for a file that cannot be used, ConfigError for no runs.
    """
    with load_model(path, threads) as model:
        inputs = example_inputs(model.inputs)
        kernels = model.profile(inputs, runs)
        call_ns = []
        for _ in range(runs):
            start = time.perf_counter_ns()
            model.run(inputs)
            call_ns.append(time.perf_counter_ns() - start)
        manifest, running = model.manifest, model.threads
    found = () if records is None else _records_of(manifest, records)
    failed = Counter(r.outcome.kind.value for r in found if isinstance(r.outcome, Failed))
    return Report(
        path=str(path),
        manifest=manifest,
        machine=facts(host()),
        made_at=datetime.now(UTC),
        threads=running,
        call_ns=tuple(call_ns),
        kernels=kernels,
        peak=_peak(running),
        others=dict(others or {}),
        tunings=_tunings(found, kernels),
        trials=len(found),
        failures=dict(failed.most_common()),
    )


def _peak(threads: int) -> float | None:
    try:
        return measure_fma_peak(threads)
    except ConfigError:  # more threads than cores
        return None


def _records_of(manifest: Manifest, store: RecordStore) -> tuple[Record, ...]:
    """The records of the model's tasks with its instructions and threads."""
    tasks = {call.task for call in manifest.calls}
    query = Query(target=manifest.target, threads=manifest.threads)
    return tuple(r for r in store.query(query) if task_name(r.operator, r.attrs) in tasks)


def _tunings(records: Sequence[Record], kernels: Sequence[KernelTime]) -> tuple[Tuning, ...]:
    times: Counter[str] = Counter()
    best: dict[str, float] = {}
    for kernel in kernels:
        task = kernel.info.task
        times[task] += round(kernel.median_ns)
        best[task] = max(best.get(task, 0.0), kernel.info.flops / max(kernel.median_ns, 1.0))
    by_task: dict[str, list[Curve]] = {}
    for curve in curves(records):
        by_task.setdefault(task_name(curve.operator, curve.attrs), []).append(curve)
    return tuple(
        Tuning(task, tuple(by_task[task]), best.get(task))
        for task, _ in times.most_common()
        if task in by_task
    )

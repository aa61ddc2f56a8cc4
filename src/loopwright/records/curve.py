"""Best-so-far curves: how good the best program was after each trial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwright.ops.attributes import AttrValue
from loopwright.records.record import Record, TaskKey

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Best-so-far of one policy on one task.

    `gflops` is float64 [runs, trials], one row per run (seed); a run that ended earlier keeps its
    last value. It is 0 before the first trial that worked.
    """

    key: TaskKey
    operator: str
    attrs: tuple[tuple[str, AttrValue], ...]
    flops: int
    policy: str
    gflops: Floats

    @property
    def median(self) -> Floats:
        """The median over the runs, [trials]."""
        return np.asarray(np.median(self.gflops, axis=0))


def curves(records: Iterable[Record]) -> tuple[Curve, ...]:
    """One curve for each task and policy in `records`, in the order in which the tasks came."""
    runs: dict[tuple[TaskKey, str], dict[int, list[Record]]] = {}
    for record in records:
        by_seed = runs.setdefault((record.key, record.policy), {})
        by_seed.setdefault(record.seed, []).append(record)
    order = {key: None for key, _ in runs}
    found = [(key, policy) for key in order for k, policy in runs if k == key]
    return tuple(_curve(key, policy, list(runs[key, policy].values())) for key, policy in found)


def _curve(key: TaskKey, policy: str, runs: Sequence[Sequence[Record]]) -> Curve:
    longest = max(record.trial for run in runs for record in run) + 1
    gflops = np.zeros((len(runs), longest))
    for row, run in zip(gflops, runs, strict=True):
        # A trial that is measured again has two records, and the later one is what counts.
        for record in run:
            row[record.trial] = record.gflops or 0.0
        np.maximum.accumulate(row, out=row)
    first = runs[0][0]
    return Curve(key, first.operator, first.attrs, first.flops, policy, gflops)

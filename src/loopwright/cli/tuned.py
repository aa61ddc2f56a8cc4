"""The result of a tuning run, as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from loopwright.api.tune import TuneSettings
from loopwright.cli.common import Json, describe, show_ns, table
from loopwright.cli.comparison import Row, as_json, as_table
from loopwright.deploy.model import ModelTask
from loopwright.search.result import TuneResult


@dataclass(frozen=True, slots=True)
class TuneRun:
    """A tuning run: a result and the last failure of each part, and the rows of a comparison."""

    label: str
    records: str
    settings: TuneSettings
    parts: tuple[ModelTask, ...]
    results: tuple[TuneResult, ...]
    failures: tuple[str, ...]
    rows: tuple[Row, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether the user ended it."""
        return any(result.interrupted for result in self.results)

    @property
    def threads(self) -> int:
        """How many threads the programs run on."""
        return self.parts[0].task.threads

    def show(self, screen: Console) -> None:
        """Print the result, the comparison, and what went wrong."""
        screen.print(self._table())
        if self.rows:
            screen.print(as_table(self.label, self.threads, self.rows))
        for part, result, why in zip(self.parts, self.results, self.failures, strict=True):
            if result.best is None and why:
                name = describe(part.task.operator, part.task.attrs)
                screen.print(f"no program for {name}, the last failure: {why}", markup=False)
        screen.print(f"records are in {self.records}; run the same command again to resume")

    def as_json(self) -> Json:
        """The same as one JSON object."""
        return {
            "model": self.label,
            "threads": self.threads,
            "records": self.records,
            "policy": self.settings.policy,
            "seed": self.settings.seed,
            "peak_gflops": self.settings.peak_gflops,
            "interrupted": self.interrupted,
            "tasks": [
                _result_json(part, result, why)
                for part, result, why in zip(self.parts, self.results, self.failures, strict=True)
            ],
            "comparison": as_json(self.label, self.threads, self.rows, ()) if self.rows else None,
        }

    def _table(self) -> Table:
        columns = ["", "task", ">time", ">GFLOP/s", ">of peak", ">trials", ">failed"]
        lines = [
            _cells(part, result, self.settings.peak_gflops)
            for part, result in zip(self.parts, self.results, strict=True)
        ]
        trials = sum(result.trials for result in self.results)
        return table(columns, lines, title=f"{self.label}: {trials} trials")


def _cells(part: ModelTask, result: TuneResult, peak: float | None) -> list[str]:
    best = result.best
    cells = [f"{part.count} x", describe(part.task.operator, part.task.attrs)]
    if best is None:
        cells += ["-", "-", ""]
    else:
        share = f"{best.gflops / peak:.0%}" if peak else ""
        cells += [show_ns(best.ns), f"{best.gflops:.1f}", share]
    return [*cells, str(result.trials), str(sum(result.failures.values()))]


def _result_json(part: ModelTask, result: TuneResult, why: str) -> Json:
    best = result.best
    return {
        "operator": part.task.operator,
        "attrs": {k: [*v] if isinstance(v, tuple) else v for k, v in part.task.attrs},
        "count": part.count,
        "best_ns": None if best is None else best.ns,
        "gflops": result.gflops,
        "config": None if best is None else str(best.config),
        "trials": result.trials,
        "resumed": result.resumed,
        "failures": {kind.value: count for kind, count in result.failures.items()},
        "last_failure": why or None,
        "curve": [[trial, ns] for trial, ns in result.curve],
    }

"""`loopwright tune MODEL`: find the fastest programs for a model's operators."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import (
    CompareOption,
    ModelArgument,
    Output,
    OutputOption,
    RecordsOption,
    ShapeOption,
    TargetOption,
    TasksOption,
    ThreadsOption,
    console,
    describe,
    known_engines,
    parse_duration,
    parse_shapes,
    print_json,
    records_url,
    select,
    show_ns,
    table,
)
from loopwright.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from loopwright.api.model import Part
    from loopwright.api.tune import TuneSettings
    from loopwright.cli.bench import Row
    from loopwright.cli.report import Json
    from loopwright.search.result import Event, TuneResult

DEFAULT_TRIALS = 128
INTERRUPTED = 130


def tune(
    context: typer.Context,
    model: ModelArgument,
    *,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trials a task on average, shared by expected gain [128, or no limit with "
            "--time-budget].",
        ),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Stop after this long, as 90s, 5m or 1h30m.")
    ] = None,
    tasks: TasksOption = None,
    threads: ThreadsOption = 1,
    records: RecordsOption = None,
    policy: Annotated[str, typer.Option(help="model, genetic, random, grid or autotvm.")] = "model",
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    compare: CompareOption = None,
    target: TargetOption = "cpu",
    shape: ShapeOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Find the fastest programs for MODEL.

    Every trial is recorded; the same command again goes on where the last one stopped, also after
    Ctrl-C or a crash. With --compare the result is timed beside other libraries in the end.
    """
    seconds = None if time_budget is None else parse_duration(time_budget)
    if trials is None and seconds is None:
        trials = DEFAULT_TRIALS
    engines = known_engines(compare)
    from loopwright.api.model import load_model
    from loopwright.api.tune import TuneSettings
    from loopwright.runtime.machine import measure_fma_peak
    from loopwright.search.result import Budget

    found = load_model(model, target=target, threads=threads, shapes=parse_shapes(shape))
    parts = [found.parts[i] for i in select(tasks, len(found.parts))]
    if not parts:
        raise UnsupportedError(f"{found.label} has no convolution or matrix product to tune")
    url = records_url(context, records)
    settings = TuneSettings(Budget(trials, seconds), policy, seed, measure_fma_peak(threads))
    try:
        results = _run(parts, settings, url)
    except KeyboardInterrupt:  # before the first trial, or after the last
        raise typer.Exit(INTERRUPTED) from None
    interrupted = any(result.interrupted for result in results)
    rows: list[Row] = []
    if engines and not interrupted:
        from loopwright.cli.bench import timed
        from loopwright.peers.compare import Plan

        rows, _ = timed(parts, url, engines, threads, Plan())
    _report(found.label, threads, parts, results, rows, settings, url, output)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _run(parts: Sequence[Part], settings: TuneSettings, url: str) -> tuple[TuneResult, ...]:
    """Tune `parts`, showing on standard error how it goes."""
    from loopwright.api.tune import tune_many
    from loopwright.cli.board import Board, TaskState
    from loopwright.cli.progress import show
    from loopwright.records.store import SqlStore

    budget = settings.budget
    board = Board(
        [
            TaskState(describe(part.task.operator, part.task.attrs), part.count, part.task.flops)
            for part in parts
        ],
        None if budget.trials is None else budget.trials * len(parts),
        budget.seconds,
        time.monotonic,
        settings.peak_gflops,
    )
    with SqlStore(url) as store, show(board, console(stderr=True)) as view:

        def on_event(event: Event) -> None:
            board.take(event)
            view.changed()

        return tune_many(
            [part.task for part in parts],
            settings,
            store,
            counts=[part.count for part in parts],
            on_event=on_event,
        )


def _report(
    label: str,
    threads: int,
    parts: Sequence[Part],
    results: Sequence[TuneResult],
    rows: Sequence[Row],
    settings: TuneSettings,
    url: str,
    output: Output,
) -> None:
    """Show what came of it."""
    from loopwright.cli.report import as_json, as_table

    if output is Output.JSON:
        print_json(
            {
                "model": label,
                "records": url,
                "policy": settings.policy,
                "seed": settings.seed,
                "peak_gflops": settings.peak_gflops,
                "interrupted": any(result.interrupted for result in results),
                "tasks": [_json(part, r) for part, r in zip(parts, results, strict=True)],
                "comparison": as_json(label, threads, rows, ()) if rows else None,
            }
        )
        return
    screen = console()
    screen.print(_table(label, parts, results, settings.peak_gflops))
    if rows:
        screen.print(as_table(label, threads, rows))
    screen.print(f"records are in {url}; the same command again goes on")


def _table(
    label: str, parts: Sequence[Part], results: Sequence[TuneResult], peak: float | None
) -> Table:
    columns = ["#", "task", ">time", ">GFLOP/s", ">of peak", ">trials", ">failed"]
    lines = []
    for part, result in zip(parts, results, strict=True):
        best = result.best
        lines.append(
            (
                f"{part.count} x",
                describe(part.task.operator, part.task.attrs),
                "-" if best is None else show_ns(best.ns),
                "-" if best is None else f"{best.gflops:.1f}",
                "" if best is None or not peak else f"{best.gflops / peak:.0%}",
                str(result.trials),
                str(sum(result.failures.values())),
            )
        )
    trials = sum(result.trials for result in results)
    return table(columns, lines, title=f"{label}: {trials} trials")


def _json(part: Part, result: TuneResult) -> Json:
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
        "curve": [[trial, ns] for trial, ns in result.curve],
    }

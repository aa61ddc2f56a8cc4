"""`loopwright tune MODEL`: find the fastest programs for a model's operators."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
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
    settings_of,
)
from loopwright.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loopwright.api.model import Part
    from loopwright.api.tune import TuneSettings
    from loopwright.cli.bench import Row
    from loopwright.cli.tuned import TuneRun
    from loopwright.search.result import Event
    from loopwright.trace import Tracer

DEFAULT_TRIALS = 128
INTERRUPTED = 130
FAILED = 1  # no task has a program
TrialsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trials a task on average, shared by expected gain [128, or no limit with "
        "--time-budget].",
    ),
]
TimeOption = Annotated[str | None, typer.Option(help="Stop after this long, as 90s, 5m or 1h30m.")]
PolicyOption = Annotated[str, typer.Option(help="model, genetic, random, grid or autotvm.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the search.")]


def tune(
    context: typer.Context,
    model: ModelArgument,
    *,
    trials: TrialsOption = None,
    time_budget: TimeOption = None,
    tasks: TasksOption = None,
    threads: ThreadsOption = 1,
    records: RecordsOption = None,
    policy: PolicyOption = "model",
    seed: SeedOption = 0,
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
    from loopwright.trace import open_tracer

    found = load_model(model, target=target, threads=threads, shapes=parse_shapes(shape))
    parts = [found.parts[i] for i in select(tasks, len(found.parts))]
    if not parts:
        raise UnsupportedError(f"{found.label} has no convolution or matrix product to tune")
    url = records_url(context, records)
    settings = TuneSettings(Budget(trials, seconds), policy, seed, measure_fma_peak(threads))
    try:
        with closing(open_tracer(settings_of(context).trace)) as tracer:
            run = _run(found.label, parts, settings, url, tracer)
        if engines and not run.interrupted:
            run = replace(run, rows=_compared(parts, url, engines, threads))
    except KeyboardInterrupt:  # before the first trial, or while comparing
        raise typer.Exit(INTERRUPTED) from None
    if output is Output.JSON:
        print_json(run.as_json())
    else:
        run.show(console())
    if run.interrupted:
        raise typer.Exit(INTERRUPTED)
    if all(result.best is None for result in run.results):
        raise typer.Exit(FAILED)


def _run(
    label: str, parts: Sequence[Part], settings: TuneSettings, url: str, tracer: Tracer
) -> TuneRun:
    """Tune `parts`, showing on standard error how it goes."""
    from loopwright.api.tune import tune_many
    from loopwright.cli.board import Board, TaskState
    from loopwright.cli.progress import show
    from loopwright.cli.tuned import TuneRun
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
            if tracer.enabled:
                _trace(tracer, event)

        results = tune_many(
            [part.task for part in parts],
            settings,
            store,
            counts=[part.count for part in parts],
            on_event=on_event,
        )
    whys = tuple(task.why for task in board.tasks)
    return TuneRun(label, url, settings, tuple(parts), results, whys)


def _trace(tracer: Tracer, event: Event) -> None:
    """Write `event` as a line of the trace."""
    from loopwright.measure.types import Timed
    from loopwright.search.result import TaskResumed

    best_ns = None if event.best is None else event.best.ns
    if isinstance(event, TaskResumed):
        tracer.event("resumed", task=event.task.name, trials=event.trials, best_ns=best_ns)
        return
    outcome = event.outcome
    tracer.event(
        "trial",
        task=event.task.name,
        config=event.config.key,
        ns=outcome.best_ns if isinstance(outcome, Timed) else None,
        failure=None if isinstance(outcome, Timed) else f"{outcome.kind.value}: {outcome.detail}",
        best_ns=best_ns,
        again=event.recheck,
        elapsed_s=event.elapsed_s,
    )


def _compared(
    parts: Sequence[Part], url: str, engines: Sequence[str], threads: int
) -> tuple[Row, ...]:
    """The tuned ones of `parts` beside `engines`."""
    from loopwright.cli.bench import timed
    from loopwright.peers.compare import Plan

    rows, _ = timed(parts, url, engines, threads, Plan())
    return tuple(rows)

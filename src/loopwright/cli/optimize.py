"""`loopwright optimize MODEL -o model.lw`: tune a model and write it as one file that runs."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import (
    ModelArgument,
    Output,
    RecordsOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    console,
    describe,
    own_records,
    parse_duration,
    parse_shapes,
    print_json,
    show_ns,
)
from loopwright.cli.model_summary import as_json as model_json
from loopwright.cli.model_summary import lines
from loopwright.cli.tune import INTERRUPTED, PolicyOption, SeedOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loopwright.cli.common import Json
    from loopwright.cli.progress import ProgressView
    from loopwright.deploy.model import ModelTask
    from loopwright.deploy.optimize import ModelTuning, Optimized
    from loopwright.runtime.model_file import Manifest
    from loopwright.search.result import Event

FileOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="The file to write [MODEL.lw].")
]
BudgetOption = Annotated[
    str | None,
    typer.Option("--time-budget", help="How long to tune, as 90s, 10m; 0 tunes nothing [10m]."),
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", min=1, help="Trials a task on average, not a time.")
]
ToleranceOption = Annotated[
    float, typer.Option(help="How far outputs may be off, as a share of the largest of them.")
]
ExactOption = Annotated[
    bool, typer.Option("--exact", help="Use no algorithm that rounds more, such as Winograd's.")
]
WinogradOption = Annotated[
    bool, typer.Option("--winograd/--no-winograd", help="--no-winograd is --exact by its old name.")
]
FormatOption = Annotated[
    Output, typer.Option("--format", help="text, or json for one JSON object.")
]


def optimize(
    context: typer.Context,
    model: ModelArgument,
    *,
    out: FileOption = None,
    time_budget: BudgetOption = None,
    trials: TrialsOption = None,
    threads: ThreadsOption = 1,
    records: RecordsOption = None,
    tolerance: ToleranceOption = 1e-4,
    exact: ExactOption = False,
    winograd: WinogradOption = True,
    policy: PolicyOption = "model",
    seed: SeedOption = 0,
    target: TargetOption = "cpu",
    input_shape: ShapeOption = None,
    output: FormatOption = Output.TEXT,
) -> None:
    """Make MODEL fast and write it as one file that runs without compiling.

    Every trial is recorded; the same command again resumes. Ctrl-C ends the tuning, and the model
    is written with what was found so far.
    """
    from loopwright.deploy.optimize import optimize as run
    from loopwright.deploy.optimize import require_output

    path = out or Path(f"{Path(model).stem}.lw")
    require_output(path)
    seconds = budget_seconds(time_budget, trials)
    watch = _Watch()
    with watch:
        made = run(
            model,
            path,
            threads=threads,
            target=target,
            time_budget=seconds,
            trials=trials,
            records=records or own_records(context),
            input_shapes=parse_shapes(input_shape),
            tolerance=tolerance,
            exact=exact or not winograd,
            policy=policy,
            seed=seed,
            watcher=watch,
        )
    if output is Output.JSON:
        print_json(as_json(made))
    else:
        show(made)
    if any(result.interrupted for result in made.results):
        raise typer.Exit(INTERRUPTED)


def budget_seconds(text: str | None, trials: int | None) -> float | None:
    """Seconds to tune: none at all for `0`, no limit besides a budget of trials."""
    if text is None:
        return 600.0 if trials is None else None
    return 0.0 if text.strip() in ("0", "0s") else parse_duration(text)


class _Watch:
    """Shows on standard error how optimizing goes."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._view: ProgressView | None = None
        self._screen = console(stderr=True)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stage(self, name: str) -> None:
        """Show what begins; the tuning board ends."""
        self._stack.close()
        self._view = None
        self._screen.print(f"{name} ...")

    def tasks(self, parts: Sequence[ModelTask], tuning: ModelTuning) -> None:
        """Show a board of what is tuned."""
        from loopwright.cli.board import Board, TaskState
        from loopwright.cli.progress import show as show_board

        states = [
            TaskState(describe(p.task.operator, p.task.attrs), p.count, p.task.flops) for p in parts
        ]
        total = None if tuning.trials is None else tuning.trials * len(parts)
        self._board = Board(states, total, tuning.time_budget or None, time.monotonic)
        self._view = self._stack.enter_context(show_board(self._board, self._screen))

    def event(self, event: Event) -> None:
        """Count a trial."""
        self._board.take(event)
        if self._view is not None:
            self._view.changed()


def show(made: Optimized) -> None:
    """Print the result."""
    screen = console()
    manifest, checked = made.manifest, made.checked
    screen.print(
        f"{made.path}: {manifest.name} for {manifest.target_name}, "
        f"{manifest.threads} thread{'s' * (manifest.threads > 1)}"
    )
    for line in lines(manifest):
        screen.print(line, markup=False)
    screen.print(
        f"  time      {show_ns(checked.tuned_ns)}; {show_ns(checked.default_ns)} untuned "
        f"({checked.speedup:.2f}x)"
    )
    screen.print(f"  error     {checked.error:.1e} of the outputs' scale{of_kernels(manifest)}")
    screen.print(f"  ships     the {made.shipped} model: {made.why}", markup=False)


def of_kernels(manifest: Manifest) -> str:
    """The error of the least exact kernel."""
    worst = manifest.worst
    if worst is None or worst.error is None:
        return ""
    return f"; at most {worst.error:.1e} in a kernel, against float64"


def as_json(made: Optimized) -> Json:
    """The same as one JSON object."""
    manifest, checked = made.manifest, made.checked
    return {
        "path": str(made.path),
        "model": manifest.name,
        "target": manifest.target_name,
        "threads": manifest.threads,
        **model_json(manifest),
        "ns": checked.tuned_ns,
        "default_ns": checked.default_ns,
        "error": checked.error,
        "kernel_error": None if manifest.worst is None else manifest.worst.error,
        "shipped": made.shipped,
        "why": made.why,
        "seconds": made.seconds,
        "trials": sum(result.trials for result in made.results),
    }

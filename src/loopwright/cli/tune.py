"""`loopwright tune MODEL`: find the fastest programs for a model's operators."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import (
    CompareOption,
    DeviceOption,
    ExecutorOption,
    FleetOption,
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
from loopwright.cli.fleet.connect import CaOption, TokenOption
from loopwright.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loopwright.api.tune import Remote, TuneSettings
    from loopwright.cli.comparison import Row
    from loopwright.cli.tuned import TuneRun
    from loopwright.deploy.model import ModelTask
    from loopwright.fleet.client.runner import FleetOptions
    from loopwright.fleet.words import Priority
    from loopwright.search.result import Event
    from loopwright.settings import Settings
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
WaitOption = Annotated[
    str | None,
    typer.Option("--max-wait", help="How long to wait for a device of the fleet, as 90s [10m]."),
]
PriorityOption = Annotated[
    str | None,
    typer.Option("--priority", help="Before whom: batch, normal, interactive or urgent [normal]."),
]


SignOption = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        metavar="FILE",
        help="The builder's key of `ca builder`, for devices that run signed code only "
        "[LOOPWRIGHT_SIGN].",
    ),
]


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
    fleet: FleetOption = None,
    device: DeviceOption = None,
    max_wait: WaitOption = None,
    priority: PriorityOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    sign: SignOption = None,
    executor: ExecutorOption = "processes",
    output: OutputOption = Output.TEXT,
) -> None:
    """Find the fastest programs for MODEL.

    Every trial is recorded; the same command again resumes where the last one stopped, also after
    Ctrl-C or a crash. With --compare the result is timed against other libraries at the end. With
    --fleet it is tuned for, and measured on, leased devices, and its records are theirs.
    """
    seconds = None if time_budget is None else parse_duration(time_budget)
    if trials is None and seconds is None:
        trials = DEFAULT_TRIALS
    engines = known_engines(compare)
    where = _Where(target, threads, fleet, device, max_wait, priority)
    if engines and where.remote:
        raise ConfigError("--compare times on this machine, not on a fleet: leave one of the two")
    from loopwright.api.tune import TuneSettings
    from loopwright.build.executors import parse_executor
    from loopwright.search.result import Budget

    budget, spec = Budget(trials, seconds), parse_executor(executor)
    url = records_url(context, records)
    try:
        with ExitStack() as stack:
            given = settings_of(context, token, ca, sign)
            job = _prepare(given, model, shape, tasks, where, stack)
            peak = job.peak_gflops
            settings = TuneSettings(budget, policy, seed, peak, given.trace, spec)
            run = _run(job, settings, url)
        if engines and not run.interrupted:
            run = replace(run, rows=_compared(job.parts, url, engines, threads))
    except KeyboardInterrupt:  # before the first trial, or while comparing
        raise typer.Exit(INTERRUPTED) from None
    _show(run, output)


def _show(run: TuneRun, output: Output) -> None:
    """Write the result; the exit code says whether there is a program."""
    if output is Output.JSON:
        print_json(run.as_json())
    else:
        run.show(console())
    if run.interrupted:
        raise typer.Exit(INTERRUPTED)
    if all(result.best is None for result in run.results):
        raise typer.Exit(FAILED)


@dataclass(frozen=True, slots=True)
class _Where:
    """What the options say of where a model is tuned."""

    target: str
    threads: int
    fleet: str | None
    device: str | None
    max_wait: str | None
    priority: str | None

    @property
    def remote(self) -> bool:
        return self.fleet is not None or self.device is not None

    def options(self) -> FleetOptions:
        """How devices are leased. Raises: ConfigError for a bad wait or priority."""
        from loopwright.fleet.client.runner import FleetOptions

        made = FleetOptions()
        if self.max_wait is not None:
            now = self.max_wait.strip() in ("0", "0s")
            made = replace(made, max_wait=0.0 if now else parse_duration(self.max_wait))
        if self.priority is not None:
            made = replace(made, priority=_priority(self.priority))
        return made


def _priority(text: str) -> Priority:
    from loopwright.fleet.words import Priority

    try:
        return Priority[text.upper()]
    except KeyError:
        known = ", ".join(each.name.lower() for each in Priority)
        raise ConfigError(f"--priority {text!r} is not one of {known}") from None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A model to tune, and where."""

    label: str
    parts: Sequence[ModelTask]
    peak_gflops: float | None
    remote: Remote | None
    tracer: Tracer


def _prepare(
    settings: Settings,
    model: str,
    shape: list[str] | None,
    tasks: str | None,
    where: _Where,
    stack: ExitStack,
) -> _Prepared:
    """The model's tasks for the machine or the devices that it is tuned on."""
    from loopwright.deploy.model import load_model
    from loopwright.runtime.cpu.machine import measure_fma_peak
    from loopwright.trace import open_tracer

    remote = _remote(settings, where, stack)
    aim = where.target if remote is None or where.target != "cpu" else remote.devices.target
    found = load_model(model, target=aim, threads=where.threads, shapes=parse_shapes(shape))
    parts = [found.parts[i] for i in select(tasks, len(found.parts))]
    if not parts:
        raise UnsupportedError(f"{found.label} has no convolution or matrix product to tune")
    peak = measure_fma_peak(where.threads) if remote is None else None
    tracer = stack.enter_context(closing(open_tracer(settings.trace)))
    return _Prepared(found.label, parts, peak, remote, tracer)


def _remote(settings: Settings, where: _Where, stack: ExitStack) -> Remote | None:
    """The devices that the options name; None for this machine.

    Raises: ConfigError for options of a fleet without one; NoDeviceError, AuthError, FleetError.
    """
    options = where.options()
    if not where.remote:
        if where.max_wait is not None or where.priority is not None:
            raise ConfigError("--max-wait and --priority are about a fleet: give --fleet too")
        return None
    if where.fleet is None and settings.tracker is None:
        raise ConfigError("--device names a device of a fleet: give --fleet tls://HOST:7070 too")
    from loopwright.api.tune import Remote
    from loopwright.fleet.client.api import connect
    from loopwright.fleet.client.runner import device_class

    found = stack.enter_context(connect(where.fleet, settings=settings))
    err = console(stderr=True)

    def waits(left_s: float) -> None:
        err.print(f"the tracker was just started; it waits {left_s:.0f} s at most for its devices")

    devices = device_class(found, where.device or "", where.threads, on_wait=waits)
    said = f"{len(devices.names)} x {devices.device} ({devices.target.name})"
    other = f"; {len(devices.others)} others are not like them" if devices.others else ""
    err.print(f"devices: {said}{other}", markup=False)
    return Remote(found, devices, options)


def _run(job: _Prepared, settings: TuneSettings, url: str) -> TuneRun:
    """Tune, showing on standard error how it goes."""
    from loopwright.api.tune import tune_many
    from loopwright.cli.board import Board, TaskState
    from loopwright.cli.progress import show
    from loopwright.cli.tuned import TuneRun
    from loopwright.records.store import SqlStore

    parts, tracer = job.parts, job.tracer
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
            remote=job.remote,
        )
    whys = tuple(task.why for task in board.tasks)
    return TuneRun(job.label, url, settings, tuple(parts), results, whys)


def _trace(tracer: Tracer, event: Event) -> None:
    """Write `event` as a line of the trace."""
    from loopwright.outcome import Timed
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
    parts: Sequence[ModelTask], url: str, engines: Sequence[str], threads: int
) -> tuple[Row, ...]:
    """The tuned ones of `parts` against `engines`."""
    from loopwright.cli.bench import timed
    from loopwright.peers.compare import TimingPlan

    rows, _ = timed(parts, url, engines, threads, TimingPlan())
    return tuple(rows)

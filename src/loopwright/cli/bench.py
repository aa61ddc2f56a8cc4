"""`loopwright bench MODEL`: a tuned model, or its operators, against other libraries."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import (
    CompareOption,
    ModelArgument,
    Output,
    OutputOption,
    RecordsOption,
    ShapeOption,
    TasksOption,
    console,
    known_engines,
    own_records,
    parse_shapes,
    print_json,
    records_url,
    select,
)
from loopwright.errors import ConfigError, RecordsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loopwright.cli.comparison import Row
    from loopwright.deploy.model import ModelTask
    from loopwright.peers.compare import TimingPlan


def bench(
    context: typer.Context,
    model: ModelArgument,
    *,
    ops: Annotated[
        bool, typer.Option("--ops", help="Time each operator of MODEL by itself.")
    ] = False,
    compare: CompareOption = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of every contender; 1, or what MODEL was tuned for."),
    ] = None,
    tasks: TasksOption = None,
    records: RecordsOption = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="How often each contender has its turn; 15, with --ops 7."),
    ] = None,
    shape: ShapeOption = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="The ONNX file that MODEL, a tuned model, was made from."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Time MODEL, made from the best programs on record, in turns with the libraries of --compare.

    With --ops each operator is timed by itself: the kernel alone in its own layouts with packed
    weights, and from plain to plain layouts.
    """
    if not ops:
        from loopwright.peers.peer import MODEL_PEERS

        engines = known_engines(compare, MODEL_PEERS)
        plan = WholeModel(engines, threads, records or own_records(context), rounds or 15)
        bench_model(model, source, plan, parse_shapes(shape), output)
        return
    engines, threads = known_engines(compare), threads or 1
    from loopwright.cli.comparison import as_json, as_table
    from loopwright.deploy.model import load_model
    from loopwright.peers.compare import TimingPlan

    found = load_model(model, threads=threads, shapes=parse_shapes(shape))
    parts = [found.parts[i] for i in select(tasks, len(found.parts))]
    url = records_url(context, records)
    rows, missing = timed(parts, url, engines, threads, TimingPlan(rounds=rounds or 7))
    if not rows:
        raise RecordsError(missing[0])
    if output is Output.JSON:
        print_json(as_json(found.label, threads, rows, missing))
        return
    screen = console()
    screen.print(as_table(found.label, threads, rows))
    for line in missing:
        screen.print(f"left out: {line}")


@dataclass(frozen=True, slots=True)
class WholeModel:
    """How a whole model is timed; `threads` None means as many as it is made for."""

    engines: tuple[str, ...]
    threads: int | None
    records: str | None
    rounds: int


def bench_model(
    model: str,
    source: str | None,
    plan: WholeModel,
    shapes: Mapping[str, tuple[int, ...]],
    output: Output,
) -> None:
    """Time a whole model, an ONNX file or a tuned one made of `source`, and print the result."""
    import tempfile
    from pathlib import Path

    from loopwright.cli.comparison import models_json, models_table
    from loopwright.deploy.compile import compile as compile_model
    from loopwright.report.compare import compare_model
    from loopwright.runtime.model_file import is_model_file, read_manifest

    with tempfile.TemporaryDirectory() as folder:
        tuned = Path(model)
        if is_model_file(tuned):
            manifest = read_manifest(tuned)
            threads = plan.threads or manifest.threads
            source = source or source_of(model, manifest.name, plan.engines)
        elif source is not None:
            raise ConfigError(f"--source is for tuned models; {model} is not one")
        else:
            threads, source = plan.threads or 1, model
            tuned = Path(folder) / "model.lw"
            with compile_model(
                model, threads=threads, records=plan.records, input_shapes=shapes
            ) as made:
                made.save(tuned)
        found = compare_model(tuned, source, plan.engines, threads, plan.rounds)
    if output is Output.JSON:
        print_json(models_json([found]))
        return
    screen = console()
    screen.print(models_table([found]))
    for why in found.refused.values():
        screen.print(f"left out: {why}", markup=False)


def source_of(model: str, name: str, engines: Sequence[str]) -> str | None:
    """The bundled model that the tuned `model` was made of; None if it is unknown and not needed.

    Raises: ConfigError if `engines` need it.
    """
    from loopwright.frontends.onnx.bundled import bundled

    if name in bundled():
        return name
    if engines:
        raise ConfigError(
            f"{model} does not hold its ONNX model, which {engines[0]} needs; "
            "give it as --source model.onnx"
        )
    return None


def timed(
    parts: Sequence[ModelTask], url: str, engines: Sequence[str], threads: int, plan: TimingPlan
) -> tuple[list[Row], list[str]]:
    """A row for each of `parts` that has a record, and why the others have none."""
    from loopwright.api.program import Compiler, best_record, example_inputs
    from loopwright.cli.comparison import Row
    from loopwright.peers.compare import KERNEL, PLAIN, compare, peers_on
    from loopwright.peers.wire import OpSpec
    from loopwright.records.store import SqlStore

    programs, missing = [], []
    with SqlStore(url, create=False) as store, Compiler() as compiler:
        for part in parts:
            try:
                config = best_record(part.task, store, url).config
            except RecordsError as error:
                missing.append(str(error))
                continue
            programs.append((part, compiler.program(part.task, config)))
    rows = []
    with peers_on(engines, threads) as peers:
        for part, program in programs:
            task = part.task
            arrays = dict(zip(program.inputs, example_inputs(task), strict=True))
            weights = {n: a for n, a in arrays.items() if n in task.workload.constants}
            data = [array for name, array in arrays.items() if name not in weights]
            bound = program.bind(**weights)
            ours: dict[str, Callable[[], object]] = {
                KERNEL: bound.timed_call(*data),
                PLAIN: functools.partial(bound, *data),
            }
            spec = OpSpec(task.operator, part.peer_attrs)
            comparison = compare(ours, peers, spec, task.flops, plan)
            rows.append(Row(part, str(program.config), comparison))
    return rows, missing

"""`loopwright report model.lw`: a page on how a tuned model runs and how it came about."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import (
    CompareOption,
    RecordsOption,
    console,
    known_engines,
    own_records,
)
from loopwright.cli.run import FileArgument, RunsOption, ThreadsOption
from loopwright.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

PageOption = Annotated[Path, typer.Option("--out", "-o", help="The page to write.")]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="The ONNX model that others run [the bundled one of the same name]."
    ),
]


def report(
    context: typer.Context,
    model: FileArgument,
    *,
    out: PageOption = Path("report.html"),
    records: RecordsOption = None,
    compare: CompareOption = None,
    source: SourceOption = None,
    threads: ThreadsOption = None,
    runs: RunsOption = 20,
) -> None:
    """Write a page on a tuned model: the time of every kernel, and how it was tuned.

    The page is one file that needs nothing else. With --compare it says what others take.
    """
    from loopwright.peers.peer import MODEL_PEERS
    from loopwright.records.store import SqlStore
    from loopwright.report.page import page
    from loopwright.report.report import gather

    engines = known_engines(compare, MODEL_PEERS)
    if out.is_dir() or not out.parent.is_dir():
        raise ModelError(f"{out} cannot be written: give a file in a folder that is there")
    with ExitStack() as stack:
        url = records or own_records(context)
        store = None if url is None else stack.enter_context(SqlStore(url, create=False))
        others = peers(model, source, engines, threads)
        found = gather(model, threads=threads, runs=runs, records=store, others=others)
    try:
        out.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{out} cannot be written: {error.strerror}") from error
    console().print(
        f"{out}: {found.manifest.name}, {found.ms:.3g} ms a call, {len(found.kernels)} kernels, "
        f"{found.trials} trials",
        markup=False,
    )


def peers(
    model: Path, source: str | None, engines: Sequence[str], threads: int | None
) -> dict[str, float]:
    """Milliseconds of a call of each engine that can run the model, and of ours, in turns."""
    if not engines:
        return {}
    from loopwright.report.compare import compare_model
    from loopwright.runtime.model_file import read_manifest

    manifest = read_manifest(model)
    running = manifest.threads if threads is None else threads
    found = compare_model(model, source or manifest.name, engines, running)
    for name, why in found.refused.items():
        console(stderr=True).print(f"{name} is left out: {why}", markup=False)
    return {name: timing.median_ns / 1e6 for name, timing in found.timings.items()}

"""`loopwright export`: a tuned model as a library for C, or a model's kernels as source text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from loopwright.cli.common import (
    RecordsOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    console,
    parse_shapes,
    records_url,
)
from loopwright.cli.run import tuned_file
from loopwright.errors import ConfigError, RecordsError

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="For --c a tuned model, made by loopwright optimize; for --source an ONNX file, or "
        "the name of a bundled model."
    ),
]
AsCOption = Annotated[bool, typer.Option("--c", help="As a shared library with a C header.")]
SourceOption = Annotated[
    bool, typer.Option("--source", help="The source of each kernel, tuned where records say how.")
]
FolderOption = Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Stem of the files and C names [the model's name].")
]
CompilerOption = Annotated[
    str | None, typer.Option("--cc", help="The C compiler [cc, gcc, clang or ziglang's].")
]
LanguageOption = Annotated[
    str, typer.Option("--language", help="What the sources of --source are written in: c or llvm.")
]


def export(
    context: typer.Context,
    model: ModelArgument,
    *,
    as_c: AsCOption = False,
    source: SourceOption = False,
    out: FolderOption = Path(),
    name: NameOption = None,
    compiler: CompilerOption = None,
    language: LanguageOption = "c",
    records: RecordsOption = None,
    target: TargetOption = "cpu",
    threads: ThreadsOption = 1,
    shape: ShapeOption = None,
) -> None:
    """Write a model for use without Python: a library for C, or its kernels as source."""
    if as_c == source:
        raise ConfigError(
            "say what to export the model to: --c for a C library, or --source for the source of "
            "its kernels"
        )
    if as_c:
        _library(tuned_file(Path(model)), out, name, compiler)
        return
    from loopwright.deploy.model import load_model
    from loopwright.export.sources import export_sources
    from loopwright.records.store import SqlStore

    found = load_model(model, target=target, threads=threads, shapes=parse_shapes(shape))
    tasks = [part.task for part in found.parts]
    try:
        with SqlStore(records_url(context, records), create=False) as store:
            made = export_sources(tasks, out, language=language, records=store)
    except RecordsError:
        if records is not None:
            raise
        made = export_sources(tasks, out, language=language)
    screen = console()
    for file in made:
        how = "tuned" if file.tuned else "not tuned: good without records"
        screen.print(f"{file.path}: {file.task.name}, {how}", markup=False)


def _library(model: Path, out: Path, name: str | None, compiler: str | None) -> None:
    from loopwright.export.library import export_c

    made = export_c(model, out, name=name, compiler=compiler)
    screen = console()
    size = made.library.stat().st_size / 1e6
    screen.print(f"{made.library}: {size:.1f} MB; {made.header.name} says how to call it")
    screen.print(
        f"  example   cd {shlex.quote(str(out))} && {shlex.join(made.command)} && ./example",
        markup=False,
    )

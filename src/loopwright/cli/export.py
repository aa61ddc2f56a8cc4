"""`loopwright export model.lw --c -o DIR`: a tuned model as a library for C."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from loopwright.cli.common import console
from loopwright.cli.run import FileArgument
from loopwright.errors import ConfigError

AsCOption = Annotated[bool, typer.Option("--c", help="As a shared library with a C header.")]
FolderOption = Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Stem of the files and C names [the model's name].")
]
CompilerOption = Annotated[
    str | None, typer.Option("--cc", help="The C compiler [cc, gcc, clang or ziglang's].")
]


def export(
    model: FileArgument,
    *,
    as_c: AsCOption = False,
    out: FolderOption = Path(),
    name: NameOption = None,
    compiler: CompilerOption = None,
) -> None:
    """Write a tuned model as a library that runs without Python."""
    from loopwright.export.library import export_c

    if not as_c:
        raise ConfigError("say what to export the model to: --c for a C library")
    made = export_c(model, out, name=name, compiler=compiler)
    screen = console()
    size = made.library.stat().st_size / 1e6
    screen.print(f"{made.library}: {size:.1f} MB; {made.header.name} says how to call it")
    screen.print(
        f"  example   cd {shlex.quote(str(out))} && {shlex.join(made.command)} && ./example",
        markup=False,
    )

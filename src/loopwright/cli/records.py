"""`loopwright records export|import|best`: records as text, and the best of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loopwright.cli.common import (
    Output,
    OutputOption,
    RecordsOption,
    console,
    describe,
    print_json,
    records_url,
    show_ns,
    table,
)
from loopwright.errors import RecordsError

app = typer.Typer(help="Keep, move and query records.", no_args_is_help=True, rich_markup_mode=None)
FileArgument = Annotated[Path, typer.Argument(help="A file with one JSON record a line.")]


@app.command("export")
def export_(
    context: typer.Context,
    file: FileArgument,
    records: RecordsOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write all records to FILE, one JSON object a line."""
    from loopwright.records.lines import export_lines
    from loopwright.records.store import Query, SqlStore

    url = records_url(context, records)
    with SqlStore(url, create=False) as store:
        count = export_lines(store.query(Query()), file)
    if output is Output.JSON:
        print_json({"file": str(file), "records": count})
    else:
        typer.echo(f"{count} records of {url} written to {file}")


@app.command("import")
def import_(
    context: typer.Context,
    file: FileArgument,
    records: RecordsOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add the records of FILE; records that are already there are skipped.

    Lines that cannot be read are named on standard error, and the others are kept; the exit code is
    then 2.
    """
    from loopwright.records.lines import import_lines
    from loopwright.records.store import SqlStore

    url = records_url(context, records)
    with SqlStore(url) as store:
        result = import_lines(store, file)
    if output is Output.JSON:
        print_json(
            {"added": result.added, "known": result.known, "bad": result.bad, "records": url}
        )
    else:
        typer.echo(f"{result.added} records added to {url}, {result.known} were there already")
    if result.bad:
        for line in result.bad[:-1]:
            typer.echo(f"loopwright: {line}", err=True)
        raise RecordsError(result.bad[-1])


@app.command("best")
def best(
    context: typer.Context,
    records: RecordsOption = None,
    operator: Annotated[str | None, typer.Option(help="Only this operator.")] = None,
    threads: Annotated[int | None, typer.Option(help="Only this number of threads.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the best program of each task."""
    from loopwright.records.record import to_line
    from loopwright.records.store import Query, SqlStore

    url = records_url(context, records)
    with SqlStore(url, create=False) as store:
        found = store.best(Query(operator=operator, threads=threads))
        total = store.count()
    if output is Output.JSON:
        import json

        print_json({"records": url, "best": [json.loads(to_line(record)) for record in found]})
        return
    rows = [
        (
            describe(record.operator, record.attrs),
            str(record.key.threads),
            record.key.device,
            show_ns(record.best_ns or 0.0),
            f"{record.gflops or 0.0:.1f}",
            str(record.config),
        )
        for record in found
    ]
    columns = ["task", ">threads", "device", ">time", ">GFLOP/s", "config"]
    console().print(table(columns, rows, title=f"{len(found)} tasks, {total} records in {url}"))

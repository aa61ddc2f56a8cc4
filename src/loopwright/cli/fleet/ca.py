"""`loopwright ca ...`: the certificates of a fleet, and the keys of those who build code for it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from loopwright.cli.common import Output, OutputOption, answer, print_json

app = typer.Typer(
    help="Make the certificates of a fleet.", no_args_is_help=True, rich_markup_mode=None
)
FolderArgument = Annotated[Path, typer.Argument(help="The authority's folder.")]


@app.command("init")
def init_ca(
    folder: FolderArgument,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A host or IP address that the tracker is reached by."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an authority in FOLDER, and with --name the tracker's certificate too."""
    from loopwright.fleet.security.authority import init, issue_server

    made = {"authority": init(folder, _now()).certificate}
    if name:
        made["server"] = issue_server(folder, name, _now()).certificate
    if output is Output.JSON:
        print_json({kind: str(path) for kind, path in made.items()})
        return
    typer.echo(f"{made['authority']}: give it to agents and clients (--ca, LOOPWRIGHT_CA)")
    if name:
        typer.echo(
            f"{made['server']}: for {', '.join(name)}; serve with: loopwright tracker serve "
            f"--listen tls://0.0.0.0:7070 --tls-dir {folder}"
        )
    else:
        typer.echo(f"next, the tracker's certificate: loopwright ca issue {folder} HOST")


@app.command("issue")
def issue_certificate(
    folder: FolderArgument,
    name: Annotated[
        list[str], typer.Argument(help="Hosts or IP addresses it is for; a client has one name.")
    ],
    *,
    client: Annotated[bool, typer.Option("--client", help="For a client, not a server.")] = False,
    file: Annotated[str, typer.Option("--file", help="What a server's files are called.")] = (
        "server"
    ),
    output: OutputOption = Output.TEXT,
) -> None:
    """Issue a certificate, good for 397 days. A new one takes the place of the old."""
    from loopwright.errors import ConfigError
    from loopwright.fleet.security.authority import issue_client, issue_server

    if client and len(name) != 1:
        raise ConfigError("a client's certificate has one name")
    made = (
        issue_client(folder, name[0], _now())
        if client
        else issue_server(folder, name, _now(), file=file)
    )
    shown = {"certificate": str(made.certificate), "key": str(made.key)}
    next_step = (
        f": LOOPWRIGHT_CERT={made.certificate} takes the place of a token of {name[0]}, where the "
        f"tracker has --client-ca {folder / 'ca.crt'}"
    )
    answer(output, shown, lambda: f"{made.certificate} and {made.key}{next_step if client else ''}")


@app.command("builder")
def make_builder(
    name: Annotated[str, typer.Argument(help="Whose code it signs: a person or a service.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write [NAME.builder].")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a builder's pair of keys, for devices that run signed code only.

    The secret one goes to a file of mode 0600; standard output has the public one alone.
    """
    from loopwright.fleet.security import signing

    path = out or Path(f"{name}.builder")
    builder = signing.make_builder()
    signing.save_builder(path, builder)
    public = signing.show_public(builder.public)
    if output is Output.JSON:
        print_json({"secret": str(path), "public": public})
        return
    typer.echo(
        f"{path} is the secret key of {name}: tune with --sign {path} (LOOPWRIGHT_SIGN); on each "
        "board: loopwright device serve ... --signed-only --builder KEY, with this public KEY:",
        err=True,
    )
    typer.echo(public)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)

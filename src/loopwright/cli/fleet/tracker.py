"""`loopwright tracker serve|status`: run a tracker, and see its state."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from loopwright.cli.common import Output, OutputOption, answer, settings_of
from loopwright.cli.fleet.connect import CaOption, FleetOption, TokenOption, ask, where
from loopwright.errors import ConfigError

if TYPE_CHECKING:
    from loopwright.fleet.tracker.config import TrackerConfig
    from loopwright.fleet.tracker.serve import ServeOptions, Serving

app = typer.Typer(
    help="Run a tracker, and see its state.", no_args_is_help=True, rich_markup_mode=None
)
DEFAULT_STORE = "sqlite:///loopwright-tracker.db"


ClientCaOption = Annotated[
    Path | None,
    typer.Option(
        "--client-ca",
        help="Certificate of the authority whose clients may come with their own in place of a "
        "token, as DIR/ca.crt.",
    ),
]
TenantOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        metavar="NAME:QUOTA",
        help="What one may hold, as ci:max_leases=4,max_queued=100,weight=2; again for others; "
        "* is all that are not named. Goes before --config.",
    ),
]
RoleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="NAME:LIMITS",
        help="What one may ask for, as user:max_class=interactive,max_ttl_s=600,"
        "max_lease_s=7200, again for others; --tenant takes the same. The lower counts. "
        "[user:max_class=normal]",
    ),
]


@app.command("serve")
def serve(
    context: typer.Context,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            "--listen",
            help="Where, as tls://0.0.0.0:7070 or tcp://127.0.0.1:7070, again for several; "
            "this user's own socket by itself.",
        ),
    ] = None,
    store: Annotated[
        str,
        typer.Option("--store", help="Where its state is: sqlite:///FILE or postgresql://..."),
    ] = DEFAULT_STORE,
    tls_dir: Annotated[
        Path | None, typer.Option("--tls-dir", help="Folder of `loopwright ca init`, for tls://.")
    ] = None,
    client_ca: ClientCaOption = None,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            help="Serve the dashboard, JSON and metrics too, as http://127.0.0.1:7080 or "
            "https://0.0.0.0:7080 (extra [server]).",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="Where the first start writes its admin token."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Quotas of tenants and limits of roles, as TOML: [tenant], [tenants.NAME], "
            "[role.user].",
        ),
    ] = None,
    tenant: TenantOption = None,
    role: RoleOption = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Write JSON lines to this file; - for stderr.")
    ] = None,
) -> None:
    """Run a tracker until it is told to stop (SIGTERM, Ctrl-C).

    The first start shows an admin token once; the user who runs the tracker needs none over its
    socket.
    """
    from loopwright.fleet.tracker.serve import ServeOptions

    at = tuple(listen) if listen else (_own(context),)
    made = _config(config, tenant or (), role or ())
    options = ServeOptions(
        listen=at, store=store, config=made, ca=tls_dir, client_ca=client_ca, token_file=token_file
    )
    _run(options, http, log)


def _config(file: Path | None, tenants: Sequence[str], roles: Sequence[str]) -> TrackerConfig:
    from loopwright.fleet.book.config import BookConfig
    from loopwright.fleet.tracker.config import TrackerConfig
    from loopwright.fleet.tracker.quotas import with_quotas

    return TrackerConfig(book=with_quotas(BookConfig(), file, tenants, roles))


def _own(context: typer.Context) -> str:
    """This user's own socket, in a folder that is there."""
    settings = settings_of(context)
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    return settings.own_tracker


def _run(options: ServeOptions, http: str | None, log: Path | None) -> None:
    import contextlib

    import numpy as np

    from loopwright.fleet.tracker.serve import run
    from loopwright.fleet.tracker.serve import serve as serve_tracker

    with contextlib.ExitStack() as stack:
        lines = None
        if log is not None:
            lines = sys.stderr if str(log) == "-" else stack.enter_context(_open(log))
        front = None
        if http is not None:
            from loopwright.serving.server import HttpServer

            front = stack.enter_context(HttpServer(http, options.ca))

        def ready(serving: Serving) -> None:
            _announce(serving, options)
            if front is not None:
                from loopwright.fleet.tracker.http_app import serve as serve_http

                serve_http(front, serving.tracker)
                typer.echo(f"dashboard, JSON and metrics: {front.address}", err=True)

        async def work() -> None:
            try:
                rng = np.random.default_rng()
                await serve_tracker(options, rng=rng, log=lines, ready=ready)
            finally:
                if front is not None:
                    await front.stop()

        run(work())


def _open(log: Path) -> TextIO:
    try:
        return log.open("a")
    except OSError as error:
        raise ConfigError(f"the log {log} cannot be written: {error.strerror}") from error


def _announce(serving: Serving, options: ServeOptions) -> None:
    for address in serving.addresses:
        typer.echo(f"{serving.tracker.config.name} listens on {address}", err=True)
    if not serving.admin_token:
        return
    if options.token_file is not None:
        typer.echo(f"the admin token is in {options.token_file}", err=True)
    else:
        typer.echo(f"the admin token, shown this once: {serving.admin_token}", err=True)


@app.command("status")
def status(
    context: typer.Context,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the state of a tracker."""
    from loopwright.cli.fleet.query import status_of
    from loopwright.cli.fleet.summary import status_pairs
    from loopwright.cli.fleet.text import fields

    place = where(context, fleet, token, ca)
    found = ask(place, status_of)
    shown = {"fleet": place.url, **found}
    answer(output, shown, lambda: fields(status_pairs(place.url, found)))

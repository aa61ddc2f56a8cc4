"""The command `loopwright`: its commands, and how it ends.

Errors are one line on standard error. The exit code is that of the error's class: 2 for what the
user can mend, 69 for the machine's failures, 70 for a bug of ours, 130 when interrupted.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from loopwright.cli import records
from loopwright.cli.bench import bench
from loopwright.cli.common import Session
from loopwright.cli.doctor import doctor
from loopwright.cli.export import export
from loopwright.cli.fleet import device, lease, people, tracker
from loopwright.cli.fleet.audit import audit
from loopwright.cli.fleet.top import top
from loopwright.cli.optimize import optimize
from loopwright.cli.plot import plot
from loopwright.cli.report_page import report
from loopwright.cli.run import profile, run
from loopwright.cli.tasks import tasks
from loopwright.cli.tune import tune
from loopwright.errors import InternalError, LoopwrightError
from loopwright.version import __version__

app = typer.Typer(
    name="loopwright",
    help="Learns to write fast tensor programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(tasks)
app.command()(tune)
app.command()(optimize)
app.command()(run)
app.command()(profile)
app.command()(report)
app.command()(export)
app.command()(bench)
app.add_typer(records.app, name="records")
app.command()(plot)
app.command()(doctor)
app.add_typer(tracker.app, name="tracker")
app.add_typer(device.app, name="device")
app.add_typer(lease.app, name="lease")
app.command()(top)
app.command()(audit)
app.add_typer(people.tokens, name="token")
app.add_typer(people.joins, name="join")
app.add_typer(people.agents, name="agent")
app.add_typer(people.authority, name="ca")


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"loopwright {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the whole traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Learns to write fast tensor programs."""
    del version
    session = context.find_object(Session)
    if session is not None:
        session.traceback = session.traceback or traceback


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default); the exit code."""
    session: Session | None = None
    try:
        session = Session()
        session.traceback = session.settings.traceback
        app(args=argv, obj=session, prog_name="loopwright")
    except LoopwrightError as error:
        _tell(str(error), session)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  # the process boundary: nothing is above
        what = f"{type(error).__name__}: {error}"
        _tell(f"a bug of ours, please report it with what --traceback shows: {what}", session)
        return InternalError.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    return 0


def _tell(message: str, session: Session | None) -> None:
    """Write `message` as one line, after the traceback if that was asked for."""
    if session is not None and session.traceback:
        traceback.print_exc()
    print(f"loopwright: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201  # typer may be broken


if __name__ == "__main__":
    sys.exit(main())

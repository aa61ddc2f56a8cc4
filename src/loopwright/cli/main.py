"""The command `loopwright`: its commands, and how it ends.

Errors are one line on standard error. The exit code is that of the error's class: 2 for what the
user can mend, 69 for the machine's failures, 70 for a bug in Loopwright, 130 when interrupted.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from loopwright.cli.common import CommandState
from loopwright.errors import InternalError, LoopwrightError
from loopwright.version import __version__

_HELP = ("-h", "--help")
_COMMANDS = {
    "tasks": ("tasks", "tasks"),
    "tune": ("tune", "tune"),
    "lower": ("lower", "lower"),
    "optimize": ("optimize", "optimize"),
    "run": ("run", "run"),
    "profile": ("run", "profile"),
    "report": ("report", "report"),
    "export": ("export", "export"),
    "bench": ("bench", "bench"),
    "records": ("records", "app"),
    "plot": ("plot", "plot"),
    "doctor": ("doctor", "doctor"),
    "tracker": ("fleet.tracker", "app"),
    "device": ("fleet.device", "app"),
    "lease": ("fleet.lease", "app"),
    "top": ("fleet.top", "top"),
    "audit": ("fleet.audit", "audit"),
    "token": ("fleet.access", "tokens"),
    "join": ("fleet.access", "joins"),
    "agent": ("fleet.access", "agents"),
    "ca": ("fleet.ca", "app"),
}
"""Each command: its module in this package, and its function or the Typer of its own commands."""


def application(names: Iterable[str] = tuple(_COMMANDS)) -> typer.Typer:
    """The command `loopwright` with the commands `names`.

    Given one, it imports and describes no other.
    """
    app = typer.Typer(
        name="loopwright",
        help="Learns to write fast tensor programs.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": list(_HELP)},
        callback=options,
    )
    for name in names:
        module, attribute = _COMMANDS[name]
        found = getattr(importlib.import_module(f"loopwright.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _named(arguments: Sequence[str]) -> Iterable[str]:
    """Only the command that is asked for; all, when help or a mistake may need them."""
    for word in arguments:
        if word in _HELP:
            break
        if not word.startswith("-"):
            return (word,) if word in _COMMANDS else _COMMANDS
    return _COMMANDS


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"loopwright {__version__}")
        raise typer.Exit


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
    state = context.find_object(CommandState)
    if state is not None:
        state.traceback = state.traceback or traceback


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default); the exit code."""
    state: CommandState | None = None
    try:
        state = CommandState()
        state.traceback = state.settings.traceback
        words = sys.argv[1:] if argv is None else argv
        application(_named(words))(args=words, obj=state, prog_name="loopwright")
    except LoopwrightError as error:
        _tell(str(error), state)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  # the process boundary: nothing is above
        what = f"{type(error).__name__}: {error}"
        _tell(
            f"a bug in Loopwright; please report it, with what --traceback shows: {what}",
            state,
        )
        return InternalError.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    return 0


def _tell(message: str, state: CommandState | None) -> None:
    """Write `message` as one line, after the traceback if that was asked for."""
    if state is not None and state.traceback:
        traceback.print_exc()
    print(f"loopwright: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201  # typer may be broken


if __name__ == "__main__":
    sys.exit(main())

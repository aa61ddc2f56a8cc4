"""Starting an agent: `device serve` replaces its process with one of an agent's imports only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from loopwright.errors import EnvironmentFailure
from loopwright.settings import Settings

_MODULE = "loopwright.fleet.agent"


def agent_command(arguments: Sequence[str], settings: Settings) -> list[str]:
    """The command line of the agent: what was given, and what the settings say where it was not."""
    given = list(arguments)
    asked_for_help = any(word in ("-h", "--help") for word in given)
    if not asked_for_help:
        if not _has(given, "--tracker"):
            given += ["--tracker", settings.tracker or settings.own_tracker]
        if settings.ca is not None and not _has(given, "--ca"):
            given += ["--ca", str(settings.ca)]
    return [sys.executable, "-P", "-m", _MODULE, *given]


def become_agent(
    arguments: Sequence[str],
    settings: Settings,
    replace: Callable[[str, list[str]], NoReturn] = os.execv,
) -> NoReturn:
    """Replace this process with an agent, which holds none of the command line's imports.

    Raises: EnvironmentFailure when that is not possible.
    """
    command = agent_command(arguments, settings)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        replace(command[0], command)
    except OSError as error:
        raise EnvironmentFailure(f"{command[0]} cannot be started: {error.strerror}") from error


def _has(arguments: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in arguments)

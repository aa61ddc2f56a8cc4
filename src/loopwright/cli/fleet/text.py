"""How the commands about a fleet write: columns, durations, and the state of things in a word."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from loopwright.cli.common import parse_duration
from loopwright.errors import ConfigError

if TYPE_CHECKING:
    from loopwright.fleet.views import DeviceView, LeaseView

_DAY_S = 86_400
_GAP = "  "
STATE_COLOURS = {
    "free": "green",
    **dict.fromkeys(("active", "reserved", "granted"), "cyan"),
    **dict.fromkeys(("queued", "releasing", "cleaning", "probed", "being", "draining"), "yellow"),
    **dict.fromkeys(("drifting", "silent", "not"), "yellow"),
    "quarantined": "magenta",
    **dict.fromkeys(("lost", "bad", "stuck"), "red"),
}
"""The colour of a state that begins with the word, as typer and rich name it."""


def columns(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, coloured: int | None = None
) -> str:
    """`rows` under `names`, in columns as wide as they need to be; the last one is not filled up.

    Made for tens of thousands of rows. The column `coloured` is painted by its first word when
    standard output is a terminal.
    """
    table = [tuple(names), *(tuple(row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    paint = coloured is not None and sys.stdout.isatty()
    lines: list[str] = []
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if paint and number and coloured is not None:
            cells[coloured] = painted(cells[coloured])
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines)


def painted(text: str) -> str:
    """`text` in the colour of the state that it begins with."""
    colour = STATE_COLOURS.get(first_word(text))
    return text if colour is None else typer.style(text, fg=colour)


def first_word(state: str) -> str:
    """The word that a state begins with."""
    return state.split(":", 1)[0].split(",", 1)[0].split(" ", 1)[0]


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one a line; those without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}{_GAP}{value}" for name, value in shown)


def device_state(view: DeviceView) -> str:
    """Whether a device is available, in a word and a reason."""
    if view.grantable:
        return "free"
    if view.lease:
        marked = "" if view.admin == "enabled" else f", then {view.admin}"
        return f"{view.occupancy}{marked}"
    return view.kept or "not free"


def device_kind(labels: Mapping[str, str]) -> str:
    """What a device is: its board, or its kind and architecture."""
    board = labels.get("board")
    if board:
        return board
    return " ".join(filter(None, (labels.get("kind", ""), labels.get("arch", ""))))


def labels_text(labels: Mapping[str, str], *, but: Sequence[str] = ()) -> str:
    """Labels as a selector spells them."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()) if key not in but)


def lease_place(view: LeaseView) -> str:
    """The device of a lease, or what a request asks for."""
    if view.device:
        return view.device
    wanted = view.selector or "any"
    return f"{view.count} of {wanted}" if view.count > 1 else wanted


def lease_left(view: LeaseView) -> str:
    """How long a lease has before it must be renewed, or how long a request waits."""
    if view.state == "queued":
        return f"waits {duration(view.waited_s)}, gives up in {duration(view.gives_up_s)}"
    away = ", holder away" if view.away_s else ""
    return f"{duration(view.age_s)} old, {duration(view.expires_s)} left{away}"


def duration(seconds: float) -> str:
    """A duration for a person: 0.4s, 12s, 3m20s, 2h05m, 3d04h."""
    if seconds < 0:
        return "0s"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < _DAY_S:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // 3600:02d}h"


def parse_days(text: str) -> float:
    """Seconds of a duration such as `30d`, or any that `parse_duration` reads.

    Raises: ConfigError for anything else.
    """
    days, found, rest = text.strip().partition("d")
    if not found:
        return parse_duration(text)
    try:
        seconds = float(days) * _DAY_S
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{text!r} is not a duration; write 30d, 12h or 90s")
    return seconds + (parse_duration(rest) if rest else 0.0)


def clock_time(at: float) -> str:
    """A wall time in this machine's zone, to the second."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))

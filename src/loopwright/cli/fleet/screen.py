"""The picture of `loopwright top` on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loopwright.cli.fleet.audit import line_of
from loopwright.cli.fleet.summary import FleetScene, count, devices_line, figures_of, leases_line
from loopwright.cli.fleet.text import (
    STATE_COLOURS,
    device_kind,
    device_state,
    first_word,
    labels_text,
    lease_left,
    lease_place,
)
from loopwright.fleet.views import DeviceView, LeaseView

_HEAD_LINES = 4
_TABLE_LINES = 3  # a blank line, the names, the rule
_LEAST_ROWS = 3
_RANK = {"active": 1, "reserved": 1, "free": 2}


class Screen:
    """Shows each scene in place of the last until closed; then what was there before is back."""

    def __init__(self, url: str, console: Console | None = None) -> None:
        self._url = url
        self._console = Console(highlight=False) if console is None else console
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, scene: FleetScene) -> None:
        """Show `scene` in place of the one before."""
        if not self._live.is_started:
            self._live.start()  # not before there is something to show: errors come first
        size = self._console.size
        self._live.update(picture(self._url, scene, size.height, size.width), refresh=True)


def picture(url: str, scene: FleetScene, height: int, width: int) -> RenderableType:
    """`scene` as it fits into so many lines."""
    parts: list[RenderableType] = [_head(url, scene)]
    leases = sorted(scene.leases, key=lambda view: (view.state != "queued", view.id))
    room = height - _HEAD_LINES - 2 * _TABLE_LINES - len(scene.events) - 1
    lease_rows = min(len(leases), max(_LEAST_ROWS, room // 3)) or 1
    device_rows = max(_LEAST_ROWS, room - lease_rows)
    parts += [Text(), _devices(scene.devices, device_rows), Text(), _leases(leases, lease_rows)]
    if scene.events and height > 2 * _TABLE_LINES + 3 * _LEAST_ROWS:
        parts.append(_events(scene, width))
    return Group(*parts)


def _head(url: str, scene: FleetScene) -> RenderableType:
    status = scene.status
    clock = time.strftime("%H:%M:%S")
    head = Text(f"{url}  epoch {count(status, 'epoch')}  {clock}  ", "bold", no_wrap=True)
    if scene.away:
        head.append(scene.away, "bold red")
    elif status.get("read_only"):
        head.append(f"READ-ONLY: {status['read_only']}", "bold red")
    else:
        head.append("Ctrl-C ends", "dim")
    lines = [
        head,
        Text(
            f"devices {devices_line(figures_of(scene.devices))}", no_wrap=True, overflow="ellipsis"
        ),
        Text(f"leases  {leases_line(status)}", no_wrap=True, overflow="ellipsis"),
    ]
    return Group(*lines)


def _devices(devices: Sequence[DeviceView], rows: int) -> Table:
    """What needs looking at first, then what is in use, then what is free."""
    states = [(device_state(view), view) for view in devices]
    states.sort(key=lambda pair: (_RANK.get(first_word(pair[0]), 0), pair[1].name))
    names = ("DEVICE", "STATE", "KIND", "LEASE", "DRIFT")
    table = _table(names, len(states) - rows, "devices")
    for state, view in states[:rows]:
        table.add_row(
            Text(view.name),
            _styled(state),
            Text(device_kind(view.labels)),
            Text(view.lease or "-"),
            Text(f"{view.drift:+.1%}"),
        )
    return table


def _leases(leases: Sequence[LeaseView], rows: int) -> Table:
    names = ("LEASE", "STATE", "ON", "TENANT", "FOR", "TIME")
    table = _table(names, len(leases) - rows, "leases")
    for view in leases[:rows]:
        table.add_row(
            Text(view.id),
            _styled(view.state),
            Text(lease_place(view)),
            Text(view.tenant),
            Text(labels_text(view.tags) or "-"),
            Text(lease_left(view)),
        )
    if not leases:
        table.add_row(Text("none", "dim"))
    return table


def _events(scene: FleetScene, width: int) -> RenderableType:
    lines = [Text()]
    for event in scene.events:
        text = line_of(event).partition(" ")[2]  # without the day
        line = Text(text, "dim", no_wrap=True, overflow="ellipsis")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Group(*lines)


def _table(names: Sequence[str], hidden: int, what: str) -> Table:
    """An empty table that says how many of `what` it does not show."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        header_style="bold",
        caption=f"and {hidden} more {what}" if hidden > 0 else None,
        caption_justify="left",
    )
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _styled(state: str) -> Text:
    return Text(state, STATE_COLOURS.get(first_word(state), ""))

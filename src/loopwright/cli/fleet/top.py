"""`loopwright top`: a fleet as it is now, again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import Output, OutputOption
from loopwright.cli.fleet.connect import CaOption, FleetOption, TokenOption, Where, where
from loopwright.cli.fleet.summary import FleetScene
from loopwright.errors import FleetError

if TYPE_CHECKING:
    from loopwright.fleet.client.control import Control

_EVENTS = 8
_HISTORY_S = 600.0
_LOOK_S = 5.0
_SHARE = 10  # a look takes at most one part in so many of the time


def top(
    context: typer.Context,
    selector: Annotated[str, typer.Argument(help="Only the devices that match.")] = "",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    count: Annotated[int, typer.Option(min=0, help="How many looks; 0 until Ctrl-C.")] = 0,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Watch a fleet: a live table on a terminal, a line a look elsewhere. Ctrl-C ends it."""
    import asyncio

    place = where(context, fleet, token, ca)
    if output is Output.TEXT and sys.stdout.isatty():
        from loopwright.cli.fleet.screen import Screen

        with Screen(place.url) as screen:
            asyncio.run(_watch(place, selector, every, count, screen.show))
        return
    show = _show_json if output is Output.JSON else _show_line
    asyncio.run(_watch(place, selector, every, count, show))


async def _watch(
    place: Where, selector: str, every: float, looks: int, show: Callable[[FleetScene], None]
) -> None:
    """Show a scene every so often, `looks` times or until told to stop."""
    import asyncio
    import signal

    from loopwright.cli.fleet.connect import connect

    me, loop = asyncio.current_task(), asyncio.get_running_loop()
    if me is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, me.cancel)
    control: Control | None = None
    try:
        control = await connect(place)
        scene = FleetScene({})
        done = 0
        while True:
            began = time.monotonic()
            scene = await _look(control, selector, scene)
            show(scene)
            done += 1
            if done == looks:
                return
            took = time.monotonic() - began
            await asyncio.sleep(max(every - took, _SHARE * took))
    except asyncio.CancelledError:
        return  # told to stop
    finally:
        if control is not None:
            await control.close()


async def _look(control: Control, selector: str, before: FleetScene) -> FleetScene:
    """What there is now; what there was before when the tracker is away."""
    import asyncio
    from dataclasses import replace

    from loopwright.cli.fleet.audit import events_since
    from loopwright.cli.fleet.query import (
        devices_of,
        events_page,
        leases_of,
        some_devices,
        status_of,
    )

    try:
        async with asyncio.timeout(_LOOK_S):
            status = await status_of(control)
            first = not before.status  # a selector that means nothing is told at once
            devices = await (some_devices if first else devices_of)(control, selector)
            leases = await leases_of(control)
            if before.events:
                new = list(await events_page(control, before.events[-1].id))
            else:
                new = await events_since(control, time.time() - _HISTORY_S)
    except TimeoutError:
        return replace(before, away="the tracker does not answer")
    except FleetError as error:
        if not error.retryable:
            raise
        return replace(before, away=str(error))
    return FleetScene(status, devices, leases, (*before.events, *new)[-_EVENTS:])


def _show_json(scene: FleetScene) -> None:
    import msgspec

    _print(msgspec.json.encode(scene).decode())


def _show_line(scene: FleetScene) -> None:
    from loopwright.cli.fleet.summary import devices_line, figures_of, leases_line

    if scene.away:
        line = scene.away
    else:
        devices = devices_line(figures_of(scene.devices))
        line = f"devices {devices}; leases {leases_line(scene.status)}"
        if scene.status.get("read_only"):
            line += f"; READ-ONLY: {scene.status['read_only']}"
    _print(f"{time.strftime('%H:%M:%S')}  {line}")


def _print(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()

"""`loopwright audit`: what happened, and who did it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import Output, OutputOption, answer
from loopwright.cli.fleet.connect import CaOption, FleetOption, TokenOption, ask, where

if TYPE_CHECKING:
    from loopwright.fleet.client.control import Control
    from loopwright.fleet.views import EventView

_SLACK = 256


def audit(
    context: typer.Context,
    since: Annotated[str, typer.Option("--since", help="How far back, as 1h or 7d.")] = "1h",
    subject: Annotated[
        str, typer.Option("--of", help="Only what is about this device, lease, agent or token.")
    ] = "",
    by: Annotated[str, typer.Option("--by", help="Only what this person or service did.")] = "",
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what happened in a fleet, oldest first."""
    import time

    from loopwright.cli.fleet.text import parse_days

    begin = time.time() - parse_days(since)
    place = where(context, fleet, token, ca)
    events = ask(place, lambda control: events_since(control, begin))
    found = [e for e in events if subject in ("", e.subject) and by in ("", e.by)]
    if found or output is Output.JSON:
        shown = {"fleet": place.url, "events": found}
        answer(output, shown, lambda: "\n".join(map(line_of, found)))


async def events_since(control: Control, begin: float) -> list[EventView]:
    """The events from the wall time `begin` on; the way there takes a few questions."""
    from loopwright.cli.fleet.query import events_page
    from loopwright.fleet.history import place_of

    async def first_after(number: int) -> float | None:
        page = await events_page(control, number)
        return page[0].at if page else None

    after = await place_of(begin, first_after, slack=_SLACK)
    found: list[EventView] = []
    while page := await events_page(control, after):
        found += [event for event in page if event.at >= begin]
        after = page[-1].id
    return found


def line_of(event: EventView) -> str:
    """An event on one line."""
    from loopwright.cli.fleet.text import clock_time

    by = f" by {event.by}" if event.by else ""
    told = event.detail.rstrip(": ")
    detail = f": {told}" if told else ""
    return f"{clock_time(event.at)}  {event.what} {event.subject}{by}{detail}"

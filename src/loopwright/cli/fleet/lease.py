"""`loopwright lease ...`: who has which device, who waits, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import Output, OutputOption, answer
from loopwright.cli.fleet.connect import CaOption, FleetOption, TokenOption, ask, where

if TYPE_CHECKING:
    from loopwright.fleet.client.control import Control
    from loopwright.fleet.views import ExplanationView, LeaseView

app = typer.Typer(
    help="See who has which device, who waits, and why.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DrainOption = Annotated[
    bool,
    typer.Option(
        "--drain",
        help="Do not lend its device again before `device enable`: it is yours. Needs the role "
        "operator.",
    ),
]
IdArgument = Annotated[str, typer.Argument(help="A lease or request, as `lease ls` names it.")]


@app.command("ls")
def ls(
    context: typer.Context,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the leases that live and the requests that wait."""
    from loopwright.cli.fleet.query import leases_of

    place = where(context, fleet, token, ca)
    found = ask(place, leases_of)
    shown = {"fleet": place.url, "leases": found}
    nothing = "no device is leased, and nobody waits"
    answer(output, shown, lambda: listed(found) if found else nothing)


def listed(found: tuple[LeaseView, ...]) -> str:
    """Leases, then requests, in columns."""
    from loopwright.cli.fleet.text import columns, labels_text, lease_left, lease_place

    return columns(
        ("ID", "STATE", "DEVICE OR SELECTOR", "TENANT", "FOR", "TIME"),
        [
            (v.id, v.state, lease_place(v), v.tenant, labels_text(v.tags) or "-", lease_left(v))
            for v in sorted(found, key=lambda v: (v.state == "queued", v.id))
        ],
        coloured=1,
    )


@app.command("show")
def show(
    context: typer.Context,
    name: IdArgument,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show all that is known of a lease or a request that waits."""
    from loopwright.cli.fleet.query import the_lease
    from loopwright.cli.fleet.text import duration, fields, labels_text, lease_left

    view = the_lease(where(context, fleet, token, ca), name)
    pairs = (
        ("id", view.id),
        ("state", view.state),
        ("ended", view.reason or ""),
        ("device", view.device),
        ("epoch", str(view.epoch) if view.epoch else ""),
        ("selector", view.selector or "any"),
        ("count", str(view.count) if view.count > 1 else ""),
        ("time", lease_left(view)),
        ("ends", "" if view.ends_s is None else f"in {duration(view.ends_s)} at the latest"),
        ("tenant", f"{view.tenant}{', over its quota' if view.over_quota else ''}"),
        ("client", view.client + (f", away for {duration(view.away_s)}" if view.away_s else "")),
        ("priority", _priority(view.priority)),
        ("request", view.request),
        ("agent", view.agent),
        ("for", labels_text(view.tags)),
    )
    answer(output, view, lambda: fields(pairs))


def _priority(number: int) -> str:
    from loopwright.fleet.words import Priority

    try:
        return Priority(number).name.lower()
    except ValueError:
        return str(number)


@app.command("explain")
def explain(
    context: typer.Context,
    name: IdArgument,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say why a request waits, how a lease stands, or why it ended."""
    import msgspec

    from loopwright.errors import ConfigError

    async def question(control: Control) -> ExplanationView | None:
        from loopwright.fleet.views import ExplanationView

        body, _ = await control.page("explain", name=name)
        return msgspec.json.decode(body, type=ExplanationView | None)

    found = ask(where(context, fleet, token, ca), question)
    if found is None:
        raise ConfigError(
            f"no lease or request {name!r} is known; see `loopwright lease ls`, or `loopwright "
            "audit` for those that ended long ago"
        )
    answer(output, found, lambda: _explained(found))


def _explained(found: ExplanationView) -> str:
    if found.state != "queued":
        return found.text
    ahead = f", {found.ahead} ahead of it" if found.ahead else ""
    return f"{found.subject} is queued: {found.text}{ahead}"


@app.command("revoke")
def revoke(
    context: typer.Context,
    name: IdArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why: its holder is told.")] = "",
    drain: DrainOption = False,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a lease away, or forget a request. One's own; others' with the role operator."""
    from loopwright.cli.fleet.query import command

    place = where(context, fleet, token, ca)
    wanted = "yes" if drain else ""
    done = command(place, "lease.revoke", lease=name, why=reason, drain=wanted)
    answer(output, done, lambda: f"{name}: revoked{_drained(done)}")


def _drained(done: object) -> str:
    """What a revocation has done to the device."""
    if not isinstance(done, dict) or not done.get("drained"):
        return ""
    device = done.get("device")
    return f"; {device} is drained: `loopwright device enable {device}` lends it again"

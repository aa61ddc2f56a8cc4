"""`loopwright device ...`: serve this machine's devices, and look after those of a fleet."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from loopwright.cli.common import Output, OutputOption, answer, print_json, settings_of
from loopwright.cli.fleet.connect import CaOption, FleetOption, TokenOption, Where, where

if TYPE_CHECKING:
    from loopwright.fleet.views import DeviceView

app = typer.Typer(
    help="Serve devices, and look after those of a fleet.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NameArgument = Annotated[str, typer.Argument(help="A device, as `device ls` names it.")]
WhyOption = Annotated[str, typer.Option("--reason", help="Why: shown to everyone who asks.")]


class Listing(enum.StrEnum):
    """How `device ls` writes."""

    TEXT = "text"
    WIDE = "wide"
    JSON = "json"


@app.command(
    "serve",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def serve(context: typer.Context) -> None:
    """Serve devices of this machine to a tracker (see `device serve --help`)."""
    from loopwright.cli.fleet.launch import become_agent

    become_agent(context.args, settings_of(context))


@app.command("ls")
def ls(
    context: typer.Context,
    selector: Annotated[
        str | None, typer.Argument(help="Which, as 'board=rpi4' or 'kind=cpu,arch in (x86_64)'.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--selector", "-l", help="The same as the argument.")
    ] = None,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: Annotated[
        Listing, typer.Option("--output", "-o", help="text, wide, or json for one JSON object.")
    ] = Listing.TEXT,
) -> None:
    """List the devices of a fleet. The exit code is 3 when a selector matches none."""
    from loopwright.cli.fleet.query import matching
    from loopwright.errors import ConfigError, NoDeviceError

    if selector and labels:
        raise ConfigError("a selector was given twice; join the terms with a comma")
    place = where(context, fleet, token, ca)
    try:
        found = matching(place, selector or labels or "")
    except NoDeviceError:
        if output is Listing.JSON:
            print_json({"fleet": place.url, "devices": []})
        raise
    if output is Listing.JSON:
        print_json({"fleet": place.url, "devices": found})
    elif not found:
        typer.echo(f"no device has registered at {place.url}; add one: loopwright device serve")
    else:
        typer.echo(_listed(found, wide=output is Listing.WIDE))


def _listed(found: tuple[DeviceView, ...], *, wide: bool) -> str:
    from loopwright.cli.fleet.text import columns, device_kind, device_state, labels_text

    if not wide:
        return columns(
            ("NAME", "STATE", "KIND", "LEASE"),
            [(v.name, device_state(v), device_kind(v.labels), v.lease or "-") for v in found],
            coloured=1,
        )
    names = ("NAME", "STATE", "LINK", "HEALTH", "ADMIN", "OCCUPANCY", "LEASE", "EPOCH", "DRIFT")
    return columns(
        (*names, "CORES", "TIER", "AGENT", "LABELS"),
        [
            (
                *(v.name, device_state(v), v.link, v.health, v.admin, v.occupancy, v.lease or "-"),
                *(str(v.epoch), f"{v.drift:+.1%}", str(len(v.cores)), f"T{v.tier}", v.agent),
                labels_text(v.labels, but=("name", "host", "target")),
            )
            for v in found
        ],
        coloured=1,
    )


@app.command("show")
def show(
    context: typer.Context,
    name: NameArgument,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show all that is known of a device."""
    from loopwright.cli.fleet.query import the_device
    from loopwright.cli.fleet.text import device_state, fields, labels_text

    view = the_device(where(context, fleet, token, ca), name)
    modules = ", ".join(f"{kind} {digest[:12]}" for kind, digest in sorted(view.modules.items()))
    pairs = (
        ("name", view.name),
        ("state", device_state(view)),
        ("reason", view.why),
        ("detail", view.detail),
        ("flapping", "two agents have it; stop one of them" if view.flapping else ""),
        ("link", view.link),
        ("health", f"{view.health}, canary {view.drift:+.1%}"),
        ("admin", view.admin),
        ("occupancy", view.occupancy),
        ("lease", view.lease),
        ("epoch", str(view.epoch)),
        ("agent", f"{view.agent} (incarnation {view.incarnation})" if view.agent else ""),
        ("target", view.target),
        ("device", view.device),
        ("cores", ",".join(map(str, view.cores))),
        ("sandbox", f"T{view.tier}"),
        ("addresses", ", ".join(view.addresses)),
        ("modules", modules),
        ("labels", labels_text(view.labels)),
    )
    answer(output, view, lambda: fields(pairs))


_Run: TypeAlias = Callable[..., None]


def _change(
    place: Where, what: str, name: str, output: Output, said: str, *, why: str = ""
) -> None:
    """Carry out a command on a device that is there."""
    from loopwright.cli.fleet.connect import ask
    from loopwright.cli.fleet.query import carry_out, need_device

    if TYPE_CHECKING:
        from loopwright.fleet.client.control import Control

    async def question(control: Control) -> object:
        await need_device(control, name)
        return await carry_out(control, what, device=name, why=why)

    answer(output, ask(place, question), lambda: f"{name}: {said}")


def _changer(what: str, said: str, doc: str) -> _Run:
    """A command that changes how a device is administered, with a reason if there is one."""

    def run(
        context: typer.Context,
        name: NameArgument,
        reason: WhyOption = "",
        fleet: FleetOption = None,
        token: TokenOption = None,
        ca: CaOption = None,
        output: OutputOption = Output.TEXT,
    ) -> None:
        _change(where(context, fleet, token, ca), what, name, output, said, why=reason)

    run.__doc__ = f"{doc} Needs the role operator."
    return run


_CHANGES = {
    "drain": (
        "draining; `device enable` ends it",
        "Let the lease in progress end, and begin no other.",
    ),
    "enable": ("enabled", "Lend a device again."),
    "retire": ("retired", "Take a device out of the fleet for good."),
}
for _name, (_said, _doc) in _CHANGES.items():
    app.command(_name)(_changer(f"device.{_name}", _said, _doc))


@app.command("quarantine")
def quarantine(
    context: typer.Context,
    name: NameArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why: shown to everyone who asks.")],
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a device out of use, and say why. Needs the role operator."""
    place = where(context, fleet, token, ca)
    said = f"quarantined: {reason}; `device enable` ends it"
    _change(place, "device.quarantine", name, output, said, why=reason)


@app.command("probe")
def probe(
    context: typer.Context,
    name: NameArgument,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have a device run its canary kernels as soon as it is free. Needs the role operator."""
    place = where(context, fleet, token, ca)
    _change(place, "device.probe", name, output, "to be probed; see `device show`")

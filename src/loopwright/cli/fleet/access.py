"""`loopwright token|join|agent ...`: who may connect to a fleet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeAlias

import typer

from loopwright.cli.common import Output, OutputOption, answer, print_json
from loopwright.cli.fleet.connect import CaOption, FleetOption, TokenOption, where

tokens = typer.Typer(
    help="Issue, list and revoke tokens.", no_args_is_help=True, rich_markup_mode=None
)
joins = typer.Typer(
    help="Issue and list codes with which agents join.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
agents = typer.Typer(help="List and revoke agents.", no_args_is_help=True, rich_markup_mode=None)
_Row: TypeAlias = dict[str, object]
TtlOption = Annotated[str | None, typer.Option("--ttl", help="How long it is good for, as 30d.")]


@tokens.command("issue")
def issue_token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose it is: a person or a service.")],
    role: Annotated[str, typer.Option(help="viewer, user, operator or admin.")] = "user",
    ttl: TtlOption = None,
    tenant: Annotated[str, typer.Option(help="Who shares devices [NAME].")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="POOL",
            help="Only for devices with the label pool=POOL; again for several.",
        ),
    ] = None,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Issue a token: standard output has it alone, and it is shown once. Needs the role admin.

    It is good for 30 days unless --ttl says otherwise, with `--ttl never` for ever.
    """
    from loopwright.cli.fleet.query import command

    place = where(context, fleet, token, ca)
    scopes = ",".join(scope or ())
    made = command(
        *(place, "token.issue"),
        name=name,
        role=role,
        tenant=tenant,
        scopes=scopes,
        ttl_s=_ttl(ttl, forever=True),
    )
    if output is Output.JSON:
        print_json(made)
        return
    found = _row(made)
    pools = f", pool {scopes}" if scopes else ""
    good = _expires(found["expires"])
    typer.echo(f"token {found['id']} of {name}, {role}{pools}, {good}", err=True)
    typer.echo(found["token"])


@tokens.command("ls")
def list_tokens(
    context: typer.Context,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List tokens, never their secrets. Needs the role admin."""
    from loopwright.cli.fleet.query import command

    made = command(where(context, fleet, token, ca), "token.ls")

    def cells(row: _Row) -> tuple[str, ...]:
        good = "revoked" if row["revoked"] else _expires(row["expires"])
        who = (str(row["id"]), str(row["name"]), str(row["tenant"]), str(row["role"]))
        return (*who, _joined(row["scopes"]) or "any", good)

    names = ("ID", "NAME", "TENANT", "ROLE", "POOLS", "GOOD")
    answer(output, {"tokens": made}, lambda: _table(names, map(cells, _rows(made))))


@tokens.command("revoke")
def revoke_token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="As `token ls` names it.")],
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Revoke a token: what is held with it ends at once, and its connections are closed."""
    from loopwright.cli.fleet.query import command

    made = command(where(context, fleet, token, ca), "token.revoke", id=name)
    answer(output, made, lambda: _revoked(name, _row(made)))


def _revoked(name: str, row: _Row) -> str:
    """What a revocation has done; a tracker of before ends no leases."""
    leases = row.get("leases")
    ended = f", ended {_joined(leases)}" if leases else ""
    return f"{name}: revoked, {row['closed']} connections closed{ended}"


@joins.command("issue")
def issue_code(
    context: typer.Context,
    agent: Annotated[str, typer.Option(help="Good for an agent of this name alone.")] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="KEY=VALUE that its devices get, whatever it says."),
    ] = None,
    ttl: TtlOption = None,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Issue a code with which one agent joins, within an hour unless --ttl says otherwise.

    Standard output has the code alone. Needs the role admin.
    """
    from loopwright.cli.fleet.query import command

    place = where(context, fleet, token, ca)
    labels = ",".join(label or ())
    made = command(place, "join.issue", agent=agent, labels=labels, ttl_s=_ttl(ttl))
    if output is Output.JSON:
        print_json(made)
        return
    found = _row(made)
    named = f" --name {agent}" if agent else ""
    named += " --ca ca.crt" if place.url.startswith("tls:") else ""
    typer.echo(
        f"good once, {_expires(found['expires'])}; on the device's host: loopwright device serve "
        f"--tracker {place.url}{named} --join CODE",
        err=True,
    )
    typer.echo(found["code"])


@joins.command("ls")
def list_codes(
    context: typer.Context,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List join codes, never their secrets. Needs the role admin."""
    from loopwright.cli.fleet.query import command

    made = command(where(context, fleet, token, ca), "join.ls")

    def cells(row: _Row) -> tuple[str, ...]:
        good = f"used by {row['used_by']}" if row["used_by"] else _expires(row["expires"])
        return (str(row["id"]), str(row["agent"] or "any"), good)

    names = ("ID", "FOR", "GOOD")
    answer(output, {"codes": made}, lambda: _table(names, map(cells, _rows(made))))


@agents.command("ls")
def list_agents(
    context: typer.Context,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the agents that joined."""
    from loopwright.cli.fleet.query import command

    made = command(where(context, fleet, token, ca), "agent.ls")

    def cells(row: _Row) -> tuple[str, ...]:
        there = "connected" if row["connected"] else "away"
        return (str(row["name"]), "revoked" if row["revoked"] else there, str(row["devices"]))

    names = ("NAME", "STATE", "DEVICES")
    answer(output, {"agents": made}, lambda: _table(names, map(cells, _rows(made))))


@agents.command("revoke")
def revoke_agent(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As `agent ls` names it.")],
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Revoke an agent's key. It may join again with a new code."""
    from loopwright.cli.fleet.query import command

    made = command(where(context, fleet, token, ca), "agent.revoke", agent=name)
    said = f"{name}: revoked; it may join again with a code of `loopwright join issue`"
    answer(output, made, lambda: said)


def _ttl(text: str | None, *, forever: bool = False) -> str:
    """Seconds as a command's argument has them; empty for the tracker's own choice."""
    from loopwright.cli.fleet.text import parse_days

    if text is None:
        return ""
    if forever and text in ("never", "0"):
        return "0"
    return str(parse_days(text))


def _row(made: object) -> _Row:
    return made if isinstance(made, dict) else {}


def _rows(made: object) -> list[_Row]:
    return made if isinstance(made, list) else []


def _joined(words: object) -> str:
    return ",".join(map(str, words)) if isinstance(words, list) else ""


def _expires(at: object) -> str:
    from loopwright.cli.fleet.text import clock_time

    if not isinstance(at, int | float):
        return "for ever"
    if at < time.time():
        return f"expired {clock_time(at)}"
    return f"until {clock_time(at)}"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    from loopwright.cli.fleet.text import columns

    found = tuple(rows)
    return columns(names, found) if found else "none"

"""How the commands about a fleet reach its tracker: where it is, who asks, and one question."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from loopwright.cli.common import settings_of
from loopwright.errors import AuthError, ConfigError, FleetError

if TYPE_CHECKING:
    from loopwright.fleet.client.control import Control
    from loopwright.fleet.security.handshake import Credential
    from loopwright.fleet.wire.link import Link

T = TypeVar("T")

FleetOption = Annotated[
    str | None,
    typer.Option(
        "--fleet",
        help="The tracker, as tls://lab:7070, tcp://127.0.0.1:7070 or unix:///run/t.sock; "
        "else this user's own [LOOPWRIGHT_TRACKER].",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", help="Who you are, or @FILE that holds it [LOOPWRIGHT_TOKEN]."),
]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", help="Certificate of the fleet's authority, for tls:// [LOOPWRIGHT_CA]."),
]


@dataclass(frozen=True, slots=True)
class Where:
    """A tracker, and who asks it. `chosen` tells a tracker that was named from the user's own."""

    url: str
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    chosen: bool = True
    cert: Path | None = None


def where(context: typer.Context, fleet: str | None, token: str | None, ca: Path | None) -> Where:
    """The tracker that the options name, else the settings, else this user's own.

    Raises: ConfigError for an address or a token's file that is not valid.
    """
    from loopwright.fleet.wire.address import parse

    settings = settings_of(context)
    chosen = fleet or settings.tracker
    url = str(parse(chosen or settings.own_tracker))
    who = _read_token(token or settings.token)
    return Where(url, who, ca or settings.ca, bool(chosen), settings.cert)


def ask(place: Where, question: Callable[[Control], Awaitable[T]]) -> T:
    """What `question` returns, asked over a connection of its own.

    Raises: FleetError when there is no tracker; AuthError when it refuses the caller; whatever
        the question raises.
    """
    import asyncio

    return asyncio.run(_ask(place, question))


async def _ask(place: Where, question: Callable[[Control], Awaitable[T]]) -> T:
    control = await connect(place)
    try:
        return await question(control)
    finally:
        await control.close()


async def connect(place: Where) -> Control:
    """A connection with the tracker at `place`, closed by the caller.

    Raises: FleetError, AuthError, ConfigError.
    """
    import secrets
    import time

    from loopwright.fleet.client.control import Control

    async def dial() -> Link:
        return await reach(place.url, place.ca, place.cert)

    control = Control(dial, credential(place), time.monotonic, secrets.SystemRandom().random)
    try:
        await control.start()
    except AuthError as error:
        raise AuthError(f"{place.url}: {_without(str(error), place.url)}") from error
    except FleetError as error:
        if error.retryable:
            raise FleetError(f"{error}; {_advice(place)}", retryable=True) from error
        raise
    return control


def credential(place: Where) -> Credential:
    """What is shown to the tracker: the token, the certificate, or what the kernel says."""
    from loopwright.fleet.security.handshake import Anonymous, ByCertificate, ByToken
    from loopwright.fleet.wire.address import Scheme, parse

    if place.token is not None:
        return ByToken(place.token)
    shown = place.cert is not None and parse(place.url).scheme is Scheme.TLS
    return ByCertificate() if shown else Anonymous()


async def reach(url: str, ca: Path | None, cert: Path | None = None) -> Link:
    """A link to the tracker or device at `url`; `cert` is shown to one that asks.

    Raises: FleetError; ConfigError for tls:// without an authority.
    """
    from loopwright.fleet.wire.address import Scheme, parse
    from loopwright.fleet.wire.link import dial

    if parse(url).scheme is not Scheme.TLS:
        return await dial(url)
    if ca is None:
        raise ConfigError(
            f"{url}: no certificate authority is trusted; give the fleet's ca.crt with --ca or "
            "LOOPWRIGHT_CA"
        )
    from loopwright.serving.tls import client_context, own_certificate

    own = None if cert is None else own_certificate(cert)
    return await dial(url, tls=client_context(ca, own))


def _read_token(text: str | None) -> str | None:
    if text is None or not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        found = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"the token cannot be read from {path}: {why}") from error
    if not found:
        raise ConfigError(f"{path} is empty, a token was expected in it")
    return found


def _advice(place: Where) -> str:
    if place.chosen and place.cert is not None and place.token is None:
        return f"see whether the tracker runs there, and takes {place.cert} (--client-ca)"
    if place.chosen:
        return "see whether the tracker runs there, and what is between"
    return (
        "start one with `loopwright tracker serve`, or say where it is with --fleet or "
        "LOOPWRIGHT_TRACKER"
    )


def _without(text: str, url: str) -> str:
    return text.removeprefix(f"{url}: ")

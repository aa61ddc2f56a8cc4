"""Who asks: the token in the header, or nobody where a server admits this machine without one.

A `Gate` knows the tokens; what it says of a caller (`Who`) is the server's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, Protocol, TypeVar

from fastapi import Header, Request

from loopwright.errors import AuthError
from loopwright.serving.places import is_loopback

Who = TypeVar("Who")
WhoSeen = TypeVar("WhoSeen", covariant=True)

Authorization = Annotated[str, Header(description="Bearer TOKEN", max_length=512)]
"""The header that `caller_of` reads, as a route declares it."""


class Gate(Protocol[WhoSeen]):
    """What a server knows of those who may ask."""

    def check(self, secret: str) -> WhoSeen:
        """Who has the token. Raises: AuthError for one that is not good."""

    def local(self) -> WhoSeen | None:
        """Who asks from this machine without a token; None when a token is needed."""

    def refused(self, host: str, error: AuthError) -> None:
        """Somebody at `host` was refused: to be counted and logged."""


@dataclass(frozen=True, slots=True)
class Caller(Generic[Who]):
    """Who asks. `allowed` says whether that still holds: a token may be revoked meanwhile."""

    who: Who
    allowed: Callable[[], bool]


def caller_of(request: Request, gate: Gate[Who], authorization: str) -> Caller[Who]:
    """Who asks, by the token of the header.

    Raises: AuthError, of which the gate was told.
    """
    host = request.client.host if request.client is not None else ""
    try:
        return _known(gate, request, host, authorization)
    except AuthError as error:
        gate.refused(host, error)
        raise


def _known(gate: Gate[Who], request: Request, host: str, authorization: str) -> Caller[Who]:
    scheme, _, text = authorization.strip().partition(" ")
    if not text:
        local = gate.local() if is_loopback(host) and _asked_locally(request) else None
        if local is not None:
            return Caller(local, lambda: True)
        raise AuthError("a token is needed here; send the header Authorization: Bearer ...")
    if scheme.lower() != "bearer":
        raise AuthError("only Authorization: Bearer TOKEN is understood")
    secret = text.strip()

    def allowed() -> bool:
        try:
            gate.check(secret)
        except AuthError:
            return False
        return True

    return Caller(gate.check(secret), allowed)


def _asked_locally(request: Request) -> bool:
    """Whether the page that asks, if it is one, was served under a name of this machine."""
    host = request.headers.get("host", "").rpartition(":")[0].strip("[]")
    return is_loopback(host)

"""What the HTTP front answers when it cannot do as asked: a status, a fixed word, a sentence.

400 bad-request   an argument, a selector or a body that is none
401 auth          no token, or one that is not good; `WWW-Authenticate` says what is wanted
403 forbidden     the role does not allow it
404 not-found     no device, lease, token, agent, command or page has that name
405 http          another method is wanted there
408, 413, 415     a body that does not come, is too large, or is not JSON
409 failed        it cannot be done as things are
503 store, busy   not now: the store cannot be written, or too many watch; `Retry-After` says when
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from loopwright.errors import (
    AuthError,
    ConfigError,
    FleetError,
    LoopwrightError,
    NoDeviceError,
    UnknownNameError,
)
from loopwright.fleet.store.rows import StoreError
from loopwright.fleet.wire.faults import Denied, Fault

_JSON = "application/json"
_RETRY_S = "5"
_SAID = {
    "400": "An argument, a selector or a body that is none.",
    "401": "No token, or one that is not good.",
    "403": "The role does not allow it.",
    "404": "There is nothing of that name.",
    "408": "The body did not come in time.",
    "409": "It cannot be done as things are.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "503": "Not now: the store cannot be written, or too many watch.",
}
KINDS = (LoopwrightError, RequestValidationError, HTTPException)
"""The exceptions that `answer` knows."""


class Words(msgspec.Struct, frozen=True):
    """What went wrong: a fixed word, and a sentence that says what to do."""

    code: str
    message: str


class Problem(msgspec.Struct, frozen=True):
    """An answer that is none."""

    error: Words


class BodyError(ConfigError):
    """A body that is no command; `status` says why to HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def busy() -> HTTPException:
    """What to raise when too many watch."""
    return HTTPException(503, "too many watch; try again later", {"Retry-After": _RETRY_S})


async def answer(_: Request, error: Exception) -> Response:
    """What went wrong, as JSON."""
    status, code, message = _what(error)
    body = msgspec.json.encode(Problem(Words(code, message)))
    return Response(body, status, _headers(status, error), media_type=_JSON)


def _headers(status: int, error: Exception) -> Mapping[str, str]:
    given = error.headers if isinstance(error, HTTPException) else None
    if given is not None:
        return given
    if status == 401:
        return {"WWW-Authenticate": 'Bearer realm="loopwright"'}
    return {"Retry-After": _RETRY_S} if status == 503 else {}


def _what(error: Exception) -> tuple[int, str, str]:
    match error:
        case Denied(fault=Fault.WRONG_ROLE | Fault.WRONG_SCOPE):
            return 403, "forbidden", str(error)
        case AuthError():
            return 401, "auth", str(error)
        case BodyError():
            return error.status, "bad-request", str(error)
        case ConfigError():
            return 400, "bad-request", str(error)
        case NoDeviceError() | UnknownNameError():
            return 404, "not-found", str(error)
        case StoreError():
            return 503, "store", str(error)
        case FleetError():
            return 409, "failed", str(error)
        case RequestValidationError():
            said = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
            return 400, "bad-request", said
        case HTTPException():
            code = {404: "not-found", 503: "busy"}.get(error.status_code, "http")
            return error.status_code, code, str(error.detail)
        case _:
            return 500, "internal", type(error).__name__


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route answers when it cannot do as asked, for the OpenAPI page."""
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {n: {"description": _SAID[str(n)], "content": content} for n in statuses}

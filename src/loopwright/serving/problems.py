"""What an HTTP server answers when it cannot do as asked: a status, a fixed word, a sentence.

400 bad-request   an argument or a body that is not valid
401 auth          no token, or one that is not good; `WWW-Authenticate` says what is wanted
403 forbidden     the caller may not do that
404 not-found     nothing has that name
405 http          another method is wanted there
408, 413, 415     a body that does not come, is too large, or is not JSON
409 failed        it cannot be done as things are
503 busy, ...     not now; `Retry-After` says when

A server names the errors of its own with `Known`, which is asked first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

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

JSON = "application/json"
FORBIDDEN = (403, "forbidden")
_RETRY_S = "5"
_SAID = {
    400: "An argument, a selector or a body that is not valid.",
    401: "No token, or one that is not good.",
    403: "The role does not allow it.",
    404: "There is nothing of that name.",
    408: "The body did not come in time.",
    409: "It cannot be done as things are.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    503: "Not now: the store cannot be written, or too many watch.",
}
KINDS = (LoopwrightError, RequestValidationError, HTTPException)
"""The exceptions that become answers."""

Known: TypeAlias = Callable[[Exception], tuple[int, str] | None]
"""The status and the word for an error that a server knows better; None leaves it to the rest."""
Handler: TypeAlias = Callable[[Request, Exception], Awaitable[Response]]


class Words(msgspec.Struct, frozen=True):
    """What went wrong: a fixed word, and a sentence that says what to do."""

    code: str
    message: str


class Problem(msgspec.Struct, frozen=True):
    """The answer to what cannot be done."""

    error: Words


class BodyError(ConfigError):
    """A body that cannot be used; `status` says why to HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def busy() -> HTTPException:
    """What to raise when too many watch."""
    return HTTPException(503, "too many watch; try again later", {"Retry-After": _RETRY_S})


def handler(known: Known) -> Handler:
    """Answers an exception of `KINDS` with what went wrong, as JSON."""

    async def answer(_: Request, error: Exception) -> Response:
        code = known(error)
        status, word = _status(error) if code is None else code
        body = msgspec.json.encode(Problem(Words(word, _sentence(error))))
        return Response(body, status, _headers(status, error), media_type=JSON)

    return answer


def _headers(status: int, error: Exception) -> Mapping[str, str]:
    given = error.headers if isinstance(error, HTTPException) else None
    if given is not None:
        return given
    if status == 401:
        return {"WWW-Authenticate": 'Bearer realm="loopwright"'}
    return {"Retry-After": _RETRY_S} if status == 503 else {}


def _status(error: Exception) -> tuple[int, str]:
    match error:
        case AuthError():
            return 401, "auth"
        case BodyError():
            return error.status, "bad-request"
        case ConfigError() | RequestValidationError():
            return 400, "bad-request"
        case NoDeviceError() | UnknownNameError():
            return 404, "not-found"
        case FleetError():
            return 409, "failed"
        case HTTPException():
            return error.status_code, {404: "not-found", 503: "busy"}.get(error.status_code, "http")
        case _:
            return 500, "internal"


def _sentence(error: Exception) -> str:
    match error:
        case RequestValidationError():
            return "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
        case HTTPException():
            return str(error.detail)
        case _:
            return str(error) if _status(error)[0] != 500 else type(error).__name__


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route answers when it cannot do as asked, for the OpenAPI page."""
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {n: {"description": _SAID[n], "content": content} for n in statuses}

"""What a client has sent to a tracker that was not answered yet, and the errors that answer it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from loopwright.errors import (
    AuthError,
    ConfigError,
    FleetError,
    NoDeviceError,
    QueueTimeoutError,
    UnknownNameError,
)
from loopwright.fleet.wire.messages import (
    Acquire,
    Answer,
    Ask,
    Command,
    Done,
    Grant,
    Refused,
    Release,
    Renew,
    Renewed,
)
from loopwright.fleet.words import ErrorCode, Refusal

OnQueued: TypeAlias = Callable[[int, str], None]


@dataclass(slots=True)
class PendingRequest:
    """A request for devices that was not answered yet; `until` is when it is given up."""

    message: Acquire
    until: float
    future: asyncio.Future[tuple[Grant, ...]]
    on_queued: OnQueued


@dataclass(slots=True)
class PendingRenewal:
    """A renewal, and when it was sent, by the clock of this client."""

    message: Renew
    future: asyncio.Future[tuple[Renewed, float]]
    sent_at: float = 0.0


@dataclass(slots=True)
class PendingQuestion:
    """A question or command; `sent` on the connection that is there now."""

    message: Ask | Command
    future: asyncio.Future[Answer | Done]
    sent: bool = False


@dataclass(slots=True)
class Pending:
    """What the tracker has not answered yet."""

    requests: dict[str, PendingRequest] = field(default_factory=dict)
    renewals: dict[str, PendingRenewal] = field(default_factory=dict)
    releases: dict[str, Release] = field(default_factory=dict)
    questions: dict[int, PendingQuestion] = field(default_factory=dict)


def fail(
    future: asyncio.Future[tuple[Grant, ...]]
    | asyncio.Future[tuple[Renewed, float]]
    | asyncio.Future[Answer | Done],
    error: FleetError,
) -> None:
    """Answer with `error`, unless it was answered."""
    if not future.done():
        future.set_exception(error)


def new_request_id() -> str:
    """An id that no other request has."""
    return f"r{secrets.token_hex(8)}"


def failure_of(code: str, detail: str) -> FleetError | ConfigError:
    """The exception that an Error message stands for."""
    match kind := ErrorCode(code):
        case ErrorCode.AUTH | ErrorCode.FORBIDDEN:
            return AuthError(detail)
        case ErrorCode.BAD_REQUEST:
            return ConfigError(detail)
        case ErrorCode.NO_DEVICE:
            return NoDeviceError(detail)
        case ErrorCode.NOT_FOUND:
            return UnknownNameError(detail)
        case _:
            return FleetError(detail, retryable=kind is ErrorCode.STORE)


def refusal_of(refused: Refused, asked: Acquire) -> FleetError | ConfigError:
    """The exception that tells of a refused request."""
    detail = refused.detail or f"refused: {refused.code}"
    match refused.code:
        case Refusal.UNSATISFIABLE.value:
            return NoDeviceError(detail)
        case Refusal.MAX_WAIT.value:
            wait_s = f"{asked.max_wait_ms / 1000:g} s"
            what = "device" if asked.count == 1 else f"{asked.count} devices at once"
            return QueueTimeoutError(f"no {what} within {wait_s}: {detail}")
        case Refusal.BAD_REQUEST.value:
            return ConfigError(detail)
        case ErrorCode.FORBIDDEN:
            return AuthError(detail)
        case _:
            again = refused.retry_after_ms
            hint = f"; try again in {again / 1000:g} s" if again else ""
            return FleetError(f"{asked.selector!r}: {detail}{hint}", retryable=True)

"""Tokens of people and services, and one-time codes with which agents join.

Only a digest of the secret is kept. A token's text has a checksum, so that a typo is told from a
token that is not known; nothing else about it can be guessed from the text.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from loopwright.errors import ConfigError
from loopwright.fleet.security.keys import same
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.words import Role

POOL = "pool"
TOKEN_PREFIX, CODE_PREFIX = "lwt", "lwj"
_ID_BYTES, _SECRET_BYTES, _CODE_BYTES = 5, 32, 20
_MAX_TEXT = 256


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a caller is to the fleet. Empty `scopes` mean no further limit within the role.

    A scope is a pool: the value of the label POOL of devices that it may use.
    """

    name: str
    tenant: str
    role: Role
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Issued:
    """A secret just made: `text` is shown once, `id` and `digest` are kept."""

    id: str
    text: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as the store keeps it. `expires_at` is wall time in seconds, None for never."""

    id: str
    digest: bytes
    principal: Principal
    expires_at: float | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class CodeRow:
    """A join code as the store keeps it. `agent` limits it to one name, empty does not."""

    id: str
    digest: bytes
    expires_at: float
    agent: str = ""
    used: bool = False


def make_token(entropy: Callable[[int], bytes] = os.urandom) -> Issued:
    """A new token: 256 bits from the kernel's generator."""
    return _make(TOKEN_PREFIX, _SECRET_BYTES, entropy)


def make_code(entropy: Callable[[int], bytes] = os.urandom) -> Issued:
    """A new join code: 160 bits."""
    return _make(CODE_PREFIX, _CODE_BYTES, entropy)


def token_id(text: str) -> str:
    """The id in a token's text, under which the store has its row.

    Raises: Denied for text that is not a token; the message never repeats it.
    """
    return _take_apart(text, TOKEN_PREFIX, "token")[0]


def code_id(text: str) -> str:
    """The id in a join code's text; raises as `token_id`."""
    return _take_apart(text, CODE_PREFIX, "join code")[0]


def check_token(text: str, row: TokenRow | None, now: float) -> Principal:
    """Who presents the token `text`, whose row is `row`.

    Args:
        now: wall time in seconds.

    Raises: Denied for a typo, a token that is not known, has expired or was revoked.
    """
    name, secret = _take_apart(text, TOKEN_PREFIX, "token")
    if row is None or not same(row.digest, _digest(secret)) or row.id != name:
        raise Denied(Fault.UNKNOWN_TOKEN, "the token is not known here; ask for a new one")
    if row.revoked:
        raise Denied(Fault.REVOKED_TOKEN, f"token {row.id} was revoked; ask for a new one")
    if row.expires_at is not None and now >= row.expires_at:
        raise Denied(Fault.EXPIRED_TOKEN, f"token {row.id} has expired; ask for a new one")
    return row.principal


def check_code(text: str, row: CodeRow | None, agent: str, now: float) -> None:
    """Check that `agent` may join with the code `text`, whose row is `row`.

    The caller marks the row used in the same transaction: `UPDATE ... WHERE NOT used`.

    Raises: Denied for a typo, a code that is not known, was used, has expired or is another's.
    """
    name, secret = _take_apart(text, CODE_PREFIX, "join code")
    if row is None or not same(row.digest, _digest(secret)) or row.id != name:
        raise Denied(Fault.UNKNOWN_CODE, "the join code is not known here; ask for a new one")
    if row.used:
        raise Denied(Fault.USED_CODE, f"join code {row.id} was used; each is good for one agent")
    if now >= row.expires_at:
        raise Denied(Fault.EXPIRED_CODE, f"join code {row.id} has expired; ask for a new one")
    if row.agent and row.agent != agent:
        raise Denied(Fault.UNKNOWN_CODE, f"join code {row.id} is not for an agent named {agent}")


def require_role(principal: Principal, needed: Role, what: str) -> None:
    """Check that `principal` may do `what`. Raises: Denied."""
    if principal.role < needed:
        raise Denied(
            Fault.WRONG_ROLE,
            f"{what} needs the role {needed.name.lower()}, {principal.name} has "
            f"{principal.role.name.lower()}",
        )


def _make(prefix: str, nbytes: int, entropy: Callable[[int], bytes]) -> Issued:
    name, secret = _text(entropy(_ID_BYTES)), entropy(nbytes)
    if len(secret) != nbytes:
        raise ConfigError(f"{len(secret)} bytes of entropy, {nbytes} are needed")
    start = f"{prefix}_{name}_{_text(secret)}"
    return Issued(name, f"{start}_{_checksum(start)}", _digest(_text(secret)))


def _take_apart(text: str, prefix: str, what: str) -> tuple[str, str]:
    """The id and the secret in `text`."""
    parts = text.split("_") if len(text) <= _MAX_TEXT and text.isascii() else []
    if len(parts) != 4 or parts[0] != prefix or not parts[1] or not parts[2]:
        raise Denied(Fault.TOKEN_TYPO, f"that is not a {what}: it must begin with {prefix}_")
    if not same(_checksum("_".join(parts[:3])).encode(), parts[3].encode()):
        raise Denied(Fault.TOKEN_TYPO, f"the {what} has a typo: its checksum does not fit")
    return parts[1], parts[2]


def _text(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(b"loopwright secret " + secret.encode()).digest()


def _checksum(text: str) -> str:
    return _text(zlib.crc32(text.encode()).to_bytes(4, "big"))

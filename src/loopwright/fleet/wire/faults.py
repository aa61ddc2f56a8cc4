"""What can be wrong with what the other side sends, in words that are counted.

Each refusal has exactly one of these: they are the labels of a metric, so the list is closed and
nothing that a peer sends ever becomes one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from loopwright.errors import AuthError


class Fault(enum.Enum):
    """Why bytes, a message, a connection or a credential were refused."""

    # bytes and messages
    BAD_FRAME = "bad-frame"
    BAD_VERSION = "bad-version"
    OVERSIZE = "oversize"
    UNKNOWN_TYPE = "unknown-type"
    BAD_MESSAGE = "bad-message"
    UNEXPECTED = "unexpected-message"
    # authenticity of frames
    BAD_MAC = "bad-mac"
    MISSING_MAC = "missing-mac"
    SURPRISE_MAC = "surprise-mac"
    # connections
    HANDSHAKE_TIMEOUT = "handshake-timeout"
    EVICTED = "evicted"
    PER_HOST = "per-host"
    TOO_MANY = "too-many"
    NO_DESCRIPTORS = "no-descriptors"
    TLS = "tls"
    SLOW_READER = "slow-reader"
    # tickets and proofs
    BAD_TICKET = "bad-ticket"
    OTHER_DEVICE = "other-device"
    OTHER_INCARNATION = "other-incarnation"
    OLD_EPOCH = "old-epoch"
    OTHER_LEASE = "other-lease"
    EXPIRED_TICKET = "expired-ticket"
    BAD_PROOF = "bad-proof"
    # who
    NO_CREDENTIAL = "no-credential"
    PLAIN_SECRET = "plain-secret"
    TOKEN_TYPO = "token-typo"
    UNKNOWN_TOKEN = "unknown-token"
    EXPIRED_TOKEN = "expired-token"
    REVOKED_TOKEN = "revoked-token"
    UNKNOWN_CODE = "unknown-code"
    USED_CODE = "used-code"
    EXPIRED_CODE = "expired-code"
    UNKNOWN_AGENT = "unknown-agent"
    WRONG_ROLE = "wrong-role"
    WRONG_SCOPE = "wrong-scope"
    BAD_NAME = "bad-name"
    PROTOCOL = "protocol"
    # what runs
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad-signature"
    UNKNOWN_BUILDER = "unknown-builder"


class Denied(AuthError):  # noqa: N818  # it says what happened
    """A credential, ticket or proof that was refused; `fault` is what is counted."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Tally:
    """Counts refusals, one figure a fault."""

    def __init__(self) -> None:
        self._counts: dict[Fault, int] = {}

    def count(self, fault: Fault) -> None:
        """One more of `fault`."""
        self._counts[fault] = self._counts.get(fault, 0) + 1

    def of(self, fault: Fault) -> int:
        """How many of `fault` there were."""
        return self._counts.get(fault, 0)

    @property
    def total(self) -> int:
        """All refusals."""
        return sum(self._counts.values())

    def figures(self) -> Mapping[str, int]:
        """Counts by word, for metrics and people."""
        return {
            fault.value: n for fault, n in sorted(self._counts.items(), key=lambda p: p[0].value)
        }

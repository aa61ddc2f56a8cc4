"""Proof that the other side has a key, which never travels."""

from __future__ import annotations

import enum
import hmac
import os

from loopwright.fleet.security.keys import derive, same
from loopwright.fleet.wire.faults import Denied, Fault

NONCE_BYTES = 32


class Purpose(enum.Enum):
    """What a proof is for: a proof for one purpose does not serve another."""

    SESSION = b"loopwright proof: client opens a session"
    AGENT = b"loopwright proof: agent greets the tracker"
    TRACKER = b"loopwright proof: tracker answers the agent"
    DEVICE = b"loopwright proof: device answers the client"


def new_nonce() -> bytes:
    """A number used once, from the kernel's generator."""
    return os.urandom(NONCE_BYTES)


def prove(key: bytes, purpose: Purpose, theirs: bytes, ours: bytes) -> bytes:
    """Proof of `key` for a challenger whose nonce is `theirs`; `ours` is the prover's."""
    return hmac.digest(key, _statement(purpose, theirs, ours), "sha256")


def check_proof(
    mac: bytes, key: bytes, purpose: Purpose, *, challenger: bytes, prover: bytes
) -> None:
    """Check that `mac` proves `key`.

    Raises: Denied if not, and for nonces that are too short to be fresh.
    """
    if len(challenger) != NONCE_BYTES or len(prover) != NONCE_BYTES:
        raise Denied(Fault.BAD_PROOF, f"a nonce has {NONCE_BYTES} bytes; another was sent")
    if not same(mac, prove(key, purpose, challenger, prover)):
        raise Denied(Fault.BAD_PROOF, "the proof of the key is wrong: the two sides differ in it")


def channel_key(key: bytes, dialer: bytes, answerer: bytes) -> bytes:
    """The key of one connection: another for each pair of nonces, so that no frame of an older
    connection with the same key fits into a newer one.
    """
    return derive(key, b"loopwright channel", salt=_long(dialer) + _long(answerer))


def _statement(purpose: Purpose, theirs: bytes, ours: bytes) -> bytes:
    return b"".join((_long(purpose.value), _long(theirs), _long(ours)))


def _long(part: bytes) -> bytes:
    return len(part).to_bytes(2, "little") + part

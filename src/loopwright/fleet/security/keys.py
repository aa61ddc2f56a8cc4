"""Keys: how they are made, and how to derive several that reveal nothing of each other."""

from __future__ import annotations

import functools
import hashlib
import hmac
import os

from loopwright.errors import ConfigError

KEY_BYTES = 32
_BLOCK = 32


def new_key() -> bytes:
    """A fresh key of an agent, from the kernel's generator."""
    return os.urandom(KEY_BYTES)


@functools.lru_cache(maxsize=4096)
def subkey(key: bytes, purpose: bytes) -> bytes:
    """`derive(key, purpose)`, remembered, for keys that are used over and over, such as agents'."""
    return derive(key, purpose)


def derive(key: bytes, info: bytes, salt: bytes = b"", length: int = KEY_BYTES) -> bytes:
    """A key from `key` for the purpose that `info` names: HKDF-SHA256.

    Source: RFC 5869, sections 2.2 and 2.3.
    """
    if not 0 < length <= 255 * _BLOCK:
        raise ConfigError(f"a derived key of {length} bytes; 1 to {255 * _BLOCK} are possible")
    seed = hmac.digest(salt or bytes(_BLOCK), key, "sha256")
    made, block = b"", b""
    counter = 0
    while len(made) < length:
        counter += 1
        block = hmac.digest(seed, block + info + bytes((counter,)), "sha256")
        made += block
    return made[:length]


def same(one: bytes, other: bytes) -> bool:
    """Whether two secrets are equal, in a time that says nothing of where they differ."""
    return hmac.compare_digest(one, other)


def fingerprint(key: bytes) -> str:
    """What may be shown of a key: a part of its digest."""
    return hashlib.sha256(b"loopwright fingerprint" + key).hexdigest()[:16]

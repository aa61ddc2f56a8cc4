"""Signatures of builders: a device that asks for them runs only code that its builders signed.

Ed25519 over the digest of the code. A signature begins with a part of the digest of the public
key, so that a key which is not on the list is told from a signature that is wrong. Needs the extra
`[tls]`, which brings `cryptography`; nothing is imported before a signature is made or checked.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright.errors import ConfigError
from loopwright.fleet.security.keys import same
from loopwright.fleet.wire.faults import Denied, Fault

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PUBLIC_BYTES = SECRET_BYTES = 32
DIGEST_BYTES = 32
_ID_BYTES = 8
SIGNATURE_BYTES = _ID_BYTES + 64
_PREFIX, _SECRET_PREFIX = "lwb_", "lws_"
_PRIVATE = 0o600
_PURPOSE = b"loopwright builder signature v1\0"


@dataclass(frozen=True, slots=True)
class BuilderKeys:
    """A pair of keys. `secret` never leaves the builder; `public` goes to the devices."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"BuilderKeys({show_public(self.public)})"


def make_builder() -> BuilderKeys:
    """A new pair of keys.

    Raises: ConfigError without the extra `[tls]`.
    """
    return builder_of(os.urandom(SECRET_BYTES))


def builder_of(secret: bytes) -> BuilderKeys:
    """The pair that `secret` belongs to.

    Raises: ConfigError for bytes that are not a secret key.
    """
    return BuilderKeys(_private(secret).public_key().public_bytes_raw(), secret)


def show_public(public: bytes) -> str:
    """A public key as text, for configuration files."""
    return _text(_PREFIX, public)


def read_public(text: str) -> bytes:
    """The public key that `show_public` wrote.

    Raises: ConfigError for anything else.
    """
    public = _bytes(_PREFIX, text)
    if len(public) != PUBLIC_BYTES:
        raise ConfigError(f"{text[:16]!r}... is not a builder's public key ({_PREFIX}...)")
    return public


def save_builder(path: Path, builder: BuilderKeys) -> None:
    """Write the secret key to `path`, a new file that its owner alone may read.

    Raises: ConfigError when the file is there, or cannot be written.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE)
        with os.fdopen(handle, "w") as file:
            file.write(f"{_text(_SECRET_PREFIX, builder.secret)}\n")
    except FileExistsError:
        raise ConfigError(f"{path} is there already; choose another name") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def load_builder(path: Path) -> BuilderKeys:
    """The pair whose secret key `save_builder` wrote to `path`.

    Raises: ConfigError for a file that holds no such key, cannot be read, or that others may read.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"others may read {path}: chmod 600 it")
        text = path.read_text(errors="replace")
    except OSError as error:
        raise ConfigError(f"builder's key {path}: {error.strerror}") from error
    secret = _bytes(_SECRET_PREFIX, text)
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"{path} is not a builder's key; make one with: loopwright ca builder")
    return builder_of(secret)


def sign(digest: bytes, secret: bytes) -> bytes:
    """The signature of the code whose SHA-256 is `digest`."""
    key = _private(secret)
    _check_digest(digest)
    return _key_id(key.public_key().public_bytes_raw()) + key.sign(_PURPOSE + digest)


def verify(digest: bytes, signature: bytes, builders: Iterable[bytes]) -> None:
    """Check that one of `builders` (public keys) signed the code with `digest`.

    Raises: Denied if not; ConfigError without the extra `[tls]`.
    """
    _check_digest(digest)
    if not signature:
        raise Denied(
            Fault.UNSIGNED,
            "this device runs signed code only: sign it with a key that it knows (--sign, "
            "LOOPWRIGHT_SIGN)",
        )
    if len(signature) != SIGNATURE_BYTES:
        raise Denied(
            Fault.BAD_SIGNATURE, f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}"
        )
    name = signature[:_ID_BYTES]
    public = next((key for key in builders if same(_key_id(key), name)), None)
    if public is None:
        raise Denied(
            Fault.UNKNOWN_BUILDER,
            f"builder {name.hex()} is not among those whose code this device runs",
        )
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature[_ID_BYTES:], _PURPOSE + digest)
    except InvalidSignature as error:
        raise Denied(
            Fault.BAD_SIGNATURE, f"the signature of builder {name.hex()} is not of this code"
        ) from error


def _text(prefix: str, key: bytes) -> str:
    return prefix + base64.b32encode(key).decode().rstrip("=").lower()


def _bytes(prefix: str, text: str) -> bytes:
    """The key in `text`; empty for text that is not one."""
    found = text.strip()
    if not found.startswith(prefix):
        return b""
    body = found.removeprefix(prefix)
    try:
        return base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError:
        return b""


def _key_id(public: bytes) -> bytes:
    return hashlib.sha256(b"loopwright builder" + public).digest()[:_ID_BYTES]


def _check_digest(digest: bytes) -> None:
    if len(digest) != DIGEST_BYTES:
        raise ConfigError(f"a digest of {len(digest)} bytes; SHA-256 has {DIGEST_BYTES}")


def _private(secret: bytes) -> Ed25519PrivateKey:
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"a builder's secret key has {SECRET_BYTES} bytes, not {len(secret)}")
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(secret)


def _need_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("signatures need the package cryptography: pip install 'loopwright[tls]'")

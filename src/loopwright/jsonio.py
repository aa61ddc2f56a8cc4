"""JSON: one canonical way to write a value, and reading that checks the type.

A dataclass is an object, a tuple a list, an enum its value. Canonical text has sorted keys and no
spaces, so equal values have equal bytes, and a digest of them is a name for the value.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

T = TypeVar("T")

_CANONICAL = msgspec.json.Encoder(order="sorted")


def dumps(value: object) -> str:
    """`value` as canonical JSON on one line."""
    return _CANONICAL.encode(value).decode()


def line(value: object) -> str:
    """`value` as JSON on one line, fields in their own order."""
    return msgspec.json.encode(value).decode()


def pretty(value: object) -> str:
    """`value` as indented JSON for a person, fields in their own order."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def loads(text: str | bytes, kind: type[T]) -> T:
    """The `kind` that `text` holds.

    Raises: ValueError naming the field that does not fit.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`, 32 hexadecimal digits."""
    return hashlib.sha256(_CANONICAL.encode(value)).hexdigest()[:32]

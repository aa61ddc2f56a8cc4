"""What the fields of the fleet's messages may hold, besides those of `loopwright.fields`.

A name is what ends up in paths, metrics and logs: parts of plain characters, none of which begins
with a dot, with single slashes between.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from loopwright.fields import LINE, MAX_MS, MAX_TEXT
from loopwright.fleet.wire.faults import Denied, Fault

MAX_NAME = 128
MAX_DEVICES = 1024  # of one message; a Register says that more follow
MAX_LABELS = 64
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+@=,:-]*"
_NAME = rf"\A{_PART}(?:/{_PART})*\Z"
_MAYBE_NAME = rf"\A(?:{_PART}(?:/{_PART})*)?\Z"
_NAME_PATTERN = re.compile(_NAME)

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=_NAME)]
MaybeName = Annotated[str, Meta(max_length=MAX_NAME, pattern=_MAYBE_NAME)]
Text = Annotated[str, Meta(max_length=4 * MAX_TEXT)]
Secret = Annotated[str, Meta(max_length=256, pattern=LINE)]
Labels = Annotated[
    dict[Name, Annotated[str, Meta(max_length=256, pattern=LINE)]], Meta(max_length=MAX_LABELS)
]
Modules = Annotated[dict[Name, Name], Meta(max_length=MAX_LABELS)]
Arguments = Annotated[dict[Name, Text], Meta(max_length=MAX_LABELS)]
Trace = Annotated[str, Meta(max_length=128, pattern=r"\A[0-9a-zA-Z-]*\Z")]

Lifetime = Annotated[int, Meta(ge=1, le=MAX_MS)]
Version = Annotated[int, Meta(ge=0, le=0xFFFF)]
PriorityClass = Annotated[int, Meta(ge=0, le=3)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Share = Annotated[float, Meta(ge=-1e9, le=1e9)]
Celsius = Annotated[float, Meta(ge=-273.15, le=10_000.0)]

Nonce = Annotated[bytes, Meta(min_length=16, max_length=64)]
Mac = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key = Annotated[bytes, Meta(max_length=64)]
Sealed = Annotated[bytes, Meta(max_length=2048)]


def check_name(text: str, what: str) -> str:
    """`text`, which can be a name.

    Args:
        what: names the thing in the message, as "a device".

    Raises: Denied otherwise.
    """
    if len(text) > MAX_NAME or _NAME_PATTERN.match(text) is None:
        raise Denied(
            Fault.BAD_NAME,
            f"{text[:40]!r} cannot name {what}: letters, digits and _.+@=,:- in parts between "
            f"slashes, none beginning with a dot, {MAX_NAME} characters at most",
        )
    return text


def clip(text: str) -> str:
    """`text`, short enough for a field that people read."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 4]} ..."

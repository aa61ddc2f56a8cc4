"""Whether the other side would take a message: looked at before it is sent.

A message that does not hold to its own types costs the connection, and whatever else goes over it.
"""

from __future__ import annotations

import re

import msgspec

from loopwright.errors import ConfigError
from loopwright.fleet.wire.codec import from_frame, to_frame
from loopwright.fleet.wire.fields import MAX_NAME
from loopwright.fleet.wire.frame import CONTROL_BYTES, FrameError
from loopwright.fleet.wire.messages import Message

_NAME = (
    "letters, digits and _.+@=,:- in parts between slashes, none beginning with a dot, "
    f"{MAX_NAME} characters at most"
)
_PLACE = re.compile(r"\$\[(\d+)\]")
_UNITS = {"str": "characters", "bytes": "bytes", "object": "entries", "array": "entries"}
_SHOWN = 60


def require_sendable(message: Message) -> None:
    """Check that the other side can read `message`.

    Raises: ConfigError that names the field, what it holds and what it may hold.
    """
    try:
        frame = to_frame(message)
        if len(frame.body) > CONTROL_BYTES:
            raise ConfigError(
                f"{_kind(message)} of {len(frame.body)} bytes; at most {CONTROL_BYTES} are sent"
            )
        from_frame(frame)
    except FrameError as error:
        raise ConfigError(_said(message, str(error.__cause__ or error))) from error
    except (OverflowError, UnicodeError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{_kind(message)} cannot be sent: {error}") from error


def _said(message: Message, wrong: str) -> str:
    """What is wrong, in the words of the one who filled in the message."""
    place = _PLACE.search(wrong)
    if place is None:
        return f"{_kind(message)} cannot be sent: {wrong}"
    name = message.__struct_fields__[int(place[1])]
    value = repr(getattr(message, name))
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]} ..."
    return f"{name} {shown}: {_expected(wrong)}"


def _expected(wrong: str) -> str:
    wanted = wrong.partition(" - at ")[0].replace("`", "").replace("Expected", "expected")
    if "matching regex" in wanted:
        wanted = f"expected {_NAME}" if "A-Za-z" in wanted else "expected no control characters"
    for kind, unit in _UNITS.items():
        wanted = re.sub(rf"{kind} of length <= (\d+)", rf"at most \1 {unit}", wanted)
    return f"{wanted}, in a key" if "`key`" in wrong else wanted


def _kind(message: Message) -> str:
    return f"this {type(message).__name__.lower()}"

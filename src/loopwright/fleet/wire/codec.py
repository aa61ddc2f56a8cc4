"""Messages to frames and back, and the number that each type has in a frame's header."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from loopwright.fleet.wire.faults import Fault
from loopwright.fleet.wire.frame import DATA_HEAD_BYTES, Flags, Frame, FrameError
from loopwright.fleet.wire.messages import (
    Acquire,
    Answer,
    Ask,
    Cancel,
    Challenge,
    Close,
    Closed,
    Command,
    Configure,
    Configured,
    Desired,
    Done,
    Error,
    Granted,
    Have,
    Hello,
    Message,
    Missing,
    Open,
    Opened,
    OutputHead,
    Ping,
    Pong,
    Proof,
    PutHead,
    Queued,
    Refused,
    Register,
    Release,
    Released,
    Renew,
    Renewed,
    Result,
    RunBatch,
    Stored,
    Superseded,
    Sync,
    Welcome,
)

TYPES: dict[int, type[Message]] = {
    1: Hello,
    2: Welcome,
    3: Challenge,
    4: Proof,
    5: Error,
    6: Ping,
    7: Pong,
    16: Register,
    17: Sync,
    18: Desired,
    19: Superseded,
    32: Acquire,
    33: Queued,
    34: Granted,
    35: Refused,
    36: Renew,
    37: Renewed,
    38: Release,
    39: Released,
    40: Cancel,
    41: Ask,
    42: Answer,
    43: Command,
    44: Done,
    64: Open,
    65: Opened,
    66: Configure,
    67: Configured,
    68: Have,
    69: Missing,
    71: Stored,
    72: RunBatch,
    74: Result,
    75: Close,
    76: Closed,
}
PUT, OUTPUT = 70, 73
HEADS: dict[int, type[Message]] = {PUT: PutHead, OUTPUT: OutputHead}
"""Types of data frames: two bytes with the length of the msgpack head, the head, the data."""
NUMBERS: dict[type[Message], int] = {kind: number for number, kind in (TYPES | HEADS).items()}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    number: msgspec.msgpack.Decoder(kind) for number, kind in (TYPES | HEADS).items()
}
_ENCODER = msgspec.msgpack.Encoder()
_HEAD_LENGTH = 2
_DATA = int(Flags.DATA)


class Data(msgspec.Struct, frozen=True):
    """A data frame taken apart: its head and the bytes that follow it."""

    head: PutHead | OutputHead
    data: bytes


Incoming: TypeAlias = Message | Data


def to_frame(message: Message, stream: int = 0) -> Frame:
    """The frame of a message that carries no bulk data.

    Raises: FrameError for one that is too large.
    """
    return Frame(NUMBERS[type(message)], _ENCODER.encode(message), stream)


def data_frame(head: PutHead | OutputHead, data: bytes | memoryview, stream: int = 0) -> Frame:
    """The data frame of `head` and `data`, which is at most 1 MiB."""
    encoded = _ENCODER.encode(head)
    body = b"".join((len(encoded).to_bytes(_HEAD_LENGTH, "little"), encoded, data))
    return Frame(NUMBERS[type(head)], body, stream, Flags.DATA)


def from_frame(frame: Frame) -> Incoming:
    """The message that a frame holds.

    Raises: FrameError for a type that is not known, a body that is no such message, or bulk data
        without the flag.
    """
    decoder = _DECODERS.get(frame.type)
    if decoder is None:
        raise FrameError(
            f"a message of type {frame.type} is not known; update this side", Fault.UNKNOWN_TYPE
        )
    bulk = frame.type in HEADS
    if bulk != bool(frame.flags.real & _DATA):
        raise FrameError(
            f"a message of type {frame.type} has flags {int(frame.flags):#x}", Fault.BAD_MESSAGE
        )
    try:
        if not bulk:
            message: Message = decoder.decode(frame.body)
            return message
        length = int.from_bytes(frame.body[:_HEAD_LENGTH], "little")
        end = _HEAD_LENGTH + length
        if length > DATA_HEAD_BYTES or end > len(frame.body):
            raise FrameError(f"a data head of {length} bytes does not fit", Fault.BAD_MESSAGE)
        head: PutHead | OutputHead = decoder.decode(frame.body[_HEAD_LENGTH:end])
        return Data(head, frame.body[end:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        name = (TYPES | HEADS)[frame.type].__name__
        raise FrameError(f"not a valid {name}: {error}", Fault.BAD_MESSAGE) from error

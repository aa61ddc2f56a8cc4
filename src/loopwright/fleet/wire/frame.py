"""Frames: what goes over every connection of the fleet. Sans I/O: bytes in, frames out.

A frame is a header of 16 bytes (little endian), a body, and with the flag MAC 16 bytes more:

    0  2  magic b"LW"
    2  1  version of the framing
    3  1  type of the message, see `messages`
    4  2  flags
    6  2  0, reserved
    8  4  stream: which of several conversations on one connection, 0 without
    12 4  length of the body

A body is msgpack, but for bulk data, which follows its msgpack head (see `messages.Put`). The
longest body is CONTROL_BYTES, of a frame with the flag DATA it is DATA_BYTES; a header that says
more is refused before a byte of the body is read, and no length is ever allocated on trust.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

import msgspec

from loopwright.errors import FleetError
from loopwright.fleet.wire.faults import Fault

MAGIC = b"LW"
VERSION = 1
HEADER_BYTES = 16
MAC_BYTES = 16
CONTROL_BYTES = 64 << 10
DATA_HEAD_BYTES = 512
DATA_BYTES = (1 << 20) + DATA_HEAD_BYTES
_PREFIX = MAGIC + bytes((VERSION,))
_HEADER = struct.Struct("<3sBHHII")
_COMPACT_BYTES = 1 << 20


class Flags(enum.IntFlag):
    """What a header says of its frame."""

    NONE = 0
    DATA = 1
    MAC = 2


KNOWN_FLAGS = Flags.DATA | Flags.MAC
_DATA, _MAC = int(Flags.DATA), int(Flags.MAC)
_FLAGS = tuple(Flags(bits) for bits in range(int(KNOWN_FLAGS) + 1))
"""All there are, by value: making one anew for each frame costs more than the rest."""


class FrameError(FleetError):
    """Bytes that are not a frame: the connection is closed, nothing after them can be trusted."""

    def __init__(self, message: str, fault: Fault = Fault.BAD_FRAME) -> None:
        super().__init__(message)
        self.fault = fault


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message as it travels. `mac` is empty without the flag MAC."""

    type: int
    body: bytes
    stream: int = 0
    flags: Flags = Flags.NONE
    mac: bytes = b""

    @property
    def header(self) -> bytes:
        """The 16 bytes before the body."""
        return header(self.type, len(self.body), self.stream, self.flags)

    def encode(self) -> bytes:
        """The frame as one run of bytes, to be written at once."""
        return b"".join((self.header, self.body, self.mac))


def header(kind: int, length: int, stream: int = 0, flags: Flags = Flags.NONE) -> bytes:
    """The header of a frame with a body of `length` bytes.

    Raises: FrameError for a body over the limit.
    """
    limit = DATA_BYTES if flags.real & _DATA else CONTROL_BYTES  # real: no new Flags is made
    if length > limit:
        raise FrameError(
            f"a message of type {kind} has {length} bytes, the limit is {limit}", Fault.OVERSIZE
        )
    return _HEADER.pack(_PREFIX, kind, flags, 0, stream, length)


class Decoder:
    """Turns bytes, in whatever pieces they come, into frames.

    After a FrameError it refuses everything: there is no way back into step.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._broken: FrameError | None = None

    @property
    def buffered(self) -> int:
        """Bytes that wait for the rest of their frame, or to be taken."""
        return len(self._buffer) - self._at

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """The frames that are whole now.

        Raises: FrameError for bytes that are not a frame, then and ever after.
        """
        self.push(data)
        return iter(self.next_frame, None)

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Keep bytes for `next_frame`. The caller bounds them: see `buffered`.

        Raises: FrameError when the bytes before were not a frame.
        """
        if self._broken is not None:
            raise self._again()
        if self._at:
            if self._at == len(self._buffer):
                self._buffer.clear()
                self._at = 0
            elif self._at > _COMPACT_BYTES:
                del self._buffer[: self._at]
                self._at = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next frame that is whole, or None until more bytes come.

        Raises: FrameError for bytes that are not a frame, then and ever after.
        """
        if self._broken is not None:
            raise self._again()
        start = self._at + HEADER_BYTES
        if len(self._buffer) < start:
            return None
        kind, flags, stream, length = self._header()
        end = start + length
        whole = end + MAC_BYTES if flags & _MAC else end
        if len(self._buffer) < whole:
            return None
        with memoryview(self._buffer) as view:
            frame = Frame(
                kind, bytes(view[start:end]), stream, _FLAGS[flags], bytes(view[end:whole])
            )
        self._at = whole
        return frame

    def _header(self) -> tuple[int, int, int, int]:
        prefix, kind, flags, reserved, stream, length = _HEADER.unpack_from(self._buffer, self._at)
        if prefix != _PREFIX:
            raise self._other_framing(prefix)
        if reserved or flags >= len(_FLAGS):
            raise self._break(f"a frame with unknown flags {flags:#x} {reserved:#x}")
        limit = DATA_BYTES if flags & _DATA else CONTROL_BYTES
        if length > limit:
            raise self._break(
                f"a frame of type {kind} has {length} bytes, the limit is {limit}", Fault.OVERSIZE
            )
        return kind, flags, stream, length

    def _other_framing(self, prefix: bytes) -> FrameError:
        magic, version = prefix[:2], prefix[2]
        if magic != MAGIC:
            return self._break(f"expected a frame, got bytes that begin with {magic!r}")
        return self._break(
            f"framing version {version}, this side speaks {VERSION}; update the older",
            Fault.BAD_VERSION,
        )

    def _break(self, why: str, fault: Fault = Fault.BAD_FRAME) -> FrameError:
        self._broken = FrameError(why, fault)
        self._buffer.clear()
        self._at = 0
        return self._broken

    def _again(self) -> FrameError:
        broken = self._broken
        return (
            FrameError("not a frame") if broken is None else FrameError(str(broken), broken.fault)
        )

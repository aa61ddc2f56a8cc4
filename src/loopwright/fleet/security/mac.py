"""Authentication of frames where there is no TLS: a MAC over a counter, the header and the body.

Each direction has its own key and its own counter, so a frame that is altered, sent again, left
out, out of order or sent back to its sender has a MAC that does not fit. The counter is not sent.
"""

from __future__ import annotations

import hashlib
import struct

from loopwright.fleet.security.keys import derive, same
from loopwright.fleet.wire.faults import Fault
from loopwright.fleet.wire.frame import MAC_BYTES, FrameError

_COUNTER = struct.Struct("<Q")
_BLOCK = 64  # of SHA-256


class FrameMac:
    """The MACs of the frames of one direction, in order: HMAC-SHA256, the first 16 bytes.

    The two hashes of HMAC are kept with the key already in them: a frame then costs a third.

    Args:
        key: the key of the channel, of both directions.
        from_dialer: whether this is the direction from the side that dialled.
    """

    def __init__(self, key: bytes, *, from_dialer: bool) -> None:
        info = b"loopwright frames from the dialer" if from_dialer else b"loopwright frames to it"
        padded = derive(key, info).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
        self._counter = 0

    @property
    def frames(self) -> int:
        """How many frames have passed."""
        return self._counter

    def tag(self, header: bytes, body: bytes | memoryview) -> bytes:
        """The MAC of the next frame."""
        start = _COUNTER.pack(self._counter) + header
        self._counter += 1
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(start)
        inner.update(body)
        outer.update(inner.digest())
        return outer.digest()[:MAC_BYTES]

    def verify(self, header: bytes, body: bytes | memoryview, mac: bytes) -> None:
        """Check that the next frame is the one that was sent.

        Raises: FrameError if not; the connection is of no use then.
        """
        if not same(self.tag(header, body), mac):
            raise FrameError(
                f"frame {self._counter - 1} is not authentic: altered, repeated, out of order or "
                "made with another key",
                Fault.BAD_MAC,
            )


def channel_macs(key: bytes, *, dialer: bool) -> tuple[FrameMac, FrameMac]:
    """The MACs of what this side sends and of what it gets, as `Link.protect` takes them.

    Args:
        key: of this connection alone, see `proofs.channel_key`.
        dialer: whether this side dialled.
    """
    return FrameMac(key, from_dialer=dialer), FrameMac(key, from_dialer=not dialer)

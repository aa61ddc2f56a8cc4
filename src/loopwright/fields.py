"""What a field of a message may hold, for every wire. Decoding refuses everything else.

Numbers have bounds, so none is NaN, infinite or negative where that has no meaning, and sums of
them do not overflow.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MAX_TEXT = 4096
DIGEST_BYTES = 32
MAX_MS = 30 * 24 * 3600 * 1000
MAX_INT = (1 << 63) - 1
LINE = r"\A[^\x00-\x1f\x7f]*\Z"
"""Text without control characters, as a pattern."""

Word = Annotated[str, Meta(max_length=64, pattern=LINE)]
Line = Annotated[str, Meta(max_length=MAX_TEXT, pattern=LINE)]
Symbol = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"\A[A-Za-z_.$][\w.$]*\Z")]

Milliseconds = Annotated[int, Meta(ge=0, le=MAX_MS)]
Microseconds = Annotated[int, Meta(ge=0, le=1000 * MAX_MS)]
Nanoseconds = Annotated[float, Meta(ge=0.0, le=1e18)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Small = Annotated[int, Meta(ge=0, le=1 << 20)]
Size = Annotated[int, Meta(ge=0, le=1 << 50)]
Signed = Annotated[int, Meta(ge=-(1 << 50), le=1 << 50)]

Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Signature = Annotated[bytes, Meta(max_length=256)]

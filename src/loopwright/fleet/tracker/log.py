"""What the tracker says of itself: one JSON object a line, with ids and never a secret."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TextIO

import msgspec

_FLUSH_S = 0.1
_FLUSH_LINES = 512


class JsonLog:
    """Writes lines to `stream`, some at a time; `None` says nothing.

    Args:
        wall: wall time in seconds.
    """

    def __init__(self, stream: TextIO | None, wall: Callable[[], float]) -> None:
        self._stream = stream
        self._wall = wall
        self._lines: list[bytes] = []
        self._encode = msgspec.json.Encoder().encode
        self._timer: asyncio.TimerHandle | None = None

    def write(self, event: str, **fields: str | int | float) -> None:
        """One line: what happened, to whom. Empty fields are left out."""
        if self._stream is None:
            return
        line = {"at": round(self._wall(), 3), "event": event}
        line.update((name, value) for name, value in fields.items() if value != "")
        self._lines.append(self._encode(line))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if self._stream is None or not lines:
            return
        try:
            self._stream.write(b"\n".join(lines).decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # nobody reads any more; the fleet goes on

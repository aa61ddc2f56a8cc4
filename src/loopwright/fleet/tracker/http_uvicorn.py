"""What the tracker asks of uvicorn beyond its options. Imported only when HTTP is served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_REQUEST_S = 5.0


class Quiet(uvicorn.Server):
    """Leaves signals to the tracker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Impatient(H11Protocol):
    """Closes connections on which no whole request came in time, however slowly one comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(_REQUEST_S, self._too_late)

    def _too_late(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

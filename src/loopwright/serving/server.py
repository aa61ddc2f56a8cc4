"""An HTTP server in the event loop that runs now, made of uvicorn.

Importing this needs the extra `[server]`; nothing else of ours imports it before HTTP is served.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from loopwright.errors import ConfigError
from loopwright.serving.places import bind, context_for, parse_place

try:
    import uvicorn
    from fastapi import FastAPI
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise ConfigError(
        f"--http needs the package {error.name}: pip install 'loopwright[server]'"
    ) from error

_MOST_CONNECTIONS = 512
_KEEP_ALIVE_S = 30
_STOP_S = 2
_REQUEST_S = 5.0


class _Quiet(uvicorn.Server):
    """Leaves signals to the process that serves."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class _Impatient(H11Protocol):
    """Closes connections on which no whole request came in time, however slowly one comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(_REQUEST_S, self._too_late)

    def _too_late(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class HttpServer:
    """Serves HTTP from `start` until it is stopped. The address is taken when it is made.

    Args:
        address: as `parse_place` reads it; beyond this machine it must be https.
        tls_dir: folder with the server's certificate, for https.

    Raises: ConfigError for a place that is not safe; FleetError for one that is taken.
    """

    def __init__(self, address: str, tls_dir: Path | None = None) -> None:
        place = parse_place(address)
        self._tls = context_for(place, tls_dir)
        self._socket, self.place = bind(place)
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._end_streams: Callable[[], None] | None = None

    @property
    def address(self) -> str:
        """Where it is served, with the port that was taken."""
        return str(self.place)

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def start(self, app: FastAPI, end_streams: Callable[[], None] = lambda: None) -> None:
        """Serve `app`, in the loop that runs now, until that loop or `stop` ends it.

        Args:
            end_streams: called first by `stop`: ends the answers that would never end themselves.
        """
        self._end_streams = end_streams
        config = uvicorn.Config(
            app,
            http=_Impatient,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who asks is who connects
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_S,
        )
        config.load()
        config.ssl = self._tls
        self._server = _Quiet(config)
        self._task = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[self._socket])
        )

    async def stop(self) -> None:
        """End streams, answer what is being answered, and stop."""
        if self._end_streams is not None:
            self._end_streams()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

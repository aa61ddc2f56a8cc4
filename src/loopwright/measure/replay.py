"""The replay runner: recorded measurements in place of a device, immediate and without noise."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Self, final

from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.measure.landscape import Landscape
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import Outcome


@final
class ReplayRunner:
    """Answers each request from `landscape`; futures are done when they are returned.

    A request to check is answered as checked, since recorded outputs passed.
    """

    def __init__(self, landscape: Landscape, slots: int = 1) -> None:
        self._landscape = landscape
        self._slots = slots
        self._closed = False
        space = landscape.space
        keys = space.keys(space.points).tolist()
        self._row = {key: row for row, key in enumerate(keys)}

    @property
    def slots(self) -> int:
        """How many requests to keep in flight; the answers do not depend on it."""
        return self._slots

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        """The recorded outcome of the request's config.

        Raises: ConfigError for a config that was not recorded; EnvironmentFailure after `close`.
        """
        if self._closed:
            raise EnvironmentFailure("the runner was closed")
        space = self._landscape.space
        key = int(space.keys(space.encode(request.config)[None, :])[0])
        if key not in self._row:
            raise ConfigError(
                f"landscape {self._landscape.name} has no measurement of {request.config}; search "
                "in its own space"
            )
        future: Future[Outcome] = Future()
        future.set_result(self._landscape.outcome(self._row[key], checked=request.check))
        return future

    def close(self) -> None:
        """End; closing again is harmless."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar, final

from loopwright.errors import EnvironmentFailure

_T = TypeVar("_T")


@final
class LoopThread:
    """Runs coroutines of any thread on one loop. It ends with `close`, or with the process."""

    def __init__(self, name: str = "fleet") -> None:
        self.loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
        """What `coroutine` returns; cancelled when the caller is interrupted.

        Raises: what it raises; EnvironmentFailure after `close`.
        """
        future = self.start(coroutine)
        try:
            return future.result(timeout_s)
        except concurrent.futures.CancelledError as error:
            raise EnvironmentFailure("the fleet was closed") from error
        except BaseException:
            future.cancel()
            raise

    def start(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """The future of `coroutine`, which begins now.

        Raises: EnvironmentFailure after `close`.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise EnvironmentFailure("the fleet was closed")
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        """Cancel what runs and end the thread; calling it again is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

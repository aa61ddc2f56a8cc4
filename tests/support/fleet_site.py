"""A tracker in a thread of its own, for tests of what asks it from outside: commands, HTTP."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fleet_tracker import QUICK, FakeAgent, Site, Wall, site, until

from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.wire.listener import Listener

T = TypeVar("T")
LIMIT_S = 20.0


class Town:
    """A tracker that listens on loopback and on a socket of this user, and its agents."""

    def __init__(self, here: Site, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.here = here
        self.url = url  # who comes over it is the owner: admin
        self._loop = loop
        self._kept: list[object] = []  # clients stay connected

    @property
    def tcp(self) -> str:
        """The address that a token is needed at."""
        return self.here.address

    @property
    def wall(self) -> Wall:
        return self.here.wall

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, done in the tracker's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, called in the tracker's loop."""

        async def run() -> T:
            return work()

        return self.do(run())

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds in the tracker's loop."""

        async def waiting() -> None:
            async with asyncio.timeout(LIMIT_S):
                await until(condition)

        self.do(waiting())

    def agent(
        self, name: str = "pi", *devices: str, incarnation: str = "boot-1", **labels: str
    ) -> FakeAgent:
        """An agent with devices that are its, and free, when this returns."""
        names = devices or (f"{name}/cpu0",)

        async def come() -> FakeAgent:
            return await self.here.agent(
                name,
                names,
                labels={"board": "rpi4", "kind": "cpu", **labels},
                incarnation=incarnation,
            )

        agent = self.do(come())
        book = self.here.tracker.book

        def free(device: str) -> bool:
            view = book.device(device)
            return view is not None and view.incarnation == incarnation and view.grantable

        self.wait(lambda: all(map(free, names)))
        return agent

    def token(self, name: str = "ann", role: str = "user", **more: str) -> str:
        """A token that the tracker issued."""

        async def issue() -> str:
            client = await self.here.client()
            made = await client.command("token.issue", name=name, role=role, **more)
            client.link.close()
            return str(made["token"])

        return self.do(issue())

    def lease(self, selector: str = "board=rpi4", **more: object) -> str:
        """The id of a lease that is granted; its holder stays connected."""

        async def take() -> str:
            client = await self.here.client()
            self._kept.append(client)
            grant = await client.acquire(selector, **more)
            return grant.lease

        return self.do(take())

    def want(self, selector: str = "board=rpi4", **more: object) -> str:
        """The id of a request that waits."""
        book = self.here.tracker.book

        async def ask() -> str:
            from loopwright.fleet.wire.messages import Acquire

            client = await self.here.client()
            name = client.request()
            client.link.send(Acquire(request=name, selector=selector, **more))
            await until(lambda: book.request(name) is not None)
            self._kept.append(client)
            return name

        return self.do(ask())


@contextmanager
def town(config: TrackerConfig = QUICK) -> Iterator[Town]:
    """A tracker that runs until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="lw-"))  # a socket's path must be short
    url = f"unix://{folder}/t.sock"
    ready = threading.Event()
    made: list[Town] = []
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with site(config) as here, Listener(url, here.tracker.serve):
            made.append(Town(here, url, loop))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(LIMIT_S)
        yield made[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(LIMIT_S)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)

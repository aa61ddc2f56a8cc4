"""A tracker, agents with devices that are not there, and clients of them, all on one loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.build.candidate import Built
from loopwright.codegen.artifact import Artifact, Param
from loopwright.errors import FleetError
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.client.aio import AsyncFleet
from loopwright.fleet.client.api import Fleet
from loopwright.fleet.client.control import Control, ControlConfig
from loopwright.fleet.client.loop import LoopThread
from loopwright.fleet.client.session import SessionConfig
from loopwright.fleet.security.handshake import Anonymous
from loopwright.fleet.sim.devices import Behaviour, SimulatedAgent, SimulatedDevice, timed
from loopwright.fleet.store.memory import MemoryRows, MemoryStore
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.server import Tracker
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.wire.messages import Result
from loopwright.ir.dtype import F32
from loopwright.kernel_call import KernelCall
from loopwright.layout import Layout
from loopwright.outcome import MeasurePlan
from loopwright.space.config import Config
from loopwright.target.host import host
from loopwright.templates.task import Task

WAIT_S = 120.0
CLASS = "a-board-4c-00000000"


async def well(device: str, item: KernelCall, code: bytes) -> Result:
    """What a device does that measures whatever it is given."""
    del device, code
    return timed(item, 1000.0)


class Lab:
    """Everything of a fleet but the network; use it in a `with`."""

    def __init__(self, folder: Path, book: BookConfig = BookConfig()) -> None:  # noqa: B008  # frozen
        self.thread = LoopThread("lab")
        self.rows = MemoryRows()
        self.rng = np.random.default_rng(5)
        self.tracker: Tracker | None = None
        self.agents: dict[str, SimulatedAgent] = {}
        self._folder = folder
        self._book = book
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._links: list[Link] = []
        self.run(self.begin())

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._end())
        self.thread.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401  # of any type
        return self.thread.run(coroutine, WAIT_S)

    async def _end(self) -> None:
        for task in (*self._runs.values(), *self._tasks):
            task.cancel()
        await asyncio.gather(*self._runs.values(), *self._tasks, return_exceptions=True)
        await self.end()

    async def begin(self) -> None:
        """Start a tracker on what the last one left."""
        config = TrackerConfig(sync_active_s=0.5, sync_idle_s=0.5, book=self._book)
        tracker = Tracker(MemoryStore(self.rows), config, rng=self.rng)
        await tracker.start()
        self.tracker = tracker

    async def end(self) -> None:
        """The tracker goes away, connections and all."""
        tracker, self.tracker = self.tracker, None
        if tracker is not None:
            await tracker.stop()

    async def to_tracker(self) -> Link:
        if self.tracker is None:
            raise FleetError("nobody listens", retryable=True)
        ours, theirs = await pair()
        self._spawn(self.tracker.serve(theirs))
        return ours

    async def to_device(self, address: str) -> Link:
        ours, theirs = await pair()
        self._spawn(self.agents[address].serve_session(theirs))
        self._links.append(ours)
        return ours

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def agent(
        self, name: str, behave: Behaviour, devices: int = 1, **labels: str
    ) -> SimulatedAgent:
        """An agent with `devices`, named `name/0` and so on, once the tracker knows them."""
        here = str(host())
        specs = [
            SimulatedDevice(f"{name}/{i}", here, CLASS, {"board": "sim", **labels}, (0, 1))
            for i in range(devices)
        ]
        return self.run(self._agent(name, behave, specs))  # type: ignore[no-any-return]

    async def _agent(
        self, name: str, behave: Behaviour, specs: Sequence[SimulatedDevice]
    ) -> SimulatedAgent:
        folder = self._folder / name
        agent = SimulatedAgent(name, specs, behave, folder, time.monotonic, (name,))
        self.agents[name] = agent
        self._runs[name] = asyncio.create_task(agent.run(self.to_tracker))
        await agent.registered.wait()
        return agent

    async def leave(self, name: str) -> None:
        """An agent goes away."""
        run = self._runs.pop(name)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    def client(self, *, sessions: SessionConfig = SessionConfig()) -> Fleet:  # noqa: B008  # frozen
        """Another client of the fleet, on this lab's loop; close its `aio`, not it."""
        return self.run(self._client(sessions))  # type: ignore[no-any-return]

    async def _client(self, sessions: SessionConfig) -> Fleet:
        config = ControlConfig(reconnect_s=0.01, reconnect_max_s=0.05, late_s=0.2, answer_s=5.0)
        chance = self.rng.random
        control = Control(self.to_tracker, Anonymous(), time.monotonic, chance, config)
        fleet = AsyncFleet(control, self.to_device, time.monotonic, sessions)
        await fleet.start()
        return Fleet(self.thread, fleet, fleet.close)


class TextBuilders:
    """Builders whose object code is the text of the config's `action`; they take no time."""

    workers = 2

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        del task, plan
        future: Future[Built] = Future()
        future.set_result(Built(artifact(str(config["action"])), 0.001))
        return future

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        """Nothing was started."""


def artifact(text: str) -> Artifact:
    """An artifact whose object code is `text`."""
    params = (Param("x", F32, (4,), Layout.plain(1)), Param("y", F32, (4,), Layout.plain(1)))
    return Artifact(
        code=text.encode(), entry="k", params=params, n_outputs=1, target_key=host().key
    )

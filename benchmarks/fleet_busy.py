"""How busy a fleet keeps its devices, and what the fleet within a process costs a trial.

    python benchmarks/fleet_busy.py [--quick] [-o json]

Busy: a tracker and two agents on loopback TCP, whose devices are simulated: a run takes 50 ms.
Candidates take 25 ms to build, four at once. The share is the time devices ran something, of the
time from the first run to the last result. Cost: trials of a kernel that is built already, one
after the other through the runner of this machine; what is quoted is the wall time of a trial less
the time that the measuring process says it worked.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

import harness
import resnet18
from fleet_part import Part, Row, run_alone
from harness import figure
from loopwright.build.candidate import Built
from loopwright.codegen.artifact import Artifact
from loopwright.errors import InternalError
from loopwright.fleet.client.api import Fleet, connect
from loopwright.fleet.client.loop import LoopThread
from loopwright.fleet.client.runner import FleetOptions, FleetRunner, device_class
from loopwright.fleet.local import LocalRunner
from loopwright.fleet.sim.devices import SimulatedAgent, SimulatedDevice, timed
from loopwright.fleet.store.memory import MemoryStore
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.server import Tracker
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.listener import Listener
from loopwright.fleet.wire.messages import Result
from loopwright.kernel_call import KernelCall
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import MeasurePlan, Timed
from loopwright.runtime.cpu.native import default_cache_dir, runtime_object
from loopwright.runtime.cpu.native_ir import CANARY
from loopwright.space.config import Config
from loopwright.target.host import host
from loopwright.templates.task import Task

RUN_S, BUILD_S, BUILDERS = 0.050, 0.025, 4
GOAL_BUSY = 0.85
_START_S = 60.0
_WARM_UP = 3


class QuickBuilders:
    """Builders of artifacts that `code` gives, each in `build_s`: `measure.build.Builders`.

    `code` is told how many it gave before, so that no two need be the same.
    """

    def __init__(self, code: Callable[[int], bytes], *, build_s: float, workers: int) -> None:
        self.workers = workers
        self._code = code
        self._build_s = build_s
        self._pool = ThreadPoolExecutor(workers)
        self._lock = threading.Lock()
        self._made = 0

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        """A new artifact, after a while."""
        del task, config, plan
        return self._pool.submit(self._build)

    def _build(self) -> Built:
        time.sleep(self._build_s)
        with self._lock:
            self._made += 1
            code = self._code(self._made)
        return Built(
            Artifact(code=code, entry=CANARY, params=(), n_outputs=0, target_key=host().key),
            self._build_s,
        )

    def paused(self) -> AbstractContextManager[None]:
        """Nothing to pause."""
        return nullcontext()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


class Simulation:
    """A tracker and agents with one device each, on loopback TCP, in a thread."""

    def __init__(self, agents: int, folder: Path) -> None:
        self.thread = LoopThread("simulation")
        self.agents: list[SimulatedAgent] = []
        self.spans: list[tuple[float, float]] = []
        self.address = ""
        self._folder = folder
        self._closing: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.thread.run(self._start(agents), _START_S)

    async def _start(self, agents: int) -> None:
        config = TrackerConfig(auth=False)
        self._tracker = Tracker(MemoryStore(), config, rng=np.random.default_rng(0))
        await self._tracker.start()
        self.address = await self._listen(self._tracker.serve)
        for number in range(agents):
            name = f"sim{number}"
            device = SimulatedDevice(f"{name}/0", str(host()), "a-simulated-device", {}, (0,))
            agent = SimulatedAgent(
                name, [device], self._behave, self._folder / name, time.monotonic
            )
            agent.addresses = (await self._listen(agent.serve_session),)
            self._tasks.append(asyncio.create_task(agent.run(self._dial)))
            await agent.registered.wait()
            self.agents.append(agent)

    async def _listen(self, handler: object) -> str:
        listener = Listener("tcp://127.0.0.1:0", handler)  # type: ignore[arg-type]  # of a Link
        await listener.start()
        self._closing.append(listener)
        return listener.addresses[0]

    async def _dial(self) -> Link:
        return await dial(self.address)

    async def _behave(self, device: str, item: KernelCall, code: bytes) -> Result:
        del device, code
        begin = time.monotonic()
        await asyncio.sleep(RUN_S)
        self.spans.append((begin, time.monotonic()))
        return timed(item, 1000.0)

    def close(self) -> None:
        """End all of it."""
        self.thread.run(self._end(), _START_S)
        self.thread.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._tracker.stop()
        for listener in self._closing:
            await listener.close()


def busy_share(agents: int, in_flight: int, trials: int) -> float:
    """The share of the time that simulated devices ran something."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Simulation(agents, Path(folder))
        try:
            with connect(lab.address) as fleet:
                _send_trials(fleet, in_flight, trials)
        finally:
            lab.close()
    begin, end = min(s for s, _ in lab.spans), max(e for _, e in lab.spans)
    return sum(e - s for s, e in lab.spans) / (agents * (end - begin))


def _send_trials(fleet: Fleet, in_flight: int, trials: int) -> None:
    """Keep as many requests in flight as the runner likes, as a tuner does."""
    options = FleetOptions(in_flight=in_flight)
    builders = QuickBuilders(_filler, build_s=BUILD_S, workers=BUILDERS)
    with FleetRunner(fleet, device_class(fleet, ""), builders, options=options) as runner:
        room = threading.Semaphore(runner.slots)
        futures = []
        request = a_request()
        for _ in range(trials):
            room.acquire()
            future = runner.submit(request)
            future.add_done_callback(lambda _: room.release())
            futures.append(future)
        failed = [o for future in futures if not isinstance(o := future.result(), Timed)]
    if failed:
        raise InternalError(f"a simulated run failed: {failed[0]}")


def a_request(plan: MeasurePlan = MeasurePlan()) -> MeasureRequest:  # noqa: B008  # frozen
    """A trial of some task, for builders that make the same of any."""
    (layer,) = resnet18.select("C2")
    task = layer.task()
    config = task.space.decode(task.space.sample(np.random.default_rng(0), 1)[0])
    return MeasureRequest(task, config, plan)


def _filler(number: int) -> bytes:
    return number.to_bytes(8, "little") * 2500  # 20 KB, as kernels have


def costs_ms(rounds: int) -> tuple[float, float]:
    """Wall and processor time of a trial on this machine beside its run: medians."""
    code = runtime_object(default_cache_dir())
    builders = QuickBuilders(lambda n: code + n.to_bytes(4, "little"), build_s=0.0, workers=1)
    request = a_request(MeasurePlan(repeats=1, min_repeat_s=0.001))
    wall: list[float] = []
    used: list[float] = []
    with LocalRunner(builders=builders) as runner:
        for number in range(rounds + _WARM_UP):
            begin, before = time.perf_counter(), time.process_time()
            outcome = runner.submit(request).result()
            spent = time.perf_counter() - begin
            if not isinstance(outcome, Timed):
                raise InternalError(f"the kernel does not run: {outcome}")
            if number >= _WARM_UP:
                wall.append((spent - outcome.run_s) * 1e3)
                used.append((time.process_time() - before) * 1e3)
    return statistics.median(wall), statistics.median(used)


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """Busy devices, and what a trial costs."""
    trials, rounds = (60, 60) if quick else (300, 300)
    harness.progress("trials on simulated devices that take 50 ms each")
    one = busy_share(1, 2, trials // 2)
    two = busy_share(2, 2, trials)
    alone = busy_share(2, 1, trials)
    wall, cpu = costs_ms(rounds)
    figures = (figure("devices busy, runs of 50 ms", min(one, two), at_least=GOAL_BUSY),)
    rows = (
        Row("busy, one device, 2 in flight", one),
        Row("busy, two devices, 2 in flight", two),
        Row("busy, two devices, 1 in flight", alone),
        Row("a trial on this machine, beside its run", wall, "ms"),
        Row("processor time of a trial on this machine", cpu, "ms"),
    )
    return Part(figures, rows)


if __name__ == "__main__":
    sys.exit(harness.run(lambda words: run_alone("fleet_busy", __doc__, measure, words)))

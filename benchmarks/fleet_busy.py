"""How busy a fleet keeps its devices, what the fleet within a process costs a trial, and whether
tuning on a fleet finds what tuning here finds.

    python benchmarks/fleet_busy.py [--quick] [--tune TRIALS] [-o json]

Busy: a tracker and two agents on loopback TCP, whose devices are simulated: a run takes 50 ms.
Candidates take 25 ms to build, four at once. The share is the time devices ran something, of the
time from the first run to the last result. Cost: the same kernel is run by a measuring process and
by the embedded fleet, in turns; what is quoted is the wall time less the time the measuring process
says it worked. With `--tune`, C2 is tuned here, and then with as many trials through a tracker and
two agents in processes of their own, one a core.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import harness
import loopwright as lw
import resnet18
from harness import figure
from loopwright.api.tune import tune
from loopwright.codegen.artifact import Artifact
from loopwright.errors import InternalError
from loopwright.fleet.client.api import Fleet, connect
from loopwright.fleet.client.devices import DevicesConfig, LeasedDevices
from loopwright.fleet.client.loop import LoopThread
from loopwright.fleet.client.runner import FleetOptions, FleetRunner, device_class
from loopwright.fleet.embedded import Embedded, EmbeddedOptions
from loopwright.fleet.local import keep_to
from loopwright.fleet.simulated import SimulatedAgent, SimulatedDevice, timed
from loopwright.fleet.store.memory import MemoryStore
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.server import Tracker
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.listener import Listener
from loopwright.fleet.wire.messages import Result, RunItem
from loopwright.measure.build import Built
from loopwright.measure.pipeline import Run
from loopwright.measure.request import MeasureRequest
from loopwright.measure.run import MeasureServer, cores_for
from loopwright.measure.types import MeasurePlan, Outcome, Timed
from loopwright.runtime.canary import ENTRY, canary
from loopwright.runtime.loader import runnable_keys
from loopwright.runtime.native import default_cache_dir
from loopwright.space.config import Config
from loopwright.target import host
from loopwright.templates.task import Task

RUN_S, BUILD_S, BUILDERS = 0.050, 0.025, 4
GOAL_BUSY, GOAL_COST_MS, GOAL_BEST = 0.85, 1.0, 0.97
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of what `name` says; `value` in `unit`."""

    name: str
    value: float
    unit: str


class SlowBuilders:
    """Builders that take BUILD_S a candidate and make nothing: `measure.build.Builders`."""

    workers = BUILDERS

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(BUILDERS)
        self._lock = threading.Lock()
        self._made = 0

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        """A new artifact, after a while."""
        del task, config, plan
        return self._pool.submit(self._build)

    def _build(self) -> Built:
        time.sleep(BUILD_S)
        with self._lock:
            self._made += 1
            code = self._made.to_bytes(8, "little") * 2500  # 20 KB, as kernels have
        return Built(Artifact(code, "k", (), 0, 0, 0, host().key), BUILD_S)

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
        self.thread.run(self._start(agents), START_S)

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

    async def _behave(self, device: str, item: RunItem, code: bytes) -> Result:
        del device, code
        begin = time.monotonic()
        await asyncio.sleep(RUN_S)
        self.spans.append((begin, time.monotonic()))
        return timed(item, 1000.0)

    def close(self) -> None:
        """End all of it."""
        self.thread.run(self._end(), START_S)
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
    (layer,) = resnet18.select("C2")
    task = layer.task()
    config = task.space.decode(task.space.sample(np.random.default_rng(0), 1)[0])
    options = FleetOptions(in_flight=in_flight)
    with FleetRunner(fleet, device_class(fleet, ""), SlowBuilders(), options=options) as runner:
        room = threading.Semaphore(runner.slots)
        futures = []
        for _ in range(trials):
            room.acquire()
            future = runner.submit(MeasureRequest(task, config))
            future.add_done_callback(lambda _: room.release())
            futures.append(future)
        failed = [o for future in futures if not isinstance(o := future.result(), Timed)]
    if failed:
        raise InternalError(f"a simulated run failed: {failed[0]}")


@dataclass(slots=True)
class Cost:
    """What each trial cost beside its run: seconds of wall time, and of this process's processor
    time, which does not depend on what else the machine does.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, outcome: Outcome, wall: float, cpu: float) -> None:
        """Note one trial."""
        if not isinstance(outcome, Timed):
            raise InternalError(f"the kernel does not run: {outcome}")
        self.wall.append(wall - outcome.run_s)
        self.cpu.append(cpu)

    def wall_ms(self) -> float:
        """The median wall time."""
        return statistics.median(self.wall) * 1e3

    def cpu_ms(self) -> float:
        """The median processor time."""
        return statistics.median(self.cpu) * 1e3


def costs(rounds: int) -> tuple[Cost, Cost]:
    """The costs of a measuring process and of the embedded fleet, taken in turns."""
    code = canary(default_cache_dir())
    plan = MeasurePlan(repeats=1, min_repeat_s=0.001)
    cores = cores_for(1)
    direct, embedded = Cost(), Cost()
    others = tuple(sorted(os.sched_getaffinity(0) - set(cores))) or cores
    with MeasureServer() as server, _embedded(cores) as devices, keep_to(others):
        for number in range(rounds + 3):
            artifact = Artifact(code + bytes([number % 251]), ENTRY, (), 0, 0, 0, host().key)
            run = Run(artifact, plan, 0, want_output=False)
            kept = (Cost(), Cost()) if number < 3 else (direct, embedded)
            begin, used = time.perf_counter(), time.process_time()
            first = server.run(artifact, plan, cores=cores).outcome
            kept[0].add(first, time.perf_counter() - begin, time.process_time() - used)
            begin, used = time.perf_counter(), time.process_time()
            second = devices.submit(run).result().outcome
            kept[1].add(second, time.perf_counter() - begin, time.process_time() - used)
    return direct, embedded


@contextmanager
def _embedded(cores: tuple[int, ...]) -> Iterator[LeasedDevices]:
    thread = LoopThread("fleet")

    async def make() -> Embedded:
        options = EmbeddedOptions(cores, default_cache_dir())
        return Embedded(options, np.random.default_rng())

    embedded = thread.run(make())
    thread.run(embedded.start())
    devices = LeasedDevices(
        embedded, thread, time.monotonic, DevicesConfig(idle_s=1e9), runnable=runnable_keys()
    )
    try:
        yield devices
    finally:
        devices.close()
        thread.run(embedded.close())
        thread.close()


@contextmanager
def agents(folder: Path, cores: Sequence[int]) -> Iterator[Fleet]:
    """A fleet of a tracker and an agent for each of `cores`, all processes of their own."""
    socket = f"unix://{folder / 't.sock'}"
    serve = ["loopwright.cli.main", "tracker", "serve", "--listen", "tcp://127.0.0.1:0"]
    serve += ["--listen", socket, "--store", f"sqlite:///{folder / 't.db'}"]
    serve += ["--token-file", str(folder / "admin")]
    log = folder / "tracker.log"
    with log.open("wb") as file:
        started = [subprocess.Popen([sys.executable, "-m", *serve], stderr=file)]
    try:
        address = _wait_for(log, r"listens on (tcp://\S+)")
        with connect(socket) as fleet:
            for core in cores:
                made = fleet.command("join.issue", agent=f"core{core}")
                code = str(made["code"]) if isinstance(made, dict) else ""
                words = ["loopwright.fleet.agent", "--tracker", address, "--join", code]
                words += ["--name", f"core{core}", "--device", f"cpu0={core}"]
                words += ["--cache-dir", str(folder / f"core{core}")]
                started.append(subprocess.Popen([sys.executable, "-m", *words]))
            deadline = time.monotonic() + START_S
            while sum(device.grantable for device in fleet.devices()) < len(cores):
                if time.monotonic() > deadline:
                    raise InternalError("the agents do not come up")
                time.sleep(0.05)
            yield fleet
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(START_S)


def _wait_for(log: Path, pattern: str) -> str:
    deadline = time.monotonic() + START_S
    while (found := re.search(pattern, log.read_text())) is None:
        if time.monotonic() > deadline:
            raise InternalError(f"the tracker does not come up: {log.read_text()}")
        time.sleep(0.05)
    return found[1]


def bests(trials: int, seed: int) -> tuple[Row, Row, Row]:
    """Nanoseconds of the best of C2, tuned here and on two agents; and trials on each agent."""
    (layer,) = resnet18.select("C2")
    task: lw.Task = layer.task()
    with tempfile.TemporaryDirectory(prefix="lw-") as folder:
        here = tune(task, trials, records=f"sqlite:///{folder}/here.db", seed=seed).best
        cores = cores_for(2)
        url = f"sqlite:///{folder}/fleet.db"
        begin = time.perf_counter()
        with agents(Path(folder), cores) as fleet:
            there = tune(task, trials, records=url, seed=seed, fleet=fleet).best
        spent = time.perf_counter() - begin
    if here is None or there is None:
        raise InternalError("no trial of C2 worked")
    return (
        Row(f"best of {trials} trials here", here.ns / 1e3, "us"),
        Row(f"best of {trials} trials on two agents", there.ns / 1e3, "us"),
        Row("trials/s on two agents", trials / spent, "1/s"),
    )


def main(argv: list[str]) -> int:
    """Measure, print; exit code 0."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer trials and rounds")
    parser.add_argument("--tune", type=int, default=0, metavar="TRIALS", help="tune C2 twice")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search")
    args = parser.parse_args(argv)
    machine = harness.describe()
    trials, rounds = (60, 60) if args.quick else (300, 300)
    one = busy_share(1, 2, trials // 2)
    two = busy_share(2, 2, trials)
    alone = busy_share(2, 1, trials)
    direct, embedded = costs(rounds)
    rows = [
        Row("busy, one device, 2 in flight", one, ""),
        Row("busy, two devices, 2 in flight", two, ""),
        Row("busy, two devices, 1 in flight", alone, ""),
        Row("beside a run: measuring process", direct.wall_ms(), "ms"),
        Row("beside a run: embedded fleet", embedded.wall_ms(), "ms"),
        Row("processor time a trial: measuring process", direct.cpu_ms(), "ms"),
        Row("processor time a trial: embedded fleet", embedded.cpu_ms(), "ms"),
    ]
    wall, cpu = (embedded.wall_ms() - direct.wall_ms(), embedded.cpu_ms() - direct.cpu_ms())
    figures = [
        figure("device busy, runs of 50 ms", min(one, two), at_least=GOAL_BUSY),
        figure("embedded fleet, wall time added to a trial", wall, "ms", at_most=GOAL_COST_MS),
        figure("embedded fleet, processor time added", cpu, "ms", at_most=GOAL_COST_MS),
    ]
    if args.tune:
        here, there, rate = bests(args.tune, args.seed)
        rows += [here, there, rate]
        figures.append(
            figure(
                "best on two agents, of the best here", here.value / there.value, at_least=GOAL_BEST
            )
        )
    cells = [[row.name, f"{row.value:.3f} {row.unit}".strip()] for row in rows]
    shown = harness.rows_table(["", ">"], cells, title="a fleet from the tuner's side")
    harness.emit(harness.report("fleet_busy", machine, figures, rows), shown, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))

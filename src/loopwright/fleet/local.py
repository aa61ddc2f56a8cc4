"""The runner of this machine: the pipeline of every runner, on a fleet of one device in-process.

Builds, checks and the caller's own work overlap with measuring, but never on a core that is
measured: builders, and this process while the runner is open, keep to the other cores. Where
there are no others, builders are stopped and checks wait while a kernel is timed.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Self, final

import numpy as np

from loopwright.build.candidate import Builders, BuildFunction
from loopwright.build.pool import BuilderPool
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.fleet.client.devices import DevicesConfig, LeasedDevices
from loopwright.fleet.client.embedded import Embedded, EmbeddedOptions
from loopwright.fleet.client.loop import LoopThread
from loopwright.kernel_call import CPU
from loopwright.measure.check import Checker
from loopwright.measure.pipeline import Pipeline
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import Outcome, cores_for
from loopwright.runtime.cpu.loader import runnable_keys
from loopwright.runtime.cpu.native import default_cache_dir, native
from loopwright.target.union import Target

_IN_FLIGHT = 2  # one is measured, the next is there already


@final
class LocalRunner:
    """Measures kernels that use `threads` threads on this machine.

    `build` makes an artifact of a task and a config in a builder process, `builders` of them; it is
    not needed with Builders of your own, which the runner then owns. Without a `checker` a request
    to check is refused. With `confine`, this process keeps off the measured cores until `close`, if
    there are other cores. Kernels are for `target`, a device of this machine; None is its
    processor.
    Raises: ConfigError for more threads than cores, or a kind of target without a driver.
    """

    def __init__(
        self,
        build: BuildFunction | None = None,
        *,
        threads: int = 1,
        builders: int | Builders = 1,
        checker: Checker | None = None,
        seed: int = 0,
        cache_dir: Path | None = None,
        confine: bool = True,
        on_poisoned: Callable[[str, tuple[str, ...]], None] | None = None,
        target: Target | None = None,
    ) -> None:
        allowed = sorted(os.sched_getaffinity(0))
        self.threads = threads
        self.cores = cores_for(threads, allowed)
        self.background_cores = tuple(c for c in allowed if c not in self.cores)
        folder = default_cache_dir() if cache_dir is None else cache_dir
        kind, place, runnable = CPU, "", runnable_keys()
        if target is not None and target.kind != CPU:
            kind, runnable = target.kind, frozenset({target.key})
            place = str(target).partition(" ")[2]
        else:
            native(folder)  # compiled and kept before the device wants it
        self.builders: Builders
        if not isinstance(builders, int):
            self.builders = builders
        elif build is not None:
            self.builders = BuilderPool(build, builders, self.background_cores or None)
        else:
            raise ConfigError("a runner needs a build function, or builders")
        self._thread = LoopThread("fleet")
        options = EmbeddedOptions(cores=self.cores, cache_dir=folder, kind=kind, place=place)
        self.embedded = self._thread.run(_embedded(options))
        self._confined = contextlib.ExitStack()
        if confine and self.background_cores:
            self._confined.enter_context(keep_to(self.background_cores))
        starting = self._thread.start(self.embedded.start())
        starting.add_done_callback(lambda done: done.cancelled() or done.exception())
        alone = not self.background_cores
        config = DevicesConfig(limit=1, in_flight=1 if alone else _IN_FLIGHT, idle_s=math.inf)
        devices = LeasedDevices(
            self.embedded,
            self._thread,
            time.monotonic,
            config,
            runnable=runnable,
            on_poisoned=on_poisoned,
        )
        self._pipeline = Pipeline(
            self.builders,
            devices,
            threads=threads,
            checker=checker,
            seed=seed,
            alone=alone,
            on_close=self._end,
        )

    @property
    def slots(self) -> int:
        """How many requests in flight keep the runner busy."""
        return self._pipeline.slots

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        """The future outcome of `request`; raises as `Pipeline.submit` does."""
        return self._pipeline.submit(request)

    def close(self) -> None:
        """Kill what runs, cancel what waits, and give this process its cores back."""
        self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        with contextlib.suppress(EnvironmentFailure):
            self._thread.run(self.embedded.close())
        self._thread.close()
        self._confined.close()


async def _embedded(options: EmbeddedOptions) -> Embedded:
    return Embedded(options, np.random.default_rng())


@contextlib.contextmanager
def keep_to(cores: tuple[int, ...]) -> Iterator[None]:
    """Keeps every thread of this process to `cores`; each gets back what it had at the end."""
    before: dict[int, set[int]] = {}
    for thread in _threads():
        with contextlib.suppress(OSError):  # it ended meanwhile
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, cores)
    everything = before.get(os.getpid(), set(cores))
    try:
        yield
    finally:
        for thread in _threads():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, before.get(thread, everything))


def _threads() -> list[int]:
    """Ids of the threads of this process."""
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]

"""A tuner that measures on a fleet and keeps records: in a thread, or in a process of its own.

Its candidates are `double` of `measure_kernels`, each a little different, so that none is taken
for another; a trial takes about `TRIAL_S`. As a process: `python fault_tuner.py ORDERS`, with
`Orders` as JSON.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import measure_kernels as kernels
import msgspec
import numpy as np

from loopwright.build.candidate import ExecutorBuilders
from loopwright.build.executors import InlineExecutor
from loopwright.codegen.artifact import Artifact
from loopwright.fleet.client import runner as fleet_runner
from loopwright.fleet.client.aio import AsyncFleet
from loopwright.fleet.client.api import Fleet
from loopwright.fleet.client.control import Control, ControlConfig
from loopwright.fleet.client.loop import LoopThread
from loopwright.fleet.client.runner import FleetOptions, FleetRunner, device_class
from loopwright.fleet.client.session import SessionConfig
from loopwright.fleet.security.handshake import ByToken
from loopwright.fleet.wire.link import dial
from loopwright.outcome import MeasurePlan, Timed
from loopwright.records.record import Record
from loopwright.records.store import Query, SqlStore
from loopwright.sched.schedule import Schedule
from loopwright.search.journal import Journal
from loopwright.search.policy import Policy, Trial
from loopwright.search.result import Budget
from loopwright.search.tuner import TuneOptions, tune_tasks
from loopwright.search.unguided import GridPolicy
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space
from loopwright.target.host import host
from loopwright.target.union import Target
from loopwright.te.workload import Workload
from loopwright.templates.task import Task, make
from loopwright.templates.template import Configuration, Template

WAIT_S = 60.0
SOME = 3
"""How many trials a tuner records before it waits."""
TRIAL_S = 0.06
PLAN = MeasurePlan(repeats=2, min_repeat_s=TRIAL_S / 2, run_memory=512 << 20)
SILENT_S = 6.0
"""After which a client takes a device that says nothing to be lost, if it is not told otherwise."""

OTHER_S = 0.5
"""For how long a tuner's process waits for another device than the one that it lost."""


class Orders(msgspec.Struct):
    """What a tuner's process is to do; it waits after `first` trials for the file `go`.

    Tuners with another `salt` have other candidates, which are not blamed for theirs.
    """

    tracker: str
    token: str
    selector: str
    records: str
    trials: int
    ttl_s: float
    silent_s: float
    first: int
    go: str
    salt: int = 0


def _space(work: Workload, machine: Target) -> Space:  # noqa: ARG001  # the signature of a template
    return Space([ChoiceKnob("n", tuple(range(64)))])


def _schedule(s: Schedule, config: Configuration) -> None:
    """Nothing: the build below does not schedule."""


def task() -> Task:
    """A task whose configs are as many candidates that are alike."""
    return make(kernels.double_workload(), Template("alike", 1, _space, _schedule), host())


def build(task: Task, config: Config, salt: int = 0) -> Artifact:  # noqa: ARG001  # of a build
    """`double`, on a few elements less; with another `salt` it is other code."""
    n = kernels.N - int(str(config["n"]))
    text = kernels.function("double").replace(f"%k.next, {kernels.N}", f"%k.next, {n}")
    text += f"@salt = constant i32 {salt}\n"
    return kernels.artifact(kernels.compile_here(text), "double")


def connect(
    address: str,
    token: str,
    *,
    silent_s: float = SILENT_S,
    enter: Callable[[], None] | None = None,
) -> Fleet:
    """A client that connects again soon; `enter` is called first in the thread that it uses."""
    thread = LoopThread("client")
    try:
        return thread.run(_connect(thread, address, token, silent_s, enter), WAIT_S)
    except BaseException:
        thread.close()
        raise


async def _connect(
    thread: LoopThread,
    address: str,
    token: str,
    silent_s: float,
    enter: Callable[[], None] | None,
) -> Fleet:
    if enter is not None:
        enter()
    config = ControlConfig(reconnect_s=0.05, reconnect_max_s=0.2, late_s=WAIT_S)
    short = functools.partial(dial, timeout_s=1.0)
    chance = np.random.default_rng(3).random
    control = Control(lambda: short(address), ByToken(token), time.monotonic, chance, config)
    sessions = SessionConfig(ping_s=silent_s / 5, silent_s=silent_s, close_s=1.0)
    fleet = AsyncFleet(control, short, time.monotonic, sessions)
    await fleet.start()
    return Fleet(thread, fleet, fleet.close)


class Gate:
    """Lets a policy ask for `first` configs at once, and for more when it is opened.

    A tuner that waits here has one trial on its device; all others are recorded.
    """

    def __init__(self, first: int) -> None:
        self._left = first
        self._is_open = False
        self._changed = threading.Condition()

    def let(self, count: int) -> None:
        """Let `count` more through."""
        with self._changed:
            self._left += count
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything through."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def through(self, wanted: int) -> int:
        """How many of `wanted` may go through, at least one; waits for that."""
        with self._changed:
            passed = self._changed.wait_for(lambda: self._is_open or self._left, WAIT_S)
            assert passed, "nobody opened the gate"
            if self._is_open:
                return wanted
            some = min(wanted, self._left)
            self._left -= some
            return some


class _Gated:
    """A policy that may have to wait until it is asked."""

    def __init__(self, policy: Policy, gate: Gate) -> None:
        self._policy = policy
        self._gate = gate

    def ask(self, n: int) -> list[Config]:
        """The next configs."""
        return self._policy.ask(self._gate.through(n))

    def tell(self, trials: Sequence[Trial]) -> None:
        """What came of some."""
        self._policy.tell(trials)


class _TwoAtOnce:
    """A runner that is given two requests at once: one for the device, one to follow it."""

    slots = 2

    def __init__(self, runner: FleetRunner) -> None:
        self.submit = runner.submit
        self.close = runner.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tune(
    fleet: Fleet,
    selector: str,
    records: str,
    trials: int,
    ttl_s: float,
    gate: Gate | None = None,
    salt: int = 0,
) -> None:
    """Measure `trials` candidates on a device of the fleet, those that `records` has not."""
    devices = device_class(fleet, selector)
    made = functools.partial(build, salt=salt)
    builders = ExecutorBuilders(InlineExecutor(), made, 1, confine=False)
    options = FleetOptions(devices=1, in_flight=2, ttl=ttl_s, max_wait=WAIT_S)
    with (
        SqlStore(records) as store,
        FleetRunner(fleet, devices, builders, options=options) as runner,
    ):
        tune_tasks(
            [task()],
            _TwoAtOnce(runner),
            lambda task, _: _policy(task, gate),
            budget=Budget(trials),
            journal=Journal(store, devices.device, "grid", 0, "test"),
            options=TuneOptions(plan=PLAN, check=False, abandon=None),
        )


def _policy(task: Task, gate: Gate | None) -> Policy:
    plain = GridPolicy(task.space)
    return plain if gate is None else _Gated(plain, gate)


@dataclass(frozen=True, slots=True)
class Book:
    """The records of a tuner."""

    url: str

    @staticmethod
    def at(folder: Path) -> Book:
        """New records in `folder`."""
        url = f"sqlite:///{folder / 'records.db'}"
        SqlStore(url).close()
        return Book(url)

    def read(self) -> list[Record]:
        """All of them, in the order in which they came."""
        with SqlStore(self.url, create=False) as store:
            return list(store.query(Query()))

    def wait_for(self, count: int) -> list[Record]:
        """Wait until there are at least `count`."""
        deadline = time.monotonic() + WAIT_S
        while len(found := self.read()) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records"
            time.sleep(0.02)
        return found

    def check(self, trials: int) -> list[Record]:
        """The records, each trial of which is there once, and was measured."""
        found = self.read()
        assert Counter(r.trial for r in found) == Counter(range(trials))
        assert {r.config["n"] for r in found} == set(range(trials))
        failed = [r.outcome for r in found if not isinstance(r.outcome, Timed)]
        assert not failed, failed
        return found


def leases_of(records: Sequence[Record]) -> list[str]:
    """The leases under which records came about, in their order."""
    found = [r.provenance.lease for r in records if r.provenance is not None]
    assert len(found) == len(records)
    return list(dict.fromkeys(found))


def devices_of(records: Sequence[Record]) -> list[str]:
    """The devices on which records came about, in their order."""
    return list(dict.fromkeys(r.provenance.device for r in records if r.provenance is not None))


class Tuning:
    """A tuner in a thread; leaving the `with` opens its gate and waits for its end.

    It stops when it has recorded `SOME` trials, with its session open and one more on the device.
    """

    def __init__(
        self,
        fleet: Fleet,
        selector: str,
        records: Book,
        trials: int,
        ttl_s: float = 30.0,
    ) -> None:
        self._gate = Gate(SOME + 1)
        self._records = records
        self._failure: BaseException | None = None
        arguments = (fleet, selector, records.url, trials, ttl_s, self._gate)
        self._thread = threading.Thread(target=self._run, args=arguments, daemon=True)

    def _run(self, *arguments: object) -> None:
        try:
            tune(*arguments)  # type: ignore[arg-type]  # those of __init__
        except BaseException as error:  # noqa: BLE001  # told in the thread that waits
            self._failure = error

    def __enter__(self) -> Tuning:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.go_on()
        if kind is None:
            self.finish()

    def wait(self) -> list[Record]:
        """Wait until it waits; what it has recorded."""
        return self._records.wait_for(SOME)

    def work(self, trials: int = 2) -> None:
        """Have it measure and record some more: at least one of two is begun from now on."""
        before = len(self._records.read())
        self._gate.let(trials)
        self._records.wait_for(before + trials)

    def go_on(self) -> None:
        """Have it do all trials that are left."""
        self._gate.open()

    def finish(self) -> None:
        """Wait until all trials are done."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the tuner does not end"
        if self._failure is not None:
            raise self._failure


def main() -> None:
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    fleet_runner._OTHER_S = OTHER_S
    with connect(orders.tracker, orders.token, silent_s=orders.silent_s) as fleet:
        gate = Gate(orders.first)
        threading.Thread(target=_open_when, args=(gate, Path(orders.go)), daemon=True).start()
        what = (orders.selector, orders.records, orders.trials, orders.ttl_s)
        tune(fleet, *what, gate, orders.salt)


def _open_when(gate: Gate, go: Path) -> None:
    while not go.exists():
        time.sleep(0.02)
    gate.open()


if __name__ == "__main__":
    main()

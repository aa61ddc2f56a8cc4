"""A driver of a device that is not there, which does what its artifacts say: for tests."""

from __future__ import annotations

import asyncio
from collections import Counter

from loopwright.fleet.agent.driver import CanaryRun, DriverFacts, ItemOutcome, PlainDriver
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import RunStatus
from loopwright.kernel_call import KernelCall

KIND = "toy"
MODULE = "program"
HANG = b"hang"


class ToyDriver(PlainDriver):
    """Its artifacts are texts, `toy 250`: a kernel that takes 250 ns and has itself as output.

    `faults` are raised by the methods of these names while they are there; `calls` are counted.
    """

    def __init__(self, spec: DeviceOptions, faults: dict[str, Exception]) -> None:
        self.spec = spec
        self.faults = faults
        self.calls: Counter[str] = Counter()
        self.placed: dict[str, bytes] = {}
        self.canary_ns: float | None = 100.0

    def _call(self, method: str) -> None:
        self.calls[method] += 1
        if method in self.faults:
            raise self.faults[method]

    async def describe(self) -> DriverFacts:
        self._call("describe")
        labels = {"arch": "stack"}
        return DriverFacts(KIND, "toy", "toy-1", labels=labels, takes=frozenset({MODULE}))

    async def place(self, kind: str, code: bytes) -> None:
        self._call("place")
        self.placed[kind] = code

    async def run(self, item: KernelCall, code: bytes, limit_s: float) -> ItemOutcome:
        del limit_s
        self._call("run")
        if code == HANG:
            await asyncio.Event().wait()
        ns = float(code.split()[1])
        result = Result(
            id=item.id, status=RunStatus.OK.value, ns=(ns,) * item.repeats, run_s=ns / 1e9
        )
        return ItemOutcome(result, memoryview(code if item.want_output else b""))

    async def clean(self) -> bool:
        self._call("clean")
        self.placed.clear()
        return True

    async def canary(self) -> CanaryRun:
        self._call("canary")
        return CanaryRun(self.canary_ns)

    async def begin(self, deadline: float, patience_s: float) -> None:
        del deadline, patience_s
        self._call("begin")

    def extend(self, deadline: float) -> None:
        del deadline
        self._call("extend")

    def beat(self, now: float) -> None:
        del now
        self._call("beat")

    async def close(self) -> None:
        self._call("close")

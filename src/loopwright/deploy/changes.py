"""What changes of layout cost on this machine, measured when it is asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from loopwright.api.program import Compiler, example_inputs
from loopwright.deploy.choose import ModelOptions
from loopwright.graph.ir import Value
from loopwright.graph.layouts import change
from loopwright.layout import Layout

_ROUNDS = 9


@dataclass(slots=True)
class ChangeTimes:
    """Nanoseconds of changes of layout; each is compiled and timed once. Close it at the end."""

    options: ModelOptions
    _known: dict[tuple[Value, Layout, Layout], float] = field(default_factory=dict, init=False)
    _compiler: Compiler | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._compiler is not None:
            self._compiler.close()

    def __call__(self, value: Value, before: Layout, after: Layout) -> float:
        """The median time of copying `value` from one layout into another."""
        key = (value, before, after)
        if key not in self._known:
            self._known[key] = self._measured(value, before, after)
        return self._known[key]

    def _measured(self, value: Value, before: Layout, after: Layout) -> float:
        if self._compiler is None:
            self._compiler = Compiler()
        chosen = change(value, before, after, self.options.target, self.options.threads)
        program = self._compiler.program(chosen.task, chosen.config)
        call = program.timed_call(*example_inputs(chosen.task))
        times = []
        for _ in range(_ROUNDS):
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        return float(np.median(times))

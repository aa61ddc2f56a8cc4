"""What each peer's code offers to the process that runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loopwright.peers.wire import OpSpec

Array = npt.NDArray[np.float32]


class Engine(Protocol):
    """A library that computes one operator at a time."""

    def load(self, spec: OpSpec) -> str:
        """Make the operator ready to run; the way it is computed, for a report.

        Raises: NotImplementedError for an operator that the library, or this adapter, has not.
        """
        ...

    def run(self) -> None:
        """Compute the operator once."""
        ...

    def kernel_ns(self, repeats: int) -> Sequence[float]:
        """Nanoseconds inside the operator's kernel, one figure a call; none when it cannot tell."""
        ...


def batch_size(run: Callable[[], None], min_s: float) -> int:
    """How many calls of `run` take at least `min_s` seconds; it also warms them up."""
    calls = 1
    while True:
        begin = time.perf_counter_ns()
        for _ in range(calls):
            run()
        elapsed = time.perf_counter_ns() - begin
        if elapsed >= min_s * 1e9 or calls >= 1 << 20:
            return calls
        calls = min(calls * 8, max(calls + 1, int(calls * min_s * 1.2e9 / max(elapsed, 1)) + 1))


def time_calls(run: Callable[[], None], calls: int, repeats: int) -> tuple[float, ...]:
    """Nanoseconds a call, the mean over `calls`, `repeats` times."""
    figures = []
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        for _ in range(calls):
            run()
        figures.append((time.perf_counter_ns() - begin) / calls)
    return tuple(figures)


def operands(spec: OpSpec) -> tuple[Array, Array, Array | None]:
    """Seeded data, weight and bias (None without) of `spec`, in the operator's plain layouts."""
    rng = np.random.default_rng(spec.seed)
    data = rng.standard_normal(spec.shape("data"), dtype=np.float32)
    weight = rng.standard_normal(spec.shape("weight"), dtype=np.float32)
    channels = spec.shape("weight")[0]
    bias = rng.standard_normal((channels,), dtype=np.float32) if spec.flag("bias") else None
    return data, weight, bias

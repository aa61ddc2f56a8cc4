"""What each peer's code offers to the process that runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loopwright.peers.wire import OpSpec

Array = npt.NDArray[np.float32]


class PeerEngine(Protocol):
    """A library that computes one operator at a time."""

    def load(self, spec: OpSpec) -> str:
        """Make the operator ready to run; returns how it is computed, for a report.

        Raises: NotImplementedError for an operator unknown to the library or to this adapter.
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


@dataclass(frozen=True, slots=True)
class Operands:
    """What an operator reads, float32 in its plain layouts. `bias` is None without one.

    `fixed` says whether `weight` is the same in every call, so that it may be laid out before.
    `depthwise` are the weight and the bias of the first part of a separable convolution.
    """

    data: Array
    weight: Array
    bias: Array | None
    fixed: bool
    depthwise: tuple[Array, ...] = ()


def operands(spec: OpSpec) -> Operands:
    """Seeded operands of `spec`.

    Raises: NotImplementedError for another dtype than float32.
    """
    if spec.attrs.get("dtype", "float32") != "float32":
        raise NotImplementedError(f"peers are compared in float32, not {spec.attrs['dtype']}")
    rng = np.random.default_rng(spec.seed)
    product = "a" in spec.attrs  # products call their operands a and b
    data = rng.standard_normal(spec.shape("a" if product else "data"), dtype=np.float32)
    weight = rng.standard_normal(spec.shape("b" if product else "weight"), dtype=np.float32)
    bias = rng.standard_normal(weight.shape[:1], dtype=np.float32) if spec.flag("bias") else None
    depthwise: list[Array] = []
    if "depthwise" in spec.attrs:
        shape = spec.shape("depthwise")
        depthwise.append(rng.standard_normal(shape, dtype=np.float32))
        depthwise.append(rng.standard_normal(shape[:1], dtype=np.float32))
    fixed = spec.flag("constant_b") or not product
    return Operands(data, weight, bias, fixed, tuple(depthwise))

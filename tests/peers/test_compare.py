from __future__ import annotations

import os

import pytest

from loopwright.errors import UnsupportedError
from loopwright.peers.compare import (
    KERNEL,
    PLAIN,
    Comparison,
    TimingPlan,
    compare,
    geometric_mean,
    peers_on,
)
from loopwright.peers.interleave import ContenderTiming
from loopwright.peers.wire import OpSpec

SPEC = OpSpec("conv2d", {})


class Fixed:
    """A peer that always takes the same."""

    def __init__(self, ns: float, kernel_ns: float | None = None, *, can: bool = True) -> None:
        self.ns, self.kernel_ns, self.can = ns, kernel_ns, can

    def load(self, spec: OpSpec) -> str:
        if not self.can:
            raise UnsupportedError(f"no {spec.operator}")
        return "fixed"

    def time(self, repeats: int, *, min_repeat_s: float, kernel: bool) -> tuple[float, ...]:
        del min_repeat_s
        if kernel:
            return () if self.kernel_ns is None else (self.kernel_ns,) * repeats
        return (self.ns,) * repeats


def test_every_contender_is_timed_and_the_fastest_peer_counts() -> None:
    calls: list[str] = []
    ours = {KERNEL: lambda: calls.append("k"), PLAIN: lambda: calls.append("p")}
    peers = {"a": Fixed(200.0, 150.0), "b": Fixed(180.0), "c": Fixed(1.0, can=False)}
    found = compare(ours, peers, SPEC, 1000, TimingPlan(rounds=2, min_repeat_s=0.0))  # type: ignore[arg-type]
    assert set(found.ours) == {KERNEL, PLAIN}
    assert {name: t.median_ns for name, t in found.peers.items()} == {"a": 200.0, "b": 180.0}
    assert {name: t.median_ns for name, t in found.peer_kernels.items()} == {"a": 150.0}
    assert found.best_peer_ns == 150.0
    assert found.forms == {"a": "fixed", "b": "fixed"}
    assert set(calls) == {"k", "p"}


def test_a_ratio_above_one_means_that_ours_is_faster() -> None:
    ours = {KERNEL: ContenderTiming((100.0,)), PLAIN: ContenderTiming((150.0,))}
    found = Comparison(
        1000, ours, {"a": ContenderTiming((120.0,))}, {"a": ContenderTiming((110.0,))}, {}
    )
    assert found.ratio == pytest.approx(1.1)
    assert found.ratio_to("a") == pytest.approx(1.2)
    assert found.ratio_to("b") is None
    assert found.gflops(ours[KERNEL]) == 10.0


def test_without_a_peer_there_is_no_ratio() -> None:
    assert Comparison(1, {KERNEL: ContenderTiming((1.0,))}, {}, {}, {}).ratio is None


def test_this_process_gets_its_cores_back() -> None:
    before = os.sched_getaffinity(0)
    with peers_on([], threads=1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_the_geometric_mean_of_nothing_is_nothing() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([]) is None

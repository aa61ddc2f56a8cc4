"""Our program of an operator against other libraries, timed in turns."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from loopwright.errors import UnsupportedError
from loopwright.outcome import cores_for
from loopwright.peers.engine import batch_size, time_calls
from loopwright.peers.interleave import Contender, ContenderTiming, interleave
from loopwright.peers.peer import Peer
from loopwright.peers.wire import OpSpec

KERNEL = "kernel"
"""Ours, in its own layouts with packed weights."""
PLAIN = "plain"
"""Ours, from and to plain layouts, weights packed before."""
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class TimingPlan:
    """How long to time: rounds of three figures, each at least `min_repeat_s` of calls."""

    rounds: int = 7
    min_repeat_s: float = 0.01
    peer_kernels: bool = True  # also what a peer says its kernel alone takes


@dataclass(frozen=True, slots=True)
class Comparison:
    """Timings of one operator by contender; `forms` says how each peer computes it.

    `ours` is keyed KERNEL and PLAIN. `peers` holds whole calls, `peer_kernels` what a peer says
    of its kernel without layout changes. A peer that cannot run the operator is in none of them.
    """

    flops: int
    ours: Mapping[str, ContenderTiming]
    peers: Mapping[str, ContenderTiming]
    peer_kernels: Mapping[str, ContenderTiming]
    forms: Mapping[str, str]

    @property
    def best_peer_ns(self) -> float | None:
        """The fastest peer's median, kernels counted where a peer tells them."""
        medians = [t.median_ns for t in (*self.peers.values(), *self.peer_kernels.values())]
        return min(medians, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times as fast our kernel is as the fastest peer; None without one."""
        best = self.best_peer_ns
        return None if best is None else best / self.ours[KERNEL].median_ns

    def ratio_to(self, peer: str) -> float | None:
        """How many times as fast our kernel is as a whole call of `peer`."""
        timing = self.peers.get(peer)
        return None if timing is None else timing.median_ns / self.ours[KERNEL].median_ns

    def gflops(self, timing: ContenderTiming) -> float:
        """The speed that `timing` means for this operator."""
        return self.flops / timing.median_ns


def compare(
    ours: Mapping[str, Callable[[], object]],
    peers: Mapping[str, Peer],
    spec: OpSpec,
    flops: int,
    plan: TimingPlan,
) -> Comparison:
    """All contenders on `spec`, in turns.

    Args:
        ours: our calls by KERNEL and PLAIN.
    """
    forms: dict[str, str] = {}
    for name, peer in peers.items():
        with contextlib.suppress(UnsupportedError):
            forms[name] = peer.load(spec)
    contenders: dict[tuple[str, str], Contender] = {
        ("ours", name): _our_contender(call, plan.min_repeat_s) for name, call in ours.items()
    }
    for name in forms:
        contenders["peer", name] = _peer_contender(peers[name], plan, kernel=False)
        if plan.peer_kernels:
            contenders["peer kernel", name] = _peer_contender(peers[name], plan, kernel=True)
    found = interleave(contenders, rounds=plan.rounds)

    def of(kind: str) -> dict[str, ContenderTiming]:
        return {name: timing for (k, name), timing in found.items() if k == kind}

    return Comparison(flops, of("ours"), of("peer"), of("peer kernel"), forms)


def _our_contender(call: Callable[[], object], min_s: float) -> Contender:
    def run() -> None:
        call()

    def time() -> Sequence[float]:
        return time_calls(run, batch_size(run, min_s), _REPEATS)

    return time


def _peer_contender(peer: Peer, plan: TimingPlan, *, kernel: bool) -> Contender:
    repeats = 5 if kernel else _REPEATS
    return lambda: peer.time(repeats, min_repeat_s=plan.min_repeat_s, kernel=kernel)


@contextlib.contextmanager
def peers_on(engines: Iterable[str], threads: int) -> Iterator[dict[str, Peer]]:
    """The peers called `engines`, they and this process on the same `threads` cores while it lasts.

    Raises: UnsupportedError, EnvironmentFailure as `Peer`.
    """
    cores = cores_for(threads)
    before = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        peers = {name: stack.enter_context(Peer(name, threads, cores)) for name in engines}
        os.sched_setaffinity(0, cores)
        stack.callback(os.sched_setaffinity, 0, before)
        yield peers


def geometric_mean(values: Iterable[float]) -> float | None:
    """The geometric mean, None of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None

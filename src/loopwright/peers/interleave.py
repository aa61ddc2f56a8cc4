"""Timing several contenders so that the machine's moods fall on all of them alike: A-B-A-B."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

Name = TypeVar("Name", bound=Hashable)

Contender: TypeAlias = Callable[[], Sequence[float]]
"""Times itself now: nanoseconds a call, any number of figures, none when it cannot."""


@dataclass(frozen=True, slots=True)
class ContenderTiming:
    """All figures of one contender, nanoseconds a call."""

    ns: tuple[float, ...]

    @property
    def median_ns(self) -> float:
        """What is quoted and compared."""
        return statistics.median(self.ns)

    @property
    def best_ns(self) -> float:
        """The fastest figure."""
        return min(self.ns)

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        if len(self.ns) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.ns, n=4, method="inclusive")
        return (high - low) / self.median_ns


def interleave(contenders: Mapping[Name, Contender], *, rounds: int) -> dict[Name, ContenderTiming]:
    """The timing of each contender over `rounds` rounds, each round asking every one in turn.

    Every other round goes backwards, so that none always follows the same one. Contenders without a
    figure are left out.
    """
    figures: dict[Name, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            figures[name].extend(contenders[name]())
    return {name: ContenderTiming(tuple(ns)) for name, ns in figures.items() if ns}

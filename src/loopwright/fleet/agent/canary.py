"""Whether a device is as fast as it was: a verdict on a series of canary runs.

The first runs say what the canary takes here. After that a sum grows by how far each run is over
half of what is allowed, and shrinks by how far it is under; it is capped, so that one disturbed run
says nothing, and a slow-down by as much as is allowed shows within a few runs. A second sum does
the same for runs that are faster: a device that was hot or shared while it was first timed is
judged by what it takes since, or nothing would ever be a slow-down.

Source: E. S. Page, Continuous inspection schemes, Biometrika 41, 1954 (the cumulative sum).
"""

from __future__ import annotations

import math

from loopwright.errors import InternalError

BASELINE_RUNS = 3
CALM_RUNS = 3
_ALARM = 2.0  # times what is allowed: 4 runs at least
_LASTING = 5.0  # the same for being faster, 10 runs: a moment's boost is no measure


class Canary:
    """Judges canary runs; `allowed` is a share, 0.05 for 5%."""

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.runs = 0
        self.drift = 0.0  # of the last run
        self.baseline_ns = 0.0
        self.off = False
        self.good = 0  # the last run that was well within what is allowed
        self.gained = 0.0  # by which share it is faster than it was first timed; 0 if it never was
        self._first_ns = 0.0
        self._slower = 0.0
        self._faster = 0.0
        self._calm = 0
        self._recent: list[float] = []

    @property
    def known(self) -> bool:
        """Whether there were enough runs to say anything."""
        return self.runs >= BASELINE_RUNS

    def observe(self, ns: float) -> bool:
        """Add a run; returns whether the device is off.

        Raises: InternalError for a time that is not valid.
        """
        if not (math.isfinite(ns) and ns > 0):
            raise InternalError(f"a canary run of {ns} ns")
        self.runs += 1
        self._recent = [*self._recent[1 - BASELINE_RUNS :], ns]
        if self.runs <= BASELINE_RUNS:
            self.baseline_ns = self._first_ns = min(self._recent)
        else:
            self.drift = ns / self.baseline_ns - 1.0
            if self.allowed:
                self._judge()
        if not self.off and self.drift <= self.allowed / 2:
            self.good = self.runs
        return self.off

    def _judge(self) -> None:
        unit = self.allowed * (1 - 1e-9)
        self._slower = self._sum(self._slower, self.drift)
        self._faster = self._sum(self._faster, -self.drift)
        if self._faster >= _LASTING * unit:
            self._rebase()
        elif self.off:
            self._calm = self._calm + 1 if self.drift <= self.allowed else 0
            if self._calm >= CALM_RUNS:
                self.off = False
                self._slower = 0.0
        elif self._slower >= _ALARM * unit:
            self.off = True
            self._calm = 0

    def _sum(self, before: float, by: float) -> float:
        """A sum after a run that was off by `by` in its direction."""
        return max(0.0, before + min(by, self.allowed) - self.allowed / 2)

    def _rebase(self) -> None:
        """Judge by the last runs from now on."""
        self.drift = self._recent[-1] / min(self._recent) - 1.0
        self.baseline_ns = min(self._recent)
        self.gained = 1.0 - self.baseline_ns / self._first_ns
        self.off = False
        self._slower = self._faster = 0.0

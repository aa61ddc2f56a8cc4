"""Whether a device is as fast as it was: a verdict on a row of canary runs.

The first runs say what the canary takes here. After that a sum grows with what each run is over
half of what is allowed, and shrinks with what it is under; it is capped, so that one disturbed run
says nothing, and a slow-down by as much as is allowed shows within a few runs.

Source: E. S. Page, Continuous inspection schemes, Biometrika 41, 1954 (the cumulative sum).
"""

from __future__ import annotations

BASELINE_RUNS = 3
CALM_RUNS = 3
_ALARM = 2.0  # times what is allowed


class Canary:
    """Judges canary runs; `allowed` is a share, 0.05 for 5%."""

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.runs = 0
        self.drift = 0.0  # of the last run
        self.baseline_ns = 0.0
        self.off = False
        self._sum = 0.0
        self._calm = 0

    @property
    def known(self) -> bool:
        """Whether there were enough runs to say anything."""
        return self.runs >= BASELINE_RUNS

    def observe(self, ns: float) -> bool:
        """Take a run; whether the device is off."""
        self.runs += 1
        if self.runs <= BASELINE_RUNS:
            self.baseline_ns = ns if self.runs == 1 else min(self.baseline_ns, ns)
            return False
        self.drift = ns / self.baseline_ns - 1.0
        if not self.allowed:
            return False
        step = min(self.drift, self.allowed) - self.allowed / 2
        self._sum = max(0.0, self._sum + step)
        if self.off:
            self._calm = self._calm + 1 if self.drift <= self.allowed else 0
            if self._calm >= CALM_RUNS:
                self.off = False
                self._sum = 0.0
        elif self._sum >= _ALARM * self.allowed * (1 - 1e-9):
            self.off = True
            self._calm = 0
        return self.off

"""Picking a batch that is good and varied."""

from __future__ import annotations

import numpy as np

from loopwright.learn.dataset import Floats
from loopwright.sched.extent import IntArray


def pick(points: IntArray, scores: Floats, n: int, alpha: float) -> list[int]:
    """The rows of `points`, int64 [M, K], that greedily maximise score and coverage of knob values.

    A row's gain is its score plus `alpha` times the share of knobs for which it adds a value that
    no row picked before it has. The sum is submodular, so the greedy choice is within 1 -
    1/e of the best (for scores that are not negative).

    Source: Chen et al., "Learning to Optimize Tensor Programs", equation 3.
    """
    left = np.ones(len(points), dtype=np.bool_)
    new = np.ones(points.shape, dtype=np.bool_)  # whether the row's value of the knob is uncovered
    picked: list[int] = []
    for _ in range(min(n, len(points))):
        gain = np.where(left, scores + alpha * new.mean(axis=1), -np.inf)
        row = int(gain.argmax())
        picked.append(row)
        left[row] = False
        new &= points != points[row]
    return picked

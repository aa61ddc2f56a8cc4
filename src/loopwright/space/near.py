"""Which values of a knob are close to each other."""

from __future__ import annotations

import numpy as np

from loopwright.sched.extent import IntArray
from loopwright.space.knobs import ChoiceKnob, Knob, SplitKnob

_CLOSE = 6
_LISTED = 4096


def nearest(knob: Knob) -> IntArray | None:
    """The indices of the k closest other values of each of the M values, int64 [M, k].

    None where values have no distance.
    Splits are compared by the logarithms of their sizes; numbers by their place in the list.
    """
    count = len(knob.values)
    if count < 3:
        return None
    if isinstance(knob, SplitKnob) and knob.parts > 1 and count <= _LISTED:
        return _by_sizes(np.log2(np.array(knob.values, dtype=np.float64)), min(_CLOSE, count - 1))
    numbers = isinstance(knob, ChoiceKnob) and all(type(v) is int for v in knob.values)
    return _by_place(count) if isinstance(knob, SplitKnob) or numbers else None


def _by_sizes(logs: np.ndarray[tuple[int, int], np.dtype[np.float64]], k: int) -> IntArray:
    rows: list[IntArray] = []
    for begin in range(0, len(logs), 256):
        block = logs[begin : begin + 256]
        distance = np.abs(block[:, None, 1:] - logs[None, :, 1:]).sum(axis=2)
        distance[np.arange(len(block)), begin + np.arange(len(block))] = np.inf
        rows.append(np.argsort(distance, axis=1, kind="stable")[:, :k].astype(np.int64))
    return np.concatenate(rows)


def _by_place(count: int) -> IntArray:
    place = np.arange(count)
    below = np.where(place > 0, place - 1, 1)
    above = np.where(place < count - 1, place + 1, count - 2)
    return np.stack([below, above], axis=1)

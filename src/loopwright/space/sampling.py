"""Drawing valid points without listing the product of the knobs.

Knobs that no constraint ties together are independent, so each connected group of them is drawn
on its own: by rejection, which is uniform, or, where almost nothing survives, knob by knob.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from loopwright.errors import ConfigError
from loopwright.sched.extent import IntArray
from loopwright.space.constraints import BoolArray, Constraint

_CHUNK = 1 << 16
_PROBE = 4096  # draws after which a group counts as too tight for rejection
_TIGHT = 1 / 256
_ROUNDS = 32  # restarts of the knob-by-knob draw
_CELLS = 1 << 20  # points examined at once by the knob-by-knob draw


class Constrained(Protocol):
    """What sampling needs of a `Space`."""

    names: tuple[str, ...]
    constraints: tuple[Constraint, ...]
    radices: IntArray

    def column(self, name: str) -> int:
        """The column of knob `name`."""

    def holds(self, points: IntArray, constraints: Sequence[Constraint]) -> BoolArray:
        """Which points satisfy each of `constraints`."""


def groups(space: Constrained) -> list[tuple[list[int], list[Constraint]]]:
    """The columns of each connected group of constrained knobs, with the constraints among them."""
    found: list[tuple[set[int], list[Constraint]]] = []
    for constraint in space.constraints:
        columns = {space.column(name) for name in constraint.names}
        together = [constraint]
        apart: list[tuple[set[int], list[Constraint]]] = []
        for known, constraints in found:
            if known & columns:
                columns |= known
                together = constraints + together
            else:
                apart.append((known, constraints))
        found = [*apart, (columns, together)]
    return [(sorted(columns), constraints) for columns, constraints in found]


def sample(space: Constrained, rng: np.random.Generator, n: int) -> IntArray:
    """`n` valid points, int64 [n, K]; see `Space.sample`."""
    points = _draw(space, rng, n)
    for columns, constraints in groups(space):
        part = _reject(space, rng, n, columns, constraints)
        if len(part) < n:
            missing = n - len(part)
            rest = _knob_by_knob(space, rng, missing, columns, constraints)
            # The few that rejection found are uniform; mixing them in costs nothing.
            part = rng.permutation(np.concatenate([part, rest]))
        points[:, columns] = part
    return points


def estimate_valid(space: Constrained, rng: np.random.Generator, n: int) -> float:
    """The estimated share of points that are valid: the product of the groups' shares."""
    share = 1.0
    for _, constraints in groups(space):
        share *= float(space.holds(_draw(space, rng, n), constraints).mean())
    return share


def _draw(space: Constrained, rng: np.random.Generator, n: int) -> IntArray:
    return rng.integers(0, space.radices, size=(n, len(space.radices)))


def _reject(
    space: Constrained,
    rng: np.random.Generator,
    n: int,
    columns: list[int],
    constraints: list[Constraint],
) -> IntArray:
    """Up to `n` uniform rows of `columns`; fewer when less than one draw in 256 survives."""
    kept: list[IntArray] = []
    found = drawn = 0
    size = max(n + n // 4, 64)
    while found < n:
        points = np.zeros((min(size, _CHUNK), len(space.radices)), dtype=np.int64)
        points[:, columns] = rng.integers(
            0, space.radices[columns], size=(len(points), len(columns))
        )
        good = points[space.holds(points, constraints)][:, columns]
        kept.append(good)
        found += len(good)
        drawn += len(points)
        if drawn >= _PROBE and found < drawn * _TIGHT:
            break
        size = int((n - found) * (drawn / max(found, 1)) * 1.1) + 64
    return np.concatenate(kept)[:n] if kept else np.empty((0, len(columns)), dtype=np.int64)


def _knob_by_knob(
    space: Constrained,
    rng: np.random.Generator,
    n: int,
    columns: list[int],
    constraints: list[Constraint],
) -> IntArray:
    """`n` rows of `columns`, each knob drawn from the values that satisfy its finished constraints.

    Raises: ConfigError when `_ROUNDS` restarts leave nothing.
    """
    kept: list[IntArray] = []
    found = 0
    for attempt in range(_ROUNDS):
        order = _order(space, rng, columns, constraints, shuffled=attempt > 0)
        want = max(64, 2 * (n - found))
        points = np.zeros((want, len(space.radices)), dtype=np.int64)
        done: set[str] = set()
        for column in order:
            done.add(space.names[column])
            finished = [
                c for c in constraints if space.names[column] in c.names and done >= {*c.names}
            ]
            points = _extend(space, rng, points, column, finished)
        kept.append(points[:, columns])
        found += len(points)
        if found >= n:
            return np.concatenate(kept)[:n]
    if found:
        survivors = np.concatenate(kept)
        return survivors[rng.integers(len(survivors), size=n)]
    names = ", ".join(space.names[c] for c in columns)
    reasons = "; ".join(c.reason for c in constraints[:3])
    raise ConfigError(
        f"no config of knobs {names} was found that satisfies all {len(constraints)} constraints "
        f"({reasons}); loosen a constraint or widen a knob"
    )


def _extend(
    space: Constrained,
    rng: np.random.Generator,
    points: IntArray,
    column: int,
    constraints: list[Constraint],
) -> IntArray:
    """`points` with `column` drawn from the values that satisfy `constraints`, less dead ends."""
    radix = int(space.radices[column])
    if not constraints:
        points[:, column] = rng.integers(radix, size=len(points))
        return points
    extended: list[IntArray] = []
    step = max(1, _CELLS // radix)
    for begin in range(0, len(points), step):
        block = points[begin : begin + step]
        grid = np.repeat(block, radix, axis=0)
        grid[:, column] = np.tile(np.arange(radix), len(block))
        good = space.holds(grid, constraints).reshape(len(block), radix)
        weight = np.where(good, rng.random(good.shape), -1.0)
        block = block.copy()
        block[:, column] = weight.argmax(axis=1)
        extended.append(block[good.any(axis=1)])
    return np.concatenate(extended) if extended else points


def _order(
    space: Constrained,
    rng: np.random.Generator,
    columns: list[int],
    constraints: list[Constraint],
    *,
    shuffled: bool,
) -> list[int]:
    """The order to draw `columns` in: finish one constraint after another, small knobs first."""
    order: list[int] = []
    left = (
        [constraints[i] for i in rng.permutation(len(constraints))] if shuffled else [*constraints]
    )
    while left:
        left.sort(key=lambda c: len({*c.names} - {space.names[i] for i in order}))
        todo = sorted({space.column(name) for name in left.pop(0).names} - {*order})
        if shuffled:
            todo = [todo[i] for i in rng.permutation(len(todo))]
        else:
            todo.sort(key=lambda i: int(space.radices[i]))
        order += todo
    return order + [c for c in columns if c not in order]

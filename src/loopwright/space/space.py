"""A space of configs: knobs, and the joint constraints that hold between them.

Points are index matrices, int64 [N, K]: the index of each knob's value. Everything that search
needs is done for many points at once, and only `enumerate` lists the product of the knobs; it
refuses when that product is large. A space keeps no state: the generator is
always given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import ConfigError
from loopwright.sched.extent import IntArray, Size
from loopwright.space import sampling
from loopwright.space.config import Config, ConfigBatch
from loopwright.space.constraints import BoolArray, Column, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, KnobValue, SplitKnob
from loopwright.space.near import nearest

Keys: TypeAlias = npt.NDArray[np.uint64]
_CHUNK = 1 << 16
_NEIGHBOUR_TRIES = 12
_NEAR_SHARE = 0.5


class Space:
    """The configs that give each of `knobs` one of its values and satisfy all of `constraints`.

    Raises: ConfigError when two knobs share a name, or a constraint names a knob that is not there.
    """

    def __init__(self, knobs: Sequence[Knob], constraints: Sequence[Constraint] = ()) -> None:
        self.knobs = tuple(knobs)
        self.constraints = tuple(constraints)
        self.names = tuple(knob.name for knob in self.knobs)
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"two knobs share a name in {', '.join(self.names)}; rename one")
        self._column = {name: index for index, name in enumerate(self.names)}
        for constraint in self.constraints:
            for name in constraint.names:
                if name not in self._column:
                    raise ConfigError(
                        f"constraint {constraint.reason!r} names knob {name!r}, which is none of "
                        f"{', '.join(self.names)}"
                    )
        self.radices: IntArray = np.array([len(k.values) for k in self.knobs], dtype=np.int64)
        self._tables = tuple(_table(knob) for knob in self.knobs)
        self._index = tuple({_tag(v): i for i, v in enumerate(k.values)} for k in self.knobs)
        self._near = tuple(nearest(knob) for knob in self.knobs)
        self._movable: IntArray = np.flatnonzero(self.radices > 1)
        self._weights = _key_weights(self.radices)

    @property
    def cardinality(self) -> int:
        """The number of points, valid or not; may exceed 2**63."""
        return math.prod(len(knob.values) for knob in self.knobs)

    def __repr__(self) -> str:
        return (
            f"Space({', '.join(f'{k.name}:{len(k.values)}' for k in self.knobs)}; "
            f"{self.cardinality} points, {len(self.constraints)} constraints)"
        )

    def column(self, name: str) -> int:
        """The column of knob `name` in a matrix of points.

        Raises: ConfigError when there is no such knob.
        """
        if name not in self._column:
            raise ConfigError(f"no knob {name!r} in this space; there are {', '.join(self.names)}")
        return self._column[name]

    # Membership.

    def valid(self, points: IntArray) -> BoolArray:
        """Which points satisfy every constraint, bool [N]."""
        return self.holds(points, self.constraints)

    def holds(self, points: IntArray, constraints: Sequence[Constraint]) -> BoolArray:
        """Which points satisfy each of `constraints`, bool [N]; other columns are ignored."""
        n = len(points)
        verdict: BoolArray = np.ones(n, dtype=np.bool_)
        for constraint in constraints:
            columns = {name: self.values(points, name) for name in constraint.names}
            verdict &= constraint.holds(columns, n)
        return verdict

    def values(self, points: IntArray, name: str) -> Column:
        """Knob `name` at each point: a tuple of int64 [N] for a split, else an array [N]."""
        column = self._column[name]
        table = self._tables[column]
        index = points[:, column]
        if isinstance(self.knobs[column], SplitKnob):
            return tuple(table[part][index] for part in range(len(table)))
        return table[index]

    def refusal(self, point: IntArray) -> str | None:
        """Why `point`, int64 [K], is not in the space: a broken constraint's reason, or None."""
        for constraint in self.constraints:
            if not self.holds(point[None, :], (constraint,))[0]:
                return constraint.reason
        return None

    # Generating points.

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """`n` valid points drawn with replacement, int64 [n, K].

        Uniform over the valid points unless the constraints are so tight that rejection fails; then
        knobs are drawn one by one from the values still possible, which favours some points.
        Raises: ConfigError when no valid point was found with bounded effort.
        """
        return sampling.sample(self, rng, n)

    def estimate_valid(self, rng: np.random.Generator, n: int = 8192) -> float:
        """The estimated share of `cardinality` that satisfies the constraints, from `n` draws."""
        return sampling.estimate_valid(self, rng, n)

    def neighbour(self, rng: np.random.Generator, points: IntArray) -> IntArray:
        """Valid points that differ from `points` in one knob each, int64 [N, K].

        Half of the moves of a numeric knob go to a value close by. A point without a valid
        neighbour is returned unchanged.
        """
        moved = points.copy()
        if not self._movable.size:
            return moved
        pending: IntArray = np.arange(len(points))
        for _ in range(_NEIGHBOUR_TRIES):
            proposal = self._step(rng, points[pending])
            good = self.valid(proposal)
            moved[pending[good]] = proposal[good]
            pending = pending[~good]
            if not pending.size:
                return moved
        for row in pending:
            around = self.neighbourhood(points[row])
            if len(around):
                moved[row] = around[rng.integers(len(around))]
        return moved

    def neighbourhood(self, point: IntArray) -> IntArray:
        """All valid points that differ from `point`, int64 [K], in one knob: int64 [M, K]."""
        total = int((self.radices - 1).sum())
        around = np.repeat(point[None, :], total, axis=0)
        begin = 0
        for column, radix in enumerate(self.radices):
            others = np.arange(radix)
            around[begin : begin + radix - 1, column] = others[others != point[column]]
            begin += int(radix) - 1
        return around[self.valid(around)]

    def enumerate(self, limit: int = 1 << 20) -> IntArray:
        """All valid points in lexicographic order, int64 [M, K].

        Raises: ConfigError when the space has more than `limit` points.
        """
        if self.cardinality > limit:
            raise ConfigError(
                f"this space has {self.cardinality} points, more than the {limit} that may be "
                "listed; use another policy than grid, or a narrower space"
            )
        found: list[IntArray] = []
        for begin in range(0, self.cardinality, _CHUNK):
            ranks = np.arange(begin, min(begin + _CHUNK, self.cardinality), dtype=np.int64)
            points = np.empty((len(ranks), len(self.knobs)), dtype=np.int64)
            for column in reversed(range(len(self.knobs))):
                ranks, points[:, column] = np.divmod(ranks, self.radices[column])
            found.append(points[self.valid(points)])
        return np.concatenate(found)

    def keys(self, points: IntArray) -> Keys:
        """uint64 [N] that identifies points: exact up to 2**64 points, a hash beyond."""
        keys: Keys = (points.astype(np.uint64) * self._weights).sum(axis=1, dtype=np.uint64)
        return keys

    # Between points and configs.

    def decode(self, point: IntArray) -> Config:
        """The config of `point`, int64 [K]."""
        pairs = zip(self.knobs, point, strict=True)
        return Config.of({knob.name: knob.values[int(index)] for knob, index in pairs})

    def encode(self, config: Config) -> IntArray:
        """The point of `config`, int64 [K]; constraints are not checked.

        Raises: ConfigError naming the knob or value that this space does not have.
        """
        for name in config.names():
            if name not in self._column:
                raise ConfigError(
                    f"config has knob {name!r}, which this space does not (it has "
                    f"{', '.join(self.names)}); was the template edited?"
                )
        point = np.empty(len(self.knobs), dtype=np.int64)
        given = dict(config.items)
        for column, knob in enumerate(self.knobs):
            if knob.name not in given:
                raise ConfigError(f"config lacks knob {knob.name!r}; was the template edited?")
            index = self._index[column].get(_tag(given[knob.name]))
            if index is None:
                shown = ", ".join(str(value) for value in knob.values[:6])
                raise ConfigError(
                    f"config: knob {knob.name!r} has no value {given[knob.name]!r} in this space "
                    f"(it has {len(knob.values)}: {shown}, ...); was the template edited?"
                )
            point[column] = index
        return point

    def contains(self, config: Config) -> bool:
        """Whether `config` is a config of this space."""
        try:
            return bool(self.valid(self.encode(config)[None])[0])
        except ConfigError:
            return False

    def batches(self, points: IntArray) -> list[tuple[IntArray, ConfigBatch]]:
        """`points` grouped by structure: the rows of each group and the batch of its configs."""
        structural = [i for i, knob in enumerate(self.knobs) if knob.categorical]
        groups = _group(points[:, structural], self.radices[structural])
        return [(rows, self._batch(points[rows], structural)) for rows in groups]

    def _batch(self, points: IntArray, structural: list[int]) -> ConfigBatch:
        shared: Mapping[str, KnobValue] = {
            self.names[i]: self.knobs[i].values[int(points[0, i])] for i in structural
        }
        splits = {
            knob.name: tuple(Size(table[points[:, i]]) for table in self._tables[i])
            for i, knob in enumerate(self.knobs)
            if isinstance(knob, SplitKnob)
        }
        return ConfigBatch(len(points), Config.of(shared), splits)

    def _step(self, rng: np.random.Generator, points: IntArray) -> IntArray:
        """`points`, each with one knob changed, valid or not."""
        n = len(points)
        moved = points.copy()
        chosen = self._movable[rng.integers(len(self._movable), size=n)]
        radix = self.radices[chosen]
        rows = np.arange(n)
        old = points[rows, chosen]
        moved[rows, chosen] = (old + 1 + rng.integers(0, radix - 1)) % radix
        close = rng.random(n) < _NEAR_SHARE
        pick = rng.integers(1 << 30, size=n)
        for column in np.unique(chosen[close]):
            near = self._near[column]
            if near is not None:
                mine = rows[close & (chosen == column)]
                moved[mine, column] = near[points[mine, column], pick[mine] % near.shape[1]]
        return moved


def _tag(value: KnobValue) -> tuple[type, KnobValue]:
    """A key that distinguishes 1 from True."""
    return type(value), value


def _table(knob: Knob) -> npt.NDArray[np.generic]:
    """The knob's values as arrays: [parts, M] sizes of a split, else [M]."""
    if isinstance(knob, SplitKnob):
        return np.ascontiguousarray(np.array(knob.values, dtype=np.int64).T)
    same_type = len({type(value) for value in knob.values}) == 1
    if isinstance(knob, ChoiceKnob) and same_type:
        return np.array(knob.values)
    table = np.empty(len(knob.values), dtype=np.object_)
    table[:] = knob.values
    return table


def _key_weights(radices: IntArray) -> Keys:
    """Mixed-radix place values modulo 2**64, or odd multipliers when the product does not fit."""
    if math.prod(int(r) for r in radices) <= 1 << 64:
        places = [math.prod(int(r) for r in radices[i + 1 :]) for i in range(len(radices))]
    else:
        places = [int(w) | 1 for w in np.random.default_rng(0).integers(1 << 62, size=len(radices))]
        places = [(w * 0x9E3779B97F4A7C15) % (1 << 64) for w in places]
    return np.array([place % (1 << 64) for place in places], dtype=np.uint64)


def _group(points: IntArray, radices: IntArray) -> list[IntArray]:
    """The row numbers of equal rows of `points`, groups in order of their first row."""
    labels = np.zeros(len(points), dtype=np.int64)
    for column, radix in enumerate(radices):
        _, labels = np.unique(labels * radix + points[:, column], return_inverse=True)
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    return sorted(np.split(order, cuts), key=lambda rows: int(rows[0])) if len(points) else []

"""Knobs: the named, finite choices that span a space.

A `SplitKnob` holds the batched numbers of a config. `ChoiceKnob`, `ReorderKnob` and `AnnotateKnob`
are categorical; together they are a config's structure, and a template may branch on them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from loopwright.errors import ConfigError

Scalar: TypeAlias = int | str | bool
KnobValue: TypeAlias = Scalar | tuple[int, ...] | tuple[str, ...]
SplitPolicy: TypeAlias = Literal["factors", "power2", "verbose", "all", "listed"]
"""`factors`: inner parts whose product divides the extent. `power2`: powers of two. `verbose`:
both. `all`: every size. `listed`: the candidates given, nothing else."""

MAX_VALUES = 200_000
"""A knob lists its values, so it must stay this small; the product over knobs need not."""


@dataclass(frozen=True, slots=True)
class SplitKnob:
    """How a loop of `extent` is split into `parts`; a value is their sizes, outermost first.

    The outermost size is always the extent divided by the product of the others, rounded up.

    Args:
        max_factor: the largest size of any part but the outermost, or one bound for each of them.
        tails: whether sizes that do not divide the extent are allowed too (never with `factors`).
        candidates: with policy `listed`, the sizes: whole values, or the inner parts alone.
    """

    name: str
    extent: int
    parts: int = 2
    policy: SplitPolicy = "factors"
    max_factor: int | tuple[int, ...] | None = None
    tails: bool = False
    candidates: tuple[tuple[int, ...], ...] = ()
    values: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.extent < 1 or self.parts < 1:
            raise ConfigError(
                f"split {self.name!r}: extent {self.extent} and parts {self.parts} must be >= 1"
            )
        if self.policy not in get_args(SplitPolicy):
            known = ", ".join(get_args(SplitPolicy))
            raise ConfigError(
                f"split {self.name!r}: unknown policy {self.policy!r}; use one of {known}"
            )
        inner = self._listed() if self.policy == "listed" else _inner_parts(self)
        values = tuple(dict.fromkeys(_with_outermost(self.extent, sizes) for sizes in inner))
        _check_values(self.name, values)
        object.__setattr__(self, "values", values)

    @property
    def categorical(self) -> bool:
        """False: sizes are batched numbers, not structure."""
        return False

    def bounds(self) -> tuple[int, ...]:
        """The largest size of each part but the outermost."""
        inner = self.parts - 1
        if self.max_factor is None:
            return (2 * self.extent,) * inner  # more than any size
        if isinstance(self.max_factor, int):
            return (self.max_factor,) * inner
        if len(self.max_factor) != inner:
            raise ConfigError(
                f"split {self.name!r}: max_factor {self.max_factor} needs {inner} bounds, "
                "one for each part but the outermost"
            )
        return self.max_factor

    def _listed(self) -> Iterator[tuple[int, ...]]:
        for sizes in self.candidates:
            inner = sizes[1:] if len(sizes) == self.parts else sizes
            if len(inner) != self.parts - 1 or min(inner, default=1) < 1:
                raise ConfigError(
                    f"split {self.name!r}: candidate {sizes} needs {self.parts} sizes (or "
                    f"{self.parts - 1} without the outermost), each at least 1"
                )
            if len(sizes) == self.parts and _with_outermost(self.extent, inner) != sizes:
                raise ConfigError(
                    f"split {self.name!r}: candidate {sizes} does not cover extent {self.extent}; "
                    f"its outermost size must be {_with_outermost(self.extent, inner)[0]}"
                )
            yield inner


@dataclass(frozen=True, slots=True)
class ChoiceKnob:
    """One of `options`: numbers, words or yes/no."""

    name: str
    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        _check_values(self.name, self.options)

    @property
    def values(self) -> tuple[Scalar, ...]:
        """The options."""
        return self.options

    @property
    def categorical(self) -> bool:
        """True: part of the structure."""
        return True


@dataclass(frozen=True, slots=True)
class ReorderKnob:
    """The order of `axes`; a value is a tuple of axis names, outermost first.

    Without `candidates`, every permutation is a value.
    """

    name: str
    axes: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        orders = self.candidates if self.candidates else itertools.permutations(self.axes)
        candidates = tuple(tuple(order) for order in itertools.islice(orders, MAX_VALUES + 1))
        object.__setattr__(self, "candidates", candidates)
        _check_values(self.name, candidates)
        for order in candidates:
            if sorted(order) != sorted(self.axes):
                raise ConfigError(
                    f"reorder {self.name!r}: candidate {order} is not an order of {self.axes}"
                )

    @property
    def values(self) -> tuple[tuple[str, ...], ...]:
        """The candidate orders."""
        return self.candidates

    @property
    def categorical(self) -> bool:
        """True: part of the structure."""
        return True


@dataclass(frozen=True, slots=True)
class AnnotateKnob:
    """One annotation for each of `loops`; a value is a tuple of them in the loops' order.

    `options` are the annotations a loop may have; `candidates`, when given, the only combinations.
    """

    name: str
    loops: tuple[str, ...]
    options: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "loops", tuple(self.loops))
        object.__setattr__(self, "options", tuple(self.options))
        product = itertools.product(self.options, repeat=len(self.loops))
        combinations = self.candidates if self.candidates else product
        candidates = tuple(tuple(c) for c in itertools.islice(combinations, MAX_VALUES + 1))
        object.__setattr__(self, "candidates", candidates)
        _check_values(self.name, candidates)
        for words in candidates:
            if len(words) != len(self.loops) or not set(words) <= set(self.options):
                raise ConfigError(
                    f"annotate {self.name!r}: candidate {words} needs one of {self.options} "
                    f"for each loop of {self.loops}"
                )

    @property
    def values(self) -> tuple[tuple[str, ...], ...]:
        """The combinations of annotations."""
        return self.candidates

    @property
    def categorical(self) -> bool:
        """True: part of the structure."""
        return True


Knob: TypeAlias = SplitKnob | ChoiceKnob | ReorderKnob | AnnotateKnob


def narrowed(knob: Knob, values: Sequence[KnobValue]) -> Knob:
    """`knob` with only its values in `values`, in the knob's order.

    Raises: ConfigError when none is left.
    """
    wanted = {(type(value), value) for value in values}
    kept = tuple(value for value in knob.values if (type(value), value) in wanted)
    if not kept:
        raise ConfigError(f"knob {knob.name!r}: none of {list(values)[:4]} is one of its values")
    match knob:
        case SplitKnob():
            sizes = tuple(v for v in knob.values if (tuple, v) in wanted)
            return SplitKnob(knob.name, knob.extent, knob.parts, "listed", candidates=sizes)
        case ChoiceKnob():
            return ChoiceKnob(knob.name, tuple(v for v in knob.values if (type(v), v) in wanted))
        case ReorderKnob():
            orders = tuple(v for v in knob.values if (tuple, v) in wanted)
            return ReorderKnob(knob.name, knob.axes, orders)
        case AnnotateKnob():
            combinations = tuple(v for v in knob.values if (tuple, v) in wanted)
            return AnnotateKnob(knob.name, knob.loops, knob.options, combinations)


def _check_values(name: str, values: Sequence[KnobValue]) -> None:
    if not name:
        raise ConfigError(f"a knob with values {list(values)[:4]} has no name; give it one")
    if not values:
        raise ConfigError(f"knob {name!r} has no value; give it at least one candidate")
    if len(values) > MAX_VALUES:
        raise ConfigError(
            f"knob {name!r} has over {MAX_VALUES} values; use fewer parts, max_factor or a list"
        )
    if len({(type(value), value) for value in values}) != len(values):
        raise ConfigError(f"knob {name!r}: a value is given twice in {list(values)[:8]}")


def _with_outermost(extent: int, inner: tuple[int, ...]) -> tuple[int, ...]:
    return (-(-extent // math.prod(inner)), *inner)


def _inner_parts(split: SplitKnob) -> Iterator[tuple[int, ...]]:
    """Sizes of the parts but the outermost, in lexicographic order; at most MAX_VALUES + 1."""
    extent = split.extent
    powers = [1 << e for e in range((extent - 1).bit_length() + 1)]
    if split.policy == "all":
        sizes = list(range(1, extent + 1))
    elif split.policy == "power2":
        sizes = powers
    else:
        factors = {f for f in range(1, extent + 1) if extent % f == 0}
        sizes = sorted(factors | set(powers) if split.policy == "verbose" else factors)
    tails = split.tails and split.policy != "factors"
    if not tails:
        sizes = [size for size in sizes if extent % size == 0]
    # One tile that covers everything may be a power of two above the extent; nothing may be larger.
    ceiling = powers[-1] if tails and split.policy != "all" else extent
    products = _products(sizes, split.bounds(), ceiling)
    whole = (inner for inner in products if tails or extent % math.prod(inner) == 0)
    return itertools.islice(whole, MAX_VALUES + 1)


def _products(
    sizes: Sequence[int], bounds: tuple[int, ...], ceiling: int
) -> Iterator[tuple[int, ...]]:
    """Tuples of `sizes`, each within its bound, whose product is at most `ceiling`."""
    if not bounds:
        yield ()
        return
    for size in sizes:
        if size > bounds[0] or size > ceiling:
            return
        for rest in _products(sizes, bounds[1:], ceiling // size):
            yield (size, *rest)

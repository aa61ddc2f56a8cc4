"""How an index moves with the loops: closed-form arithmetic on one candidate or on N at once.

An index is a sum of terms `coeff * ((loop // div) % mod)` (mod 0: no modulo). Splits keep div = 1
and mod = 0; fused loops are where the other two come from. A split that cuts through a fused loop
unevenly has no such form: its terms are estimates and say so (`exact` is False). Generated code
relies on exact terms only.

These are not the linear forms of `ir.linear`: what is multiplied is itself computed with arrays
(`div` and `mod` differ by candidate), so that terms cannot be told apart by a key and merged, and a
coefficient may be 0 for only some candidates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.sched.extent import Extent, ceildiv
from loopwright.sched.steps import FuseStep, SplitStep

LoopId: TypeAlias = tuple[str, str]
"""(stage, loop): unique in a schedule."""
Flag: TypeAlias = bool | npt.NDArray[np.bool_]
"""Yes or no, for one candidate or for each of N."""


@dataclass(frozen=True, slots=True, eq=False)
class LoopTerm:
    """`coeff * ((loop // div) % mod)`; mod 0 means no modulo."""

    loop: LoopId
    coeff: Extent
    div: Extent = 1
    mod: Extent = 0
    exact: Flag = True


Terms: TypeAlias = tuple[LoopTerm, ...]


def maximum(a: Extent, b: Extent) -> Extent:
    """The larger, elementwise."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return np.maximum(a, b)


def minimum(a: Extent, b: Extent) -> Extent:
    """The smaller, elementwise."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return np.minimum(a, b)


def choose(flag: Flag, yes: Extent, no: Extent) -> Extent:
    """`yes` where `flag` holds, else `no`, elementwise."""
    if isinstance(flag, bool):
        return yes if flag else no
    return np.where(flag, yes, no)


def divides(divisor: Extent, number: Extent) -> Flag:
    """True where `divisor` (0 counts as 1) divides `number`, elementwise."""
    if isinstance(divisor, int) and divisor <= 1:
        return True
    return _flag(number % maximum(divisor, 1) == 0)


def all_exact(terms: Terms) -> Flag:
    """True where every term is exact, elementwise."""
    result: Flag = True
    for term in terms:
        result = result & term.exact
    return result


def expand(terms: Terms, stage: str, relation: SplitStep | FuseStep, inner_extent: Extent) -> Terms:
    """`terms` with the loops that `relation` replaced expressed in those it made.

    `inner_extent` is the extent of the second loop of a FuseStep (unused for a SplitStep).
    """
    result: list[LoopTerm] = []
    for term in terms:
        if isinstance(relation, SplitStep) and term.loop == (stage, relation.loop):
            result += _split_term(term, stage, relation)
        elif isinstance(relation, FuseStep) and term.loop == (stage, relation.first):
            result.append(replace(term, loop=(stage, relation.fused), div=term.div * inner_extent))
        elif isinstance(relation, FuseStep) and term.loop == (stage, relation.second):
            result.append(_second_term(term, (stage, relation.fused), inner_extent))
        else:
            result.append(term)
    return tuple(result)


def _split_term(term: LoopTerm, stage: str, split: SplitStep) -> tuple[LoopTerm, LoopTerm]:
    """The term of `outer * factor + inner`; exact where factor, div and mod divide each other."""
    factor, div, mod = split.factor, term.div, term.mod
    inner = (stage, split.inner)
    if isinstance(div, int) and isinstance(mod, int) and (div, mod) == (1, 0):  # nothing was fused
        outer = LoopTerm((stage, split.outer), term.coeff * factor, exact=term.exact)
        return outer, LoopTerm(inner, term.coeff, term.div, term.mod, term.exact)
    step = maximum(factor // div, 1)
    unbounded = _flag(mod == 0)
    aligned = divides(div, factor) | divides(factor, div)
    wraps_evenly = unbounded | divides(step, mod) | divides(mod, step)
    exact = term.exact & aligned & wraps_evenly
    outer = LoopTerm(
        (stage, split.outer),
        term.coeff * step,
        maximum(div // factor, 1),
        choose(unbounded, 0, maximum(mod // step, 1)),
        exact,
    )
    return outer, LoopTerm(inner, term.coeff, term.div, term.mod, exact)


def _second_term(term: LoopTerm, fused: LoopId, extent: Extent) -> LoopTerm:
    """The term of the second loop of a fuse, `fused % extent`."""
    whole = ceildiv(extent, term.div)
    unbounded = _flag(term.mod == 0)
    aligned = divides(term.div, extent) | _flag(term.div >= extent)
    wraps_evenly = unbounded | _flag(term.mod >= whole) | divides(term.mod, whole)
    mod = choose(unbounded, whole, minimum(term.mod, whole))
    return replace(term, loop=fused, mod=mod, exact=term.exact & aligned & wraps_evenly)


def scaled(terms: Terms, factor: Extent) -> Terms:
    """Every term times `factor`."""
    return tuple(LoopTerm(t.loop, t.coeff * factor, t.div, t.mod, t.exact) for t in terms)


def count(term: LoopTerm, extent: Extent) -> Extent:
    """How many distinct values the term takes while its loop runs."""
    steps = ceildiv(extent, term.div)
    return choose(_flag(term.mod == 0), steps, minimum(steps, term.mod))


def span(term: LoopTerm, extent: Extent) -> Extent:
    """The distance from the least to the greatest value of the term while its loop runs."""
    return maximum(term.coeff, -term.coeff) * (count(term, extent) - 1)


def reach(terms: Terms, extents: Mapping[LoopId, Extent], loops: Collection[LoopId]) -> Extent:
    """The distance from the least to the greatest value of the index while `loops` run."""
    total: Extent = 0
    for term in terms:
        if term.loop in loops:
            total = total + span(term, extents[term.loop])
    return total


def step_of(term: LoopTerm) -> Extent:
    """How far the index moves when the loop moves by one: 0 when a div hides it."""
    return choose(_flag(term.div == 1), term.coeff, 0)


def _flag(test: Flag | np.bool_) -> Flag:
    """A comparison as a Flag: NumPy's scalar truth values become Python's."""
    return test if isinstance(test, np.ndarray) else bool(test)

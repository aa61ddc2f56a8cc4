"""How an index moves with the loops: closed-form arithmetic that works on one candidate or on N at once.

An index is a sum of terms `coeff * ((loop // div) % mod)` (mod 0: no modulo). Splits keep div = 1 and mod = 0;
fused loops are where the other two come from. A split that cuts through a fused loop unevenly is
described approximately here; the generated code never relies on it (it uses exact expressions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from loopwright.sched.extent import Extent, ceildiv
from loopwright.sched.steps import Fuse, Split

LoopId: TypeAlias = tuple[str, str]
"""(stage, loop): unique in a schedule."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """`coeff * ((loop // div) % mod)`; mod 0 means no modulo."""

    loop: LoopId
    coeff: Extent
    div: Extent = 1
    mod: Extent = 0


Terms: TypeAlias = tuple[Term, ...]


def maximum(a: Extent, b: Extent) -> Extent:
    """The larger, by element."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return np.maximum(a, b)


def minimum(a: Extent, b: Extent) -> Extent:
    """The smaller, by element."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return np.minimum(a, b)


def where_zero(test: Extent, if_zero: Extent, otherwise: Extent) -> Extent:
    """`if_zero` where test is 0, by element."""
    if isinstance(test, int):
        return if_zero if test == 0 else otherwise
    return np.where(test == 0, if_zero, otherwise)


def expand(terms: Terms, stage: str, relation: Split | Fuse, inner_extent: Extent) -> Terms:
    """`terms` with the loops that `relation` replaced written in the loops it made.

    `inner_extent` is the extent of the second loop of a Fuse (unused for a Split).
    """
    result: list[Term] = []
    for term in terms:
        if isinstance(relation, Split) and term.loop == (stage, relation.loop):
            result += _split_term(term, stage, relation)
        elif isinstance(relation, Fuse) and term.loop == (stage, relation.first):
            result.append(replace(term, loop=(stage, relation.fused), div=term.div * inner_extent))
        elif isinstance(relation, Fuse) and term.loop == (stage, relation.second):
            whole = ceildiv(inner_extent, term.div)
            mod = where_zero(term.mod, whole, minimum(term.mod, whole))
            result.append(replace(term, loop=(stage, relation.fused), mod=mod))
        else:
            result.append(term)
    return tuple(result)


def _split_term(term: Term, stage: str, split: Split) -> tuple[Term, Term]:
    step = maximum(split.factor // term.div, 1)
    outer = Term(
        (stage, split.outer),
        term.coeff * step,
        maximum(term.div // split.factor, 1),
        where_zero(term.mod, 0, maximum(term.mod // step, 1)),
    )
    return outer, replace(term, loop=(stage, split.inner))


def scaled(terms: Terms, factor: Extent) -> Terms:
    """Every term times `factor`."""
    return tuple(replace(t, coeff=t.coeff * factor) for t in terms)


def count(term: Term, extent: Extent) -> Extent:
    """How many different values the term takes while its loop runs."""
    steps = ceildiv(extent, term.div)
    return where_zero(term.mod, steps, minimum(steps, term.mod))


def reach(terms: Terms, extents: Mapping[LoopId, Extent], loops: Sequence[LoopId] | frozenset[LoopId]) -> Extent:
    """The distance from the least to the greatest value of the index while `loops` run."""
    total: Extent = 0
    for term in terms:
        if term.loop in loops:
            total = total + abs(term.coeff) * (count(term, extents[term.loop]) - 1)
    return total


def step_of(term: Term) -> Extent:
    """How far the index moves when the loop moves by one: 0 when a div hides it."""
    moves = term.div == 1
    if isinstance(moves, bool):
        return term.coeff if moves else 0
    return np.where(moves, term.coeff, 0)

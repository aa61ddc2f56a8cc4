"""Linear forms: the value `sum(coeff * key) + const`, and how to extract it from an expression.

The meaning of a key is up to the user: a variable by name, a non-affine expression, a value in a
machine register.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

from loopwright.ir.expr import Binary, Call, Const, Expr, Fn, Op

K = TypeVar("K", bound=Hashable)


class Linear(Generic[K]):
    """`sum(coeff * key) + const`: no coefficient is 0, keys are in order of first use.

    Immutable.
    """

    __slots__ = ("const", "terms")

    def __init__(self, terms: Mapping[K, int], const: int = 0) -> None:
        self.terms = terms
        self.const = const

    def __eq__(self, other: object) -> bool:
        """True for the same sum, whatever the order of its terms."""
        if not isinstance(other, Linear):
            return NotImplemented
        return bool(self.const == other.const and self.terms == other.terms)

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    def __repr__(self) -> str:
        return f"Linear({dict(self.terms)}, {self.const})"

    def plus(self, other: Linear[K], times: int = 1) -> Linear[K]:
        """`self + times * other`."""
        terms = dict(self.terms)
        for key, coeff in other.terms.items():
            total = terms.get(key, 0) + times * coeff
            if total:
                terms[key] = total
            else:
                terms.pop(key, None)
        return Linear(terms, self.const + times * other.const)

    def times(self, factor: int) -> Linear[K]:
        """`self * factor`."""
        if factor == 0:
            return Linear({})
        return Linear({k: c * factor for k, c in self.terms.items()}, self.const * factor)

    def bounds(self, of: Callable[[K], tuple[int, int] | None]) -> tuple[int, int] | None:
        """The inclusive interval of the sum, given that `of` each key; None when a key has none."""
        low = high = self.const
        for key, coeff in self.terms.items():
            interval = of(key)
            if interval is None:
                return None
            if coeff > 0:
                low += coeff * interval[0]
                high += coeff * interval[1]
            else:
                low += coeff * interval[1]
                high += coeff * interval[0]
        return low, high


def collect(expr: Expr, key: Callable[[Expr], K]) -> Linear[K]:
    """The sums, differences and products with constants in `expr`; `key` names all other parts."""
    const = 0
    terms: dict[K, int] = {}
    todo: list[tuple[Expr, int]] = [(expr, 1)]
    while todo:
        node, coeff = todo.pop()
        if type(node) is Const:
            const += coeff * int(node.value)
            continue
        if type(node) is Binary:
            lhs, rhs = node.lhs, node.rhs
            if node.op is Op.ADD or node.op is Op.SUB:
                todo.append((rhs, coeff if node.op is Op.ADD else -coeff))
                todo.append((lhs, coeff))
                continue
            if node.op is Op.MUL and type(rhs) is Const:
                todo.append((lhs, coeff * int(rhs.value)))
                continue
            if node.op is Op.MUL and type(lhs) is Const:
                todo.append((rhs, coeff * int(lhs.value)))
                continue
        elif type(node) is Call and node.fn is Fn.NEG:
            todo.append((node.args[0], -coeff))
            continue
        name = key(node)
        terms[name] = terms.get(name, 0) + coeff
    return Linear({name: coeff for name, coeff in terms.items() if coeff}, const)

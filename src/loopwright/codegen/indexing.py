"""Index expressions, evaluated at the current point of emission in a language's own form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

from loopwright.codegen.affine import Idx, Parts, constant, parts
from loopwright.codegen.values import CodeValue
from loopwright.errors import CodegenError
from loopwright.ir.expr import Binary, Expr, Op

Binding: TypeAlias = int | Idx
"""What a loop variable is: the number of an unrolled iteration, or a run-time index."""

Index = TypeVar("Index")
_DIVISIONS = frozenset({Op.FLOORDIV, Op.FLOORMOD})


class IndexAlgebra(ABC, Generic[Index]):
    """Arithmetic on indices; `env` binds the variables of all open loops."""

    def __init__(self) -> None:
        self.env: dict[str, Binding] = {}

    @abstractmethod
    def of(self, idx: Idx) -> Index:
        """An index that is affine in the lane."""

    @abstractmethod
    def known(self, index: Index) -> int | None:
        """The value of a constant index, else None."""

    @abstractmethod
    def add(self, a: Index, b: Index) -> Index:
        """`a + b`."""

    @abstractmethod
    def scale(self, a: Index, factor: int) -> Index:
        """`a * factor`."""

    @abstractmethod
    def multiply(self, lhs: Index, rhs: Index) -> Index:
        """`lhs * rhs`."""

    @abstractmethod
    def extremum(self, op: Op, lhs: Index, rhs: Index) -> Index:
        """The smaller (MIN) or the larger (MAX) of two indices."""

    @abstractmethod
    def divide(self, op: Op, idx: Index, divisor: int) -> Index | None:
        """Floor division or remainder by a positive constant; None: compute it on values."""

    @abstractmethod
    def wrap(self, value: CodeValue) -> Index:
        """The int64 `value` as an index about which nothing is known."""


class IndexExpressions(Generic[Index]):
    """Index expressions as indices; `compute` gives the value of a part that is not an index."""

    def __init__(self, indices: IndexAlgebra[Index], compute: Callable[[Expr], CodeValue]) -> None:
        self._indices = indices
        self._compute = compute
        self._forms: dict[Expr, Parts] = {}

    def form(self, expr: Expr) -> Parts:
        """The sum that `expr` is, computed once."""
        found = self._forms.get(expr)
        if found is None:
            found = self._forms[expr] = parts(expr)
        return found

    def index(self, expr: Expr) -> Index:
        """The index that `expr` is here."""
        indices, form = self._indices, self.form(expr)
        total = indices.of(constant(form.variables.const))
        for name, coef in form.variables.terms.items():
            bound = indices.env.get(name)
            if bound is None:
                raise CodegenError(f"variable {name} is not bound by an open loop")
            if isinstance(bound, int):
                part = indices.of(constant(bound * coef))
            else:
                part = indices.scale(indices.of(bound), coef)
            total = indices.add(total, part)
        for atom, coef in form.atoms.terms.items():
            total = indices.add(total, indices.scale(self._atom(atom), coef))
        return total

    def _atom(self, atom: Expr) -> Index:
        indices = self._indices
        if isinstance(atom, Binary):
            if atom.op in _DIVISIONS:
                divisor = indices.known(self.index(atom.rhs))
                if divisor is not None and divisor > 0:
                    found = indices.divide(atom.op, self.index(atom.lhs), divisor)
                    if found is not None:
                        return found
            elif atom.op is Op.MUL:
                return indices.multiply(self.index(atom.lhs), self.index(atom.rhs))
            elif atom.op in (Op.MIN, Op.MAX):
                return indices.extremum(atom.op, self.index(atom.lhs), self.index(atom.rhs))
        return indices.wrap(self._compute(atom))

"""Truth values during emission: folded where bounds decide them, else one, or one per lane."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from loopwright.codegen.values import CodeValue
from loopwright.ir.dtype import BOOL, I64
from loopwright.ir.expr import COMPARISONS, Binary, Call, Const, Expr, Fn, Op

HOLDS: dict[Op, Callable[[int], bool]] = {
    Op.LT: lambda v: v < 0,
    Op.LE: lambda v: v <= 0,
    Op.GT: lambda v: v > 0,
    Op.GE: lambda v: v >= 0,
    Op.EQ: lambda v: v == 0,
    Op.NE: lambda v: v != 0,
}
"""Whether `a op b`, from `a - b`."""


class Cond(NamedTuple):
    """A truth value: a constant, or `text`, in each lane.

    `first` and `last` say whether it is known to hold in the first and in the last lane.
    """

    const: bool | None
    text: str = ""
    lanes: int = 1
    first: bool = False
    last: bool = False

    @property
    def is_mask(self) -> bool:
        """True when it varies by lane."""
        return self.lanes > 1

    @property
    def somewhere(self) -> bool:
        """True when some lane is known to be active."""
        return self.first or self.last


class Conditions(ABC):
    """Evaluates conditions at the current point; a language writes the instructions.

    `always` and `never` are the two constants as the language writes them.
    """

    def __init__(
        self, value_of: Callable[[Expr], CodeValue], always: str = "true", never: str = "false"
    ) -> None:
        self._value_of = value_of
        self.always = Cond(True, always, 1, True, True)
        self.never = Cond(False, never)

    @abstractmethod
    def compare(self, op: Op, lhs: Expr, rhs: Expr) -> Cond:
        """`lhs op rhs` of index expressions."""

    @abstractmethod
    def inverted(self, cond: Cond) -> str:
        """Not `cond`, which is not a constant."""

    @abstractmethod
    def combined(self, op: str, a: Cond, b: Cond) -> tuple[str, int]:
        """`a op b`, `and` or `or`, and its lanes; neither is a constant."""

    def cond(self, expr: Expr) -> Cond:
        """The truth value of the bool `expr` here."""
        if isinstance(expr, Const):
            return self.always if expr.value else self.never
        if isinstance(expr, Binary):
            if expr.op is Op.AND or expr.op is Op.OR:
                return self._connect(expr)
            if expr.op in COMPARISONS and expr.lhs.dtype == I64:
                return self.compare(expr.op, expr.lhs, expr.rhs)
        if isinstance(expr, Call) and expr.fn is Fn.NOT:
            return self.negate(self.cond(expr.args[0]))
        value = self._value_of(expr)
        if value.const is not None:
            return self.always if value.const else self.never
        return Cond(None, value.text, value.lanes)

    def value(self, cond: Cond) -> CodeValue:
        """`cond` as a bool value."""
        return CodeValue(cond.text, BOOL, cond.lanes, cond.const)

    def negate(self, cond: Cond) -> Cond:
        """Not `cond`."""
        if cond.const is not None:
            return self.never if cond.const else self.always
        return Cond(None, self.inverted(cond), cond.lanes)

    def both(self, a: Cond, b: Cond) -> Cond:
        """`a and b`."""
        if a.const is not None:
            return b if a.const else self.never
        if b.const is not None:
            return a if b.const else self.never
        text, lanes = self.combined("and", a, b)
        return Cond(None, text, lanes, a.first and b.first, a.last and b.last)

    def either(self, a: Cond, b: Cond) -> Cond:
        """`a or b`."""
        if a.const is not None:
            return self.always if a.const else b
        if b.const is not None:
            return self.always if b.const else a
        text, lanes = self.combined("or", a, b)
        return Cond(None, text, lanes, a.first or b.first, a.last or b.last)

    def _connect(self, expr: Binary) -> Cond:
        lhs = self.cond(expr.lhs)
        if lhs.const is (expr.op is Op.OR):
            return lhs
        rhs = self.cond(expr.rhs)
        return self.both(lhs, rhs) if expr.op is Op.AND else self.either(lhs, rhs)


def decide(op: Op, lo: int, hi: int) -> bool | None:
    """Whether `v op 0` for every v in lo..hi; None when it differs."""
    if op is Op.EQ or op is Op.NE:
        if lo > 0 or hi < 0:
            return op is Op.NE
        return (op is Op.EQ) if lo == hi == 0 else None
    at_lo, at_hi = HOLDS[op](lo), HOLDS[op](hi)
    return at_lo if at_lo is at_hi else None

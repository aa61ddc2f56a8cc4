"""Expressions in any language: from nodes to values.

Int64 expressions of variables are indices, conditions are left to `Conditions`, the rest is
arithmetic on values. Left-leaning chains are walked in a loop, since sums can be thousands deep.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeGuard

from loopwright.codegen.conditions import Cond, Conditions
from loopwright.codegen.functions import Functions
from loopwright.codegen.operations import Operations
from loopwright.codegen.storage import Home, Storage, distinct
from loopwright.codegen.values import CodeValue
from loopwright.ir import walk
from loopwright.ir.dtype import I64, DType
from loopwright.ir.expr import (
    COMPARISONS,
    LOGICAL,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Load,
    Op,
    Select,
    Var,
)
from loopwright.ir.stmt import Stmt, Store


class _Way(enum.Enum):
    """How a binary operation is computed."""

    CONDITION = "condition"
    INDEX = "index"
    ARITHMETIC = "arithmetic"


class Reader(Protocol):
    """Loads values; in a masked place only in the active lanes."""

    mask: Cond | None

    def load(self, node: Load) -> CodeValue:
        """The value of `node`."""


class Expressions(ABC):
    """Emits expressions at the current point; a language writes branches and indices."""

    def __init__(
        self, ops: Operations, conditions: Conditions, reader: Reader, storage: Storage
    ) -> None:
        self._ops = ops
        self._storage = storage
        self._conditions = conditions
        self._reader = reader
        self._functions = Functions(ops)
        self._pure: dict[Expr, bool] = {}
        self._literals: dict[Const, CodeValue] = {}
        self._ways: dict[Binary, _Way] = {}
        self._spines: dict[Binary, list[Binary]] = {}
        self._shared: dict[Expr, frozenset[Expr]] = {}
        self._reuse: frozenset[Expr] = frozenset()
        self._known: list[dict[Expr, CodeValue]] = [{}]
        self._table: dict[type, Callable[..., CodeValue]] = {
            Const: self._const,
            Var: self.index_value,
            Load: reader.load,
            Binary: self._binary,
            Select: self._select,
            Cast: self._cast,
            Call: self._call,
        }

    @abstractmethod
    def index_value(self, expr: Expr) -> CodeValue:
        """The value of an int64 expression of variables and constants."""

    @abstractmethod
    def lane_variables(self) -> set[str]:
        """The variables that vary by lane."""

    @abstractmethod
    def any_lane(self, mask: Cond) -> Cond:
        """Whether any lane of `mask` is active."""

    @abstractmethod
    def branch(
        self,
        cond: Cond,
        yes: Callable[[], CodeValue],
        no: Callable[[], CodeValue | None],
        dtype: DType,
    ) -> CodeValue:
        """The value of the side that `cond` chooses; only that side is executed.

        The value of a side that gives None does not matter.
        """

    @abstractmethod
    def chosen(self, cond: Cond, node: Select) -> CodeValue | None:
        """A load against a literal without a branch; None where that is not possible."""

    def root(self, expr: Expr) -> CodeValue:
        """The value of a whole expression of a statement; shared nodes are computed once."""
        shared = self._shared.get(expr)
        if shared is None:
            shared = self._shared[expr] = _repeated(expr)
        self._reuse, self._known = shared, [{}]
        return self.value(expr)

    def condition(self, expr: Expr) -> Cond:
        """The truth value of a statement's condition."""
        self._reuse, self._known = frozenset(), [{}]
        return self._conditions.cond(expr)

    def value(self, expr: Expr) -> CodeValue:
        """The value of `expr`."""
        if self._reuse and expr in self._reuse:
            for known in self._known:
                found = known.get(expr)
                if found is not None:
                    return found
            found = self._known[-1][expr] = self._table[type(expr)](expr)
            return found
        return self._table[type(expr)](expr)

    def compute(self, expr: Expr) -> CodeValue:
        """The value of an int64 or bool `expr` by arithmetic on values, not as an index."""
        if isinstance(expr, Binary):
            return self._ops.binary(expr.op, self.value(expr.lhs), self.value(expr.rhs))
        return self._table[type(expr)](expr)

    def _const(self, node: Const) -> CodeValue:
        found = self._literals.get(node)
        if found is None:
            found = self._literals[node] = self._ops.literal(node.value, node.dtype)
        return found

    def _binary(self, node: Binary) -> CodeValue:
        way = self._ways.get(node)
        if way is None:
            way = self._ways[node] = self._way(node)
        if way is _Way.CONDITION:
            return self._conditions.value(self._conditions.cond(node))
        if way is _Way.INDEX:
            return self.index_value(node)
        spine = self._spines.get(node)
        if spine is None:
            spine = self._spines[node] = self._spine(node)
        return self._fold_spine(spine, self.value(spine[-1].lhs))

    def _way(self, node: Binary) -> _Way:
        if node.op in COMPARISONS or node.op in LOGICAL:
            return _Way.CONDITION
        return _Way.INDEX if self._is_index(node) else _Way.ARITHMETIC

    def _spine(self, node: Binary) -> list[Binary]:
        """`node` and the arithmetic below it on the left, as far as one walk can compute it."""
        spine = [node]
        below = node.lhs
        while isinstance(below, Binary) and below not in self._reuse:
            if self._way(below) is not _Way.ARITHMETIC:
                break
            spine.append(below)
            below = below.lhs
        return spine

    def _fold_spine(self, spine: list[Binary], value: CodeValue) -> CodeValue:
        ops = self._ops
        pending: CodeValue | None = (
            None  # the other factor of a product that has not been emitted yet
        )
        for position in range(len(spine) - 1, -1, -1):
            node = spine[position]
            if pending is not None:
                other, factor, pending = self.value(node.rhs), pending, None
                if node.op is Op.SUB:
                    other = ops.negate(other)
                value = ops.multiply_add(value, factor, other)
                continue
            op, right, is_float = node.op, node.rhs, value.dtype.is_float
            if is_float and (op is Op.ADD or op is Op.SUB) and self._is_product(right):
                lhs, rhs = self.value(right.lhs), self.value(right.rhs)
                value = ops.multiply_add(lhs, rhs, value, minus=op is Op.SUB)
                continue
            rhs = self.value(right)
            above = spine[position - 1].op if position else None
            if is_float and op is Op.MUL and (above is Op.ADD or above is Op.SUB):
                pending = rhs
            else:
                value = ops.binary(op, value, rhs)
        return value

    def _is_product(self, node: Expr) -> TypeGuard[Binary]:
        return isinstance(node, Binary) and node.op is Op.MUL and node not in self._reuse

    def _is_index(self, node: Expr) -> bool:
        """True for int64 arithmetic on variables and constants alone."""
        found = self._pure.get(node)
        if found is None:
            found = _dtype(node) == I64 and not any(
                isinstance(n, Load | Cast | Select) for n in distinct(node)
            )
            self._pure[node] = found
        return found

    def _cast(self, node: Cast) -> CodeValue:
        return self._ops.cast(self.value(node.value), node.dtype)

    def _call(self, node: Call) -> CodeValue:
        if node.dtype == I64 and self._is_index(node):
            return self.index_value(node)
        return self._functions.call(node.fn, [self.value(arg) for arg in node.args])

    def _select(self, node: Select) -> CodeValue:
        cond = self._conditions.cond(node.cond)
        if cond.const is not None:
            return self.value(node.yes if cond.const else node.no)
        if not self._reads(node.yes) and not self._reads(node.no):
            yes, no = self.value(node.yes), self.value(node.no)
            return self._ops.select(self._conditions.value(cond), yes, no)
        if cond.is_mask:
            return self._masked_select(cond, node)
        return self.chosen(cond, node) or self._branches(cond, node.yes, node.no, node)

    def _masked_select(self, cond: Cond, node: Select) -> CodeValue:
        yes = self._side(cond, node.yes)
        no = self._side(self._conditions.negate(cond), node.no) if self._reads(node.no) else None
        other = self.value(node.no) if no is None else no
        return self._ops.select(self._conditions.value(cond), yes, other)

    def _side(self, cond: Cond, side: Expr) -> CodeValue:
        """`side` with the lanes of `cond` active; skipped when it reads and no lane is."""
        if not self._reads(side):
            return self.value(side)
        before = self._reader.mask
        inner = cond if before is None else self._conditions.both(before, cond)
        if inner.somewhere or not self._reads_uniformly(side):
            self._reader.mask = inner
            self._known.append({})
            found = self.value(side)
            self._known.pop()
            self._reader.mask = before
            return found
        some = self.any_lane(inner)

        def guarded() -> CodeValue:
            self._reader.mask = inner
            found = self.value(side)
            self._reader.mask = before
            return found

        return self.branch(some, guarded, lambda: None, side.dtype)

    def _branches(self, cond: Cond, yes: Expr, no: Expr, node: Select) -> CodeValue:
        return self.branch(cond, lambda: self.value(yes), lambda: self.value(no), node.dtype)

    def _reads(self, expr: Expr) -> bool:
        """True when computing `expr` may read memory."""
        places = self._storage.places
        return any(
            isinstance(n, Load) and places[n.buffer].home is not Home.REGISTERS
            for n in distinct(expr)
        )

    def touches_uniformly(self, stmt: Stmt) -> bool:
        """True when something in `stmt` reads or writes one address in memory for all lanes."""
        lane_vars = self.lane_variables()
        for node in walk.visit(stmt):
            if isinstance(node, Load | Store):
                in_memory = self._storage.places[node.buffer].home is not Home.REGISTERS
                if in_memory and not walk.names(node.indices[0]) & lane_vars:
                    return True
        return False

    def _reads_uniformly(self, expr: Expr) -> bool:
        """True when some load in `expr` has the same address in every lane."""
        lane_vars = self.lane_variables()
        loads = (n for n in distinct(expr) if isinstance(n, Load))
        return any(not walk.names(load.indices[0]) & lane_vars for load in loads)


def _dtype(node: Expr) -> DType:
    """The dtype of arithmetic; a loop, since sums can be thousands deep."""
    while isinstance(node, Binary) and node.op not in COMPARISONS:
        node = node.lhs
    return node.dtype


def _repeated(expr: Expr) -> frozenset[Expr]:
    """The nodes of `expr` with more than one parent that are worth keeping."""
    seen: set[Expr] = set()
    twice: set[Expr] = set()
    todo = [expr]
    while todo:
        node = todo.pop()
        if node in seen:
            if isinstance(node, Binary | Select | Cast | Call):
                twice.add(node)
            continue
        seen.add(node)
        todo.extend(walk.exprs(node))
    return frozenset(twice)

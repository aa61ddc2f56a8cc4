"""Expressions as C-like text: branches, and the parts that expressions use."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.codegen.affine import Idx
from loopwright.codegen.clike.index import ClikeConditions, ClikeIndices
from loopwright.codegen.clike.memory import ClikeMemory
from loopwright.codegen.clike.operations import ClikeOperations, EmitState
from loopwright.codegen.conditions import Cond
from loopwright.codegen.expressions import Expressions
from loopwright.codegen.indexing import IndexExpressions
from loopwright.codegen.storage import Storage
from loopwright.codegen.values import CodeValue
from loopwright.ir.dtype import BOOL, DType
from loopwright.ir.expr import Expr, Select


class ClikeExpressions(Expressions):
    """Emits expressions as C-like text; `memory` and `conditions` are the parts that it uses."""

    def __init__(
        self, state: EmitState, indices: ClikeIndices, ops: ClikeOperations, storage: Storage
    ) -> None:
        self._state = state
        self._indices = indices
        self._clike = ops
        self._index = IndexExpressions(indices, self.compute)
        self.conditions = ClikeConditions(state, indices, self._index.index, self.compute)
        self.memory = ClikeMemory(state, indices, self._index, ops, self.conditions, storage)
        super().__init__(ops, self.conditions, self.memory, storage)

    def index_value(self, expr: Expr) -> CodeValue:
        """The value of an int64 expression of variables and constants."""
        return self._indices.value(self._index.index(expr))

    def lane_variables(self) -> set[str]:
        """The variables that differ by lane."""
        env = self._indices.env
        return {name for name, b in env.items() if isinstance(b, Idx) and not b.is_scalar}

    def any_lane(self, mask: Cond) -> Cond:
        """Whether any lane of `mask` is active."""
        function = self._state.prelude.any_lane(mask.lanes)
        return Cond(None, self._clike.op(f"{function}({mask.text})", BOOL, 1).text)

    def chosen(self, cond: Cond, node: Select) -> CodeValue | None:
        """None: a branch does as well, and the compiler chooses."""

    def branch(
        self,
        cond: Cond,
        yes: Callable[[], CodeValue],
        no: Callable[[], CodeValue | None],
        dtype: DType,
    ) -> CodeValue:
        """The value of the side that `cond` chooses; only that side is executed."""
        body, sides = self._state.body, []
        for side in (yes, no):
            with body.aside() as lines:
                self._known.append({})
                value = side()
                self._known.pop()
                sides.append((value, lines))
        lanes = max(1 if value is None else value.lanes for value, _ in sides)
        name = body.fresh("s")
        kind = self._clike.kind(dtype, lanes)
        empty = "0" if lanes == 1 else f"({kind}){{0}}"
        body.line(f"{kind} {name} = {empty};")
        (first, lines), (second, others) = sides
        with body.scope(f"if ({cond.text})"):
            self._finish_side(name, first, lines, lanes)
        if second is not None:
            with body.scope("else"):
                self._finish_side(name, second, others, lanes)
        # Named again, since a constant can be reused whatever comes after.
        return self._clike.op(name, dtype, lanes)

    def _finish_side(
        self, name: str, value: CodeValue | None, lines: list[str], lanes: int
    ) -> None:
        body = self._state.body
        body.lines += lines
        if value is not None:
            body.line(f"{name} = {self._clike.widen(value, lanes)};")

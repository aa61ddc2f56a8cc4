"""Expressions as LLVM text: what differs by language, and the parts that they use."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.codegen.affine import Idx
from loopwright.codegen.conditions import Cond
from loopwright.codegen.expressions import Expressions
from loopwright.codegen.indexing import IndexExpressions
from loopwright.codegen.llvm.cond import LlvmConditions
from loopwright.codegen.llvm.index import Indices
from loopwright.codegen.llvm.memory import Memory, Places
from loopwright.codegen.llvm.operations import LlvmOperations
from loopwright.codegen.llvm.types import typed, value_type
from loopwright.codegen.values import CodeValue
from loopwright.ir.dtype import DType
from loopwright.ir.expr import Const, Expr, Load, Select


class LlvmExpressions(Expressions):
    """Emits expressions as LLVM text; `memory` and `conditions` are the parts that it uses."""

    def __init__(self, indices: Indices, ops: LlvmOperations, places: Places) -> None:
        self._indices = indices
        self._llvm = ops
        self._index = IndexExpressions(indices, self.compute)
        self.conditions = LlvmConditions(indices, self._index.index, self.compute)
        self.memory = Memory(indices, self._index, ops, self.conditions, places)
        super().__init__(ops, self.conditions, self.memory, places.storage)

    def index_value(self, expr: Expr) -> CodeValue:
        """The value of an int64 expression of variables and constants."""
        return self._indices.value(self._index.index(expr))

    def lane_variables(self) -> set[str]:
        """The variables that differ by lane."""
        env = self._indices.env
        return {name for name, b in env.items() if isinstance(b, Idx) and not b.is_scalar}

    def chosen(self, cond: Cond, node: Select) -> CodeValue | None:
        """A single load against a literal: choose the address instead of branching."""
        if isinstance(node.yes, Load) and isinstance(node.no, Const):
            return self.memory.load_or(node.yes, cond, self.value(node.no))
        return None

    def any_lane(self, mask: Cond) -> Cond:
        """Whether any lane of `mask` is active."""
        kind = f"<{mask.lanes} x i1>"
        text = self._llvm.call(f"llvm.vector.reduce.or.v{mask.lanes}i1", "i1", (kind, mask.text))
        return Cond(None, text)

    def branch(
        self,
        cond: Cond,
        yes: Callable[[], CodeValue],
        no: Callable[[], CodeValue | None],
        dtype: DType,
    ) -> CodeValue:
        """The value of the side that `cond` chooses; only that side is executed."""
        text = self._indices.text
        then, other, join = (text.fresh_label(h) for h in ("then", "else", "join"))
        text.lines.append(f"  br i1 {cond.text}, label %{then}, label %{other}")
        found: list[tuple[CodeValue, list[str], str]] = []
        for label, side in ((then, yes), (other, no)):
            text.label(label)
            with text.layer():
                self._known.append({})
                value = side() or CodeValue("poison", dtype)
                self._known.pop()
            found.append((value, text.lines, text.block))
            # A side may need a splat once the width of the other is known: it stays open.
            text.open_part()
        lanes = max(value.lanes for value, _, _ in found)
        sides: list[str] = []
        for value, lines, block in found:
            wide = value.text
            if value.lanes != lanes:
                wide = self._splat_into(lines, value, lanes)
            lines.append(f"  br label %{join}")
            sides.append(f"[ {wide}, %{block} ]")
        text.label(join)
        return CodeValue(
            text.op(f"phi {value_type(dtype, lanes)} {', '.join(sides)}"), dtype, lanes
        )

    def _splat_into(self, lines: list[str], value: CodeValue, lanes: int) -> str:
        if value.const is not None or value.text == "poison":
            return self._llvm.widen(value, lanes)
        kind, name = value_type(value.dtype, lanes), self._indices.text.name()
        lines.append(f"  {name}.one = insertelement {kind} poison, {typed(value)}, i64 0")
        order = f"<{lanes} x i32> zeroinitializer"
        lines.append(f"  {name} = shufflevector {kind} {name}.one, {kind} poison, {order}")
        return name

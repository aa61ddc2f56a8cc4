"""The verifier of the loop IR: what every kernel must satisfy, whichever pass made it.

- loop variables are int64, bound by one loop of the kernel, and read inside it only
- extents are at least 1; a vectorized loop holds no parallel or vectorized loop
- buffers are parameters or allocated around their use; names are unique; extents are at least 1
- a buffer is read and written with one int64 index for each dimension
- a store has the dtype of its buffer, and goes to an output or an allocated buffer
- conditions are bool, operators get dtypes that they are defined on, constants fit their dtype
- register buffers are indexed with constants, unrolled and vectorized variables only
- there is no Reduce
- with `flat`, every buffer has one dimension
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from loopwright.errors import LoweringError
from loopwright.ir import walk
from loopwright.ir.bounds import dtype_range
from loopwright.ir.dtype import I64, DType
from loopwright.ir.expr import (
    COMPARISONS,
    LOGICAL,
    Binary,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    Fn,
    Load,
    Op,
    Reduce,
    Scope,
    Select,
    Var,
)
from loopwright.ir.kernel import Kernel
from loopwright.ir.printer import show
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store

_FIXED_KINDS = frozenset({LoopKind.UNROLLED, LoopKind.VECTORIZED})
_TWO_ARGUMENTS = frozenset({Fn.POW})
_ANY_NUMBER = frozenset({Fn.ABS, Fn.NEG})
_INTEGERS_ONLY = frozenset({Op.FLOORDIV, Op.FLOORMOD})


@dataclass(frozen=True, slots=True)
class _Place:
    """What is in scope at a statement."""

    loops: tuple[For, ...]
    buffers: frozenset[Buffer]

    def inside(self, loop: For) -> _Place:
        return _Place((*self.loops, loop), self.buffers)

    def holding(self, buffer: Buffer) -> _Place:
        return _Place(self.loops, self.buffers | {buffer})

    @property
    def kinds(self) -> dict[str, LoopKind]:
        return {loop.var.name: loop.kind for loop in self.loops}


def verify(kernel: Kernel, *, flat: bool = False) -> None:
    """Check that `kernel` is well formed; see the head of this file for what that means.

    Args:
        flat: also require one-dimensional buffers, as code generation does.

    Raises: LoweringError naming the kernel, the loops around the place, and what is wrong there.
    """
    _Verifier(kernel, flat=flat).run()


class _Verifier:
    def __init__(self, kernel: Kernel, *, flat: bool) -> None:
        self._kernel = kernel
        self._flat = flat
        self._bound: set[str] = set()
        self._names: set[str] = set()
        self._written: set[Buffer] = set(kernel.params[len(kernel.params) - kernel.n_outputs :])

    def run(self) -> None:
        kernel = self._kernel
        nowhere = _Place((), frozenset(kernel.params))
        if not 1 <= kernel.n_outputs <= len(kernel.params):
            self._fail(nowhere, f"{kernel.n_outputs} outputs of {len(kernel.params)} parameters")
        for buffer in kernel.params:
            self._declare(nowhere, buffer)
            if buffer.scope is not Scope.GLOBAL:
                self._fail(nowhere, f"parameter {buffer.name} has scope {buffer.scope.value}")
        todo: list[tuple[Stmt, _Place]] = [(kernel.body, nowhere)]
        while todo:
            stmt, place = todo.pop()
            match stmt:
                case For(body=body):
                    self._loop(stmt, place)
                    todo.append((body, place.inside(stmt)))
                case Block(stmts=stmts):
                    todo.extend((s, place) for s in reversed(stmts))
                case If(cond=cond, then=then, otherwise=otherwise):
                    self._condition(cond, place)
                    todo.append((then, place))
                    if otherwise is not None:
                        todo.append((otherwise, place))
                case Alloc(buffer=buffer, body=body):
                    self._declare(place, buffer)
                    self._written.add(buffer)
                    todo.append((body, place.holding(buffer)))
                case Store():
                    self._store(stmt, place)

    # statements

    def _loop(self, loop: For, place: _Place) -> None:
        name = loop.var.name
        if name in self._bound:
            self._fail(place, f"the variable {name} is bound by two loops")
        self._bound.add(name)
        if loop.var.dtype != I64:
            self._fail(place, f"the loop variable {name} is {loop.var.dtype}, not int64")
        if loop.extent < 1:
            self._fail(place, f"the loop {name} has extent {loop.extent}")
        lanes = next((o for o in place.loops if o.kind is LoopKind.VECTORIZED), None)
        if lanes is not None and loop.kind in (LoopKind.VECTORIZED, LoopKind.PARALLEL):
            self._fail(
                place, f"the {loop.kind.value} loop {name} is inside vectorized {lanes.var.name}"
            )

    def _declare(self, place: _Place, buffer: Buffer) -> None:
        if buffer.name in self._names:
            self._fail(place, f"two buffers are called {buffer.name}")
        self._names.add(buffer.name)
        if any(extent < 1 for extent in buffer.shape):
            self._fail(place, f"the buffer {buffer.name} has shape {buffer.shape}")
        if self._flat and len(buffer.shape) != 1:
            self._fail(
                place, f"the buffer {buffer.name} has shape {buffer.shape}, not one dimension"
            )

    def _condition(self, cond: Expr, place: _Place) -> None:
        if not cond.dtype.is_bool:
            self._fail(place, f"the condition {show(cond)} is {cond.dtype}, not bool")
        self._expr(cond, place)

    def _store(self, store: Store, place: _Place) -> None:
        self._access(store, place)
        if store.value.dtype != store.buffer.dtype:
            self._fail(
                place, f"{store.value.dtype} is stored to {store.buffer.name}: {store.buffer.dtype}"
            )
        if store.buffer not in self._written:
            self._fail(place, f"the input {store.buffer.name} is written")
        for expr in walk.exprs(store):
            self._expr(expr, place)

    # expressions

    def _expr(self, expr: Expr, place: _Place) -> None:
        kinds = place.kinds
        for node in walk.visit(expr):
            if isinstance(node, Var):
                if node.name not in kinds:
                    self._fail(place, f"the variable {node.name} is read outside its loop")
                if node.dtype != I64:
                    self._fail(place, f"the variable {node.name} is {node.dtype}, not int64")
            elif isinstance(node, Load):
                self._access(node, place)
            else:
                reason = _REASONS[type(node)](node)
                if reason is not None:
                    self._fail(place, f"{reason} in {_short(expr)}")

    def _access(self, access: Load | Store, place: _Place) -> None:
        buffer = access.buffer
        if buffer not in place.buffers:
            self._fail(place, f"the buffer {buffer.name} is neither a parameter nor allocated here")
        if len(access.indices) != len(buffer.shape):
            self._fail(
                place, f"{buffer.name}{list(buffer.shape)} has {len(access.indices)} indices"
            )
        kinds = place.kinds if buffer.scope is Scope.REGISTER else {}
        for index in access.indices:
            if index.dtype != I64:
                self._fail(place, f"{buffer.name} is indexed with {show(index)}: {index.dtype}")
            if buffer.scope is Scope.REGISTER:
                self._register_index(buffer, index, kinds, place)

    def _register_index(
        self, buffer: Buffer, index: Expr, kinds: Mapping[str, LoopKind], place: _Place
    ) -> None:
        for node in walk.visit(index):
            if isinstance(node, Load):
                self._fail(place, f"the register buffer {buffer.name} is indexed with a load")
            if isinstance(node, Var) and kinds.get(node.name) not in _FIXED_KINDS:
                self._fail(
                    place,
                    f"the register buffer {buffer.name} is indexed with {node.name}, which is "
                    "neither unrolled nor vectorized",
                )

    def _fail(self, place: _Place, reason: str) -> NoReturn:
        where = "".join(f" > {loop.var.name}" for loop in place.loops)
        raise LoweringError(f"kernel {self._kernel.name}{where}: {reason}")


def meaningless(expr: Expr) -> str | None:
    """What is invalid in `expr`: an operator on a wrong dtype, a constant that does not fit."""
    for node in walk.visit(expr):
        rule = _REASONS.get(type(node))
        reason = None if rule is None else rule(node)
        if reason is not None:
            return f"{reason} in {_short(expr)}"
    return None


def _short(expr: Expr) -> str:
    text = show(expr)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- one rule per class: what is wrong with a node itself -----------------------------------------


def _bad_const(expr: Const) -> str | None:
    dtype, value = expr.dtype, expr.value
    if dtype.is_bool or dtype.is_float:
        wanted = bool if dtype.is_bool else float
        return None if type(value) is wanted else f"{dtype} constant {value!r}"
    limits = dtype_range(dtype)
    fits = type(value) is int and limits is not None and limits[0] <= value <= limits[1]
    return None if fits else f"{dtype} constant {value!r}"


def _bad_binary(expr: Binary) -> str | None:
    op, dtype = expr.op, expr.lhs.dtype
    if dtype != expr.rhs.dtype:
        return f"{op.name} of {dtype} and {expr.rhs.dtype}"
    if op in LOGICAL:
        fits = dtype.is_bool
    elif op in COMPARISONS:
        fits = True
    elif op in _INTEGERS_ONLY:
        fits = dtype.is_int
    else:
        fits = not dtype.is_bool or op in (Op.MIN, Op.MAX)
    return None if fits else f"{op.name} of {dtype}"


def _bad_select(expr: Select) -> str | None:
    if not expr.cond.dtype.is_bool:
        return f"a select on {expr.cond.dtype}"
    same = expr.yes.dtype == expr.no.dtype
    return None if same else f"a select of {expr.yes.dtype} and {expr.no.dtype}"


def _bad_call(expr: Call) -> str | None:
    wanted = 2 if expr.fn in _TWO_ARGUMENTS else 1
    if len(expr.args) != wanted:
        return f"{expr.fn.value} with {len(expr.args)} arguments"
    dtype = expr.args[0].dtype
    if any(a.dtype != dtype for a in expr.args):
        return f"{expr.fn.value} of different dtypes"
    return None if _takes(expr.fn, dtype) else f"{expr.fn.value} of {dtype}"


def _takes(fn: Fn, dtype: DType) -> bool:
    if fn is Fn.NOT:
        return dtype.is_bool
    return dtype.is_float or (fn in _ANY_NUMBER and dtype.is_int)


_REASONS: Mapping[type, Callable[[Any], str | None]] = {
    Const: _bad_const,
    Binary: _bad_binary,
    Select: _bad_select,
    Cast: lambda _: None,
    Call: _bad_call,
    Reduce: lambda _: "a Reduce is left",
}

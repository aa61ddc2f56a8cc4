"""Expressions and statements as text: Python-like, with no more parentheses than needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from loopwright.ir import walk
from loopwright.ir.dtype import BOOL, F32, I64
from loopwright.ir.expr import (
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
from loopwright.ir.stmt import Alloc, Block, For, If, Stmt, Store

_INDENT = "    "

# How tightly each operator binds, as in Python. Comparisons do not chain: both sides bind tighter.
_SELECT, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _UNARY, _ATOM = range(9)
_BINDING: Mapping[Op, int] = {
    Op.OR: _OR,
    Op.AND: _AND,
    Op.LT: _COMPARE,
    Op.LE: _COMPARE,
    Op.GT: _COMPARE,
    Op.GE: _COMPARE,
    Op.EQ: _COMPARE,
    Op.NE: _COMPARE,
    Op.ADD: _SUM,
    Op.SUB: _SUM,
    Op.MUL: _PRODUCT,
    Op.DIV: _PRODUCT,
    Op.FLOORDIV: _PRODUCT,
    Op.FLOORMOD: _PRODUCT,
    Op.MIN: _ATOM,
    Op.MAX: _ATOM,
}
# Products of integers are printed without spaces, so that an index reads as a sum.
_SPACED = {op: op.value if level == _PRODUCT else f" {op.value} " for op, level in _BINDING.items()}
# Operators that may be regrouped in print, for integers and bools; for floats order matters.
_REGROUPS = frozenset({Op.ADD, Op.MUL, Op.AND, Op.OR})

_Piece: TypeAlias = tuple[str, int]  # text and binding strength of its outermost operator


def show(expr: Expr) -> str:
    """`expr` as one line of text: `A[y*2 + ky, x] + 1.0`."""
    return walk.fold(expr, _piece)[0]


def _piece(expr: Expr, kids: list[_Piece]) -> _Piece:
    return _SHOW[type(expr)](expr, kids)


def show_stmt(stmt: Stmt, indent: int = 0) -> str:
    """`stmt` as lines of text, `indent` levels deep; no newline at the end."""
    lines: list[str] = []
    todo: list[tuple[Stmt | str, int]] = [(stmt, indent)]
    while todo:
        current, depth = todo.pop()
        if isinstance(current, str):
            lines.append(_INDENT * depth + current)
            continue
        if isinstance(current, Block):
            todo.extend((s, depth) for s in reversed(current.stmts or (_PASS,)))
            continue
        lines.append(_INDENT * depth + _HEAD[type(current)](current))
        if isinstance(current, For):
            todo.append((current.body, depth + 1))
        elif isinstance(current, Alloc):
            todo.append((current.body, depth))
        elif isinstance(current, If):
            if current.otherwise is not None:
                todo.append((current.otherwise, depth + 1))
                todo.append(("else:", depth))
            todo.append((current.then, depth + 1))
    return "\n".join(lines)


_PASS = "pass"


def declare(buffer: Buffer) -> str:
    """`buffer` as it is declared: name, dtype and shape."""
    return f"{buffer.name}: {buffer.dtype}[{', '.join(map(str, buffer.shape))}]"


def _alloc(stmt: Alloc) -> str:
    where = "" if stmt.buffer.scope is Scope.GLOBAL else f" in {stmt.buffer.scope.value}"
    return f"alloc {declare(stmt.buffer)}{where}  # {_size(stmt.buffer.nbytes)}"


def _size(nbytes: int) -> str:
    if nbytes < 10_000:
        return f"{nbytes} bytes"
    return f"{nbytes / 1024:.1f} KiB" if nbytes < 10_000_000 else f"{nbytes / 1048576:.1f} MiB"


def _element(buffer: Buffer, indices: tuple[Expr, ...]) -> str:
    return f"{buffer.name}[{', '.join(show(i) for i in indices)}]"


_HEAD: Mapping[type, Callable[[Any], str]] = {
    For: lambda s: f"{s.kind.value} {s.var.name} in 0..{s.extent}:",
    If: lambda s: f"if {show(s.cond)}:",
    Store: lambda s: f"{_element(s.buffer, s.indices)} = {show(s.value)}",
    Alloc: _alloc,
}


def _within(piece: _Piece, level: int) -> str:
    """The text of `piece` where `level` or tighter is required."""
    return piece[0] if piece[1] >= level else f"({piece[0]})"


def _show_const(expr: Const, _: list[_Piece]) -> _Piece:
    if expr.dtype.is_bool:
        return str(bool(expr.value)), _ATOM
    text = repr(expr.value)
    if expr.dtype not in (I64, F32, BOOL):
        return f"{expr.dtype}({text})", _ATOM
    return text, _UNARY if text.startswith("-") else _ATOM


def _show_binary(expr: Binary, kids: list[_Piece]) -> _Piece:
    op = expr.op
    level = _BINDING[op]
    if level == _ATOM:
        return f"{op.value}({kids[0][0]}, {kids[1][0]})", _ATOM
    left = _within(kids[0], level + 1 if level == _COMPARE else level)
    loose = op in _REGROUPS and not expr.dtype.is_float and _op_of(expr.rhs) is op
    right = _within(kids[1], level if loose else level + 1)
    between = f" {op.value} " if expr.dtype.is_float else _SPACED[op]
    return f"{left}{between}{right}", level


def _op_of(expr: Expr) -> Op | None:
    return expr.op if isinstance(expr, Binary) else None


def _show_select(_: Select, kids: list[_Piece]) -> _Piece:
    cond, yes, no = kids
    return f"{_within(yes, _OR)} if {_within(cond, _OR)} else {_within(no, _SELECT)}", _SELECT


def _show_call(expr: Call, kids: list[_Piece]) -> _Piece:
    if expr.fn is Fn.NEG:
        return f"-{_within(kids[0], _UNARY)}", _UNARY
    if expr.fn is Fn.NOT:
        return f"not {_within(kids[0], _NOT)}", _NOT
    return f"{expr.fn.value}({', '.join(k[0] for k in kids)})", _ATOM


def _show_reduce(expr: Reduce, kids: list[_Piece]) -> _Piece:
    axes = ", ".join(f"{a.var.name} in 0..{a.extent}" for a in expr.axes)
    return f"{expr.combiner.value}({kids[0][0]} for {axes})", _ATOM


_SHOW: Mapping[type, Callable[[Any, list[_Piece]], _Piece]] = {
    Const: _show_const,
    Var: lambda e, _: (e.name, _ATOM),
    Binary: _show_binary,
    Select: _show_select,
    Cast: lambda e, k: (f"{e.dtype}({k[0][0]})", _ATOM),
    Load: lambda e, k: (f"{e.buffer.name}[{', '.join(p[0] for p in k)}]", _ATOM),
    Call: _show_call,
    Reduce: _show_reduce,
}

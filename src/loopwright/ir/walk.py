"""Generic walks over expressions and statements.

Everything here is iterative, since an unrolled reduction is thousands of nodes deep, and driven by
tables with one row per class. Rewrites share what they do not change: a node whose children came
back identical is returned itself, so `new is old` means "nothing changed". Nodes are compared by
identity; `same` is the structural comparison.

A tree is walked as a tree: a node that occurs twice is visited twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, overload

from loopwright.ir.expr import (
    Binary,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    Load,
    Reduce,
    Select,
    Var,
)
from loopwright.ir.stmt import Alloc, Block, For, If, Stmt, Store

Node: TypeAlias = Expr | Stmt
T = TypeVar("T")
ExprFn: TypeAlias = Callable[[Expr], Expr]
StmtFn: TypeAlias = Callable[[Stmt], Stmt]

# One row per class: the children that are expressions, in evaluation order.
_EXPRS: Mapping[type, Callable[[Any], tuple[Expr, ...]]] = {
    Const: lambda _: (),
    Var: lambda _: (),
    Binary: lambda n: (n.lhs, n.rhs),
    Select: lambda n: (n.cond, n.yes, n.no),
    Cast: lambda n: (n.value,),
    Load: lambda n: n.indices,
    Call: lambda n: n.args,
    Reduce: lambda n: (n.body,),
    For: lambda _: (),
    If: lambda n: (n.cond,),
    Store: lambda n: (*n.indices, n.value),
    Alloc: lambda _: (),
    Block: lambda _: (),
}

# The children that are statements.
_STMTS: Mapping[type, Callable[[Any], tuple[Stmt, ...]]] = {
    For: lambda n: (n.body,),
    If: lambda n: (n.then,) if n.otherwise is None else (n.then, n.otherwise),
    Store: lambda _: (),
    Alloc: lambda n: (n.body,),
    Block: lambda n: n.stmts,
}

# The same node with other child expressions.
_WITH_EXPRS: Mapping[type, Callable[[Any, Sequence[Expr]], Any]] = {
    Binary: lambda n, c: Binary(n.op, c[0], c[1]),
    Select: lambda _, c: Select(c[0], c[1], c[2]),
    Cast: lambda n, c: Cast(n.dtype, c[0]),
    Load: lambda n, c: Load(n.buffer, tuple(c)),
    Call: lambda n, c: Call(n.fn, tuple(c)),
    Reduce: lambda n, c: Reduce(n.combiner, c[0], n.axes),
    If: lambda n, c: If(c[0], n.then, n.otherwise),
    Store: lambda n, c: Store(n.buffer, tuple(c[:-1]), c[-1]),
}

# The same node with other child statements.
_WITH_STMTS: Mapping[type, Callable[[Any, Sequence[Stmt]], Stmt]] = {
    For: lambda n, c: For(n.var, n.extent, n.kind, c[0]),
    If: lambda n, c: If(n.cond, c[0], c[1] if len(c) > 1 else None),
    Alloc: lambda n, c: Alloc(n.buffer, c[0]),
    Block: lambda _, c: Block(tuple(c)),
}

# What a node holds besides its children, as a value that compares with `==`.
_HEAD: Mapping[type, Callable[[Any], tuple[object, ...]]] = {
    Const: lambda n: (n.dtype, repr(n.value)),  # repr tells -0.0 from 0.0, and a NaN equals itself
    Var: lambda n: (n.name, n.dtype),
    Binary: lambda n: (n.op,),
    Select: lambda _: (),
    Cast: lambda n: (n.dtype,),
    Load: lambda n: _buffer_head(n.buffer),
    Call: lambda n: (n.fn,),
    Reduce: lambda n: (n.combiner, *((a.var.name, a.extent) for a in n.axes)),
    For: lambda n: (n.var.name, n.extent, n.kind),
    If: lambda n: (n.otherwise is None,),
    Store: lambda n: _buffer_head(n.buffer),
    Alloc: lambda n: _buffer_head(n.buffer),
    Block: lambda _: (),
}


def _buffer_head(buffer: Buffer) -> tuple[object, ...]:
    return (buffer.name, buffer.dtype, buffer.shape, buffer.scope)


def exprs(node: Node) -> tuple[Expr, ...]:
    """The direct children of `node` that are expressions, in the order they are evaluated."""
    return _EXPRS[type(node)](node)


def with_exprs(expr: Expr, new: Sequence[Expr]) -> Expr:
    """The node `expr` over other children, given in the order of `exprs(expr)`."""
    made: Expr = _WITH_EXPRS[type(expr)](expr, new)
    return made


def children(node: Node) -> tuple[Node, ...]:
    """The direct children of `node`: expressions, then statements."""
    cls = type(node)
    if cls in _STMTS:
        return (*_EXPRS[cls](node), *_STMTS[cls](node))
    return _EXPRS[cls](node)


def fold(expr: Expr, combine: Callable[[Expr, list[T]], T]) -> T:
    """`expr` folded by `combine(node, results of its children)`, bottom up, left to right."""
    order: list[Expr] = []
    todo = [expr]
    while todo:
        current = todo.pop()
        order.append(current)
        todo.extend(_EXPRS[type(current)](current))
    # `order` read backwards is post-order: a node's children are the last results.
    done: list[T] = []
    for current in reversed(order):
        first = len(done) - len(_EXPRS[type(current)](current))
        kids = done[first:]
        del done[first:]
        done.append(combine(current, kids))
    return done[0]


def rewrite_expr(expr: Expr, fn: ExprFn) -> Expr:
    """`expr` with `fn` applied to every node, children first; itself when `fn` changed nothing."""

    def rebuilt(node: Expr, kids: list[Expr]) -> Expr:
        for old, new in zip(_EXPRS[type(node)](node), kids, strict=True):
            if old is not new:
                return fn(_WITH_EXPRS[type(node)](node, kids))
        return fn(node)

    return fold(expr, rebuilt)


def rewrite(stmt: Stmt, fn: StmtFn) -> Stmt:
    """`stmt` with `fn` applied to every statement, inner ones first; itself when nothing changed.

    Expressions are left alone; see `rewrite_exprs`.
    """
    order: list[Stmt] = []
    todo = [stmt]
    while todo:
        current = todo.pop()
        order.append(current)
        todo.extend(_STMTS[type(current)](current))
    done: list[Stmt] = []
    for current in reversed(order):
        cls = type(current)
        kids = _STMTS[cls](current)
        if kids:
            count = len(kids)
            new = done[-count:]
            del done[-count:]
            for a, b in zip(kids, new, strict=True):
                if a is not b:
                    current = _WITH_STMTS[cls](current, new)
                    break
        done.append(fn(current))
    return done[0]


def map_exprs(stmt: Stmt, fn: ExprFn) -> Stmt:
    """`stmt` with `fn` applied to the expressions it holds itself; inner statements stay."""
    old = _EXPRS[type(stmt)](stmt)
    if not old:
        return stmt
    new = [fn(e) for e in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return stmt
    changed: Stmt = _WITH_EXPRS[type(stmt)](stmt, new)
    return changed


def rewrite_exprs(stmt: Stmt, fn: ExprFn) -> Stmt:
    """`stmt` with `fn` applied to each whole expression in it: store indices, values, conditions.

    To reach every node of those expressions pass `lambda e: rewrite_expr(e, node_fn)`.
    """
    return rewrite(stmt, lambda s: map_exprs(s, fn))


@overload
def substitute(node: Expr, mapping: Mapping[str, Expr]) -> Expr: ...
@overload
def substitute(node: Stmt, mapping: Mapping[str, Expr]) -> Stmt: ...
def substitute(node: Node, mapping: Mapping[str, Expr]) -> Node:
    """`node` with each variable named in `mapping` replaced by its expression.

    Requires: no loop inside `node` binds a name of `mapping` (names are unique in a kernel).
    """

    def replace(e: Expr) -> Expr:
        return mapping.get(e.name, e) if type(e) is Var else e

    if isinstance(node, For | If | Store | Alloc | Block):
        return rewrite_exprs(node, lambda e: rewrite_expr(e, replace))
    return rewrite_expr(node, replace)


def substitute_buffers(stmt: Stmt, mapping: Mapping[Buffer, Buffer]) -> Stmt:
    """`stmt` with loads, stores and allocations of each buffer in `mapping` replaced by its image.

    Requires: a buffer and its image have the same number of dimensions.
    """

    def in_expr(e: Expr) -> Expr:
        return Load(mapping[e.buffer], e.indices) if type(e) is Load and e.buffer in mapping else e

    def in_stmt(s: Stmt) -> Stmt:
        s = map_exprs(s, lambda e: rewrite_expr(e, in_expr))
        if isinstance(s, Store) and s.buffer in mapping:
            return Store(mapping[s.buffer], s.indices, s.value)
        if isinstance(s, Alloc) and s.buffer in mapping:
            return Alloc(mapping[s.buffer], s.body)
        return s

    return rewrite(stmt, in_stmt)


def renamed(stmt: Stmt, suffix: str) -> Stmt:
    """`stmt` with `suffix` appended to the names of its loop variables and allocated buffers.

    For copies: names are unique in a kernel.
    """
    if not suffix:
        return stmt
    variables: dict[str, Expr] = {
        loop.var.name: Var(loop.var.name + suffix) for loop in loops(stmt)
    }
    buffers: dict[Buffer, Buffer] = {}
    for alloc in allocs(stmt):
        old = alloc.buffer
        buffers[old] = Buffer(old.name + suffix, old.dtype, old.shape, old.scope)
    moved = rewrite_exprs(stmt, lambda e: substitute(e, variables))

    def turn(node: Stmt) -> Stmt:
        if isinstance(node, For):
            return For(Var(node.var.name + suffix), node.extent, node.kind, node.body)
        return node

    return substitute_buffers(rewrite(moved, turn), buffers)


def same(a: Node, b: Node) -> bool:
    """True when `a` and `b` have the same structure and names; buffers compare by their fields."""
    todo: list[tuple[Node, Node]] = [(a, b)]
    while todo:
        x, y = todo.pop()
        if x is y:
            continue
        cls = type(x)
        if cls is not type(y) or _HEAD[cls](x) != _HEAD[cls](y):
            return False
        left, right = children(x), children(y)
        if len(left) != len(right):
            return False
        todo.extend(zip(left, right, strict=True))
    return True


def visit(node: Node) -> Iterator[Node]:
    """Every node below and including `node`, parents first, left to right."""
    todo: list[Node] = [node]
    while todo:
        current = todo.pop()
        yield current
        todo.extend(reversed(children(current)))


def visit_stmts(stmt: Stmt) -> Iterator[Stmt]:
    """Every statement below and including `stmt`, parents first, in order, without expressions."""
    todo = [stmt]
    while todo:
        current = todo.pop()
        yield current
        todo.extend(reversed(_STMTS[type(current)](current)))


def free_vars(node: Node) -> tuple[Var, ...]:
    """The variables read in `node` and bound by no loop or reduction in it, by first occurrence."""
    seen: dict[str, Var] = {}
    bound: set[str] = set()
    for n in visit(node):
        if isinstance(n, Var):
            seen.setdefault(n.name, n)
        elif isinstance(n, For):
            bound.add(n.var.name)
        elif isinstance(n, Reduce):
            bound.update(axis.var.name for axis in n.axes)
    return tuple(var for name, var in seen.items() if name not in bound)


def names(node: Node) -> frozenset[str]:
    """The names of the free variables of `node`."""
    return frozenset(var.name for var in free_vars(node))


def loads(node: Node) -> tuple[Load, ...]:
    """The loads in `node`, outer ones first, in order of occurrence."""
    return tuple(n for n in visit(node) if isinstance(n, Load))


def stores(stmt: Stmt) -> tuple[Store, ...]:
    """The stores in `stmt`, in order."""
    return tuple(s for s in visit_stmts(stmt) if isinstance(s, Store))


def allocs(stmt: Stmt) -> tuple[Alloc, ...]:
    """The allocations in `stmt`, outer ones first."""
    return tuple(s for s in visit_stmts(stmt) if isinstance(s, Alloc))


def loops(stmt: Stmt) -> tuple[For, ...]:
    """The loops in `stmt`, outer ones first."""
    return tuple(s for s in visit_stmts(stmt) if isinstance(s, For))

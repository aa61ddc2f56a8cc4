"""Statements of the loop IR; `ir.kernel` has the function that holds them.

    Stmt ::= For(var, extent, kind, body)     var runs from 0 to extent - 1
           | If(cond, then, otherwise)        then when cond holds, else otherwise (if any)
           | Store(buffer, indices, value)
           | Alloc(buffer, body)              a buffer that lives while body runs
           | Block(stmts)                     in order

Meaning

- VECTORIZED loops run in lock step: one lane per iteration, with no dependence between lanes.
- PARALLEL iterations run in any order, or at once, and share nothing that they write.
- Buffers of scope REGISTER are indexed with constants, unrolled and vectorized variables only.
- `lower` keeps one index per dimension; `flatten_storage` makes all buffers one-dimensional.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from loopwright.ir.expr import Buffer, Expr, Var, node


class LoopKind(enum.Enum):
    """How the iterations of a loop are executed."""

    SERIAL = "for"
    PARALLEL = "parallel"
    VECTORIZED = "vectorized"
    UNROLLED = "unrolled"


@node
class For:
    """`for var in range(extent): body`; extents are known when a kernel is made."""

    var: Var
    extent: int
    kind: LoopKind
    body: Stmt


@node
class If:
    """`if cond: then [else: otherwise]`."""

    cond: Expr
    then: Stmt
    otherwise: Stmt | None = None


@node
class Store:
    """`buffer[indices] = value`."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr


@node
class Alloc:
    """`buffer` exists while `body` runs."""

    buffer: Buffer
    body: Stmt


@node
class Block:
    """Statements in order."""

    stmts: tuple[Stmt, ...]


Stmt: TypeAlias = For | If | Store | Alloc | Block


def block(*stmts: Stmt) -> Stmt:
    """The statements in order, nested blocks flattened; a single one is returned as it is."""
    flat: list[Stmt] = []
    for stmt in stmts:
        if isinstance(stmt, Block):
            flat.extend(stmt.stmts)
        else:
            flat.append(stmt)
    return flat[0] if len(flat) == 1 else Block(tuple(flat))

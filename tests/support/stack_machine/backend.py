"""The back end: a finished kernel as the machine's text, one instruction a line.

Expressions push their value, `store NAME` takes an index and a value from the stack. `if` takes a
condition, and goes on behind `else` or `end` when it does not hold; `loop VAR EXTENT` goes to its
`end` and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from loopwright.codegen.artifact import Artifact, Param
from loopwright.ir.expr import Binary, Call, Cast, Const, Expr, Load, Reduce, Select, Var, const
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store
from loopwright.ir.walk import substitute
from loopwright.kernel_call import Form
from loopwright.target.union import Target
from stack_machine.target import KIND


class StackBackend:
    language = "stack"

    def text(self, kernel: Kernel, *_: object) -> str:
        names = " ".join(f"{buffer.name}:{buffer.dtype}" for buffer in kernel.params)
        return "\n".join([f"args {names}", *statement(kernel.body), ""])

    def artifact(self, kernel: Kernel, params: tuple[Param, ...], target: Target) -> Artifact:
        return Artifact(
            code=self.text(kernel).encode(),
            entry=kernel.name,
            params=params,
            n_outputs=kernel.n_outputs,
            target_key=target.key,
            kind=KIND,
            form=Form.SOURCE,
        )


def statement(stmt: Stmt) -> Iterator[str]:
    match stmt:
        case For(var=var, extent=extent, kind=LoopKind.UNROLLED, body=body):
            for i in range(extent):
                yield from statement(substitute(body, {var.name: const(i)}))
        case For(var=var, extent=extent, body=body):
            yield from (f"loop {var.name} {extent}", *statement(body), "end")
        case If(cond=cond, then=then, otherwise=otherwise):
            yield from (*expression(cond), "if", *statement(then))
            if otherwise is not None:
                yield from ("else", *statement(otherwise))
            yield "end"
        case Store(buffer=buffer, indices=(index,), value=value):
            yield from (*expression(index), *expression(value), f"store {buffer.name}")
        case Alloc(buffer=buffer, body=body):
            yield from (f"alloc {buffer.name}:{buffer.dtype} {buffer.size}", *statement(body))
        case Block(stmts=stmts):
            for one in stmts:
                yield from statement(one)
        case _:
            raise NotImplementedError(f"the stack machine has no {stmt}")


def expression(expr: Expr) -> Iterator[str]:
    match expr:
        case Const(value=value, dtype=dtype):
            yield f"push {float(value)} {dtype}"
        case Var(name=name):
            yield f"get {name}"
        case Load(buffer=buffer, indices=(index,)):
            yield from (*expression(index), f"load {buffer.name}")
        case Binary(op=op, lhs=lhs, rhs=rhs):
            yield from (*expression(lhs), *expression(rhs), f"binary {op.name}")
        case Cast(dtype=dtype, value=value):
            yield from (*expression(value), f"cast {dtype}")
        case Select(cond=cond, yes=yes, no=no):
            yield from (*expression(cond), "if", *expression(yes), "else", *expression(no), "end")
        case Call() | Reduce() | Load():
            raise NotImplementedError(f"the stack machine has no {expr}")
        case _:
            assert_never(expr)


BACKEND = StackBackend()

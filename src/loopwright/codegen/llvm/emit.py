"""Loop IR to LLVM text: statements, loops, parallel regions, and the entry of the ABI.

Text is written once, in its final form: loops are unrolled while emitting, register buffers are SSA
values, addresses are hoisted as they are made. No LLVM pass is needed after it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from loopwright.codegen.affine import Idx, Scalar, constant
from loopwright.codegen.artifact import Param
from loopwright.codegen.conditions import Cond
from loopwright.codegen.indexing import Binding
from loopwright.codegen.llvm.builder import MAX_LINES, FunctionText
from loopwright.codegen.llvm.expr import LlvmExpressions
from loopwright.codegen.llvm.index import Indices
from loopwright.codegen.llvm.memory import Places
from loopwright.codegen.llvm.operations import LlvmOperations
from loopwright.codegen.storage import CHUNK_LANES, MAX_LANES, Home, Storage, plan_storage
from loopwright.codegen.values import CodeValue
from loopwright.errors import CodegenError
from loopwright.ir.expr import Buffer
from loopwright.ir.kernel import Kernel
from loopwright.ir.linear import Linear
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store
from loopwright.target.cpu import CpuTarget

LANE = constant(0, 1)
"""The variable of the open vectorized loop."""


@dataclass(frozen=True, slots=True)
class LlvmSource:
    """LLVM text of one kernel, and what its caller must know; see `artifact` for the ABI.

    `branching` says that values of register buffers merge after branches.
    """

    text: str
    entry: str
    params: tuple[Param, ...]
    n_outputs: int
    workspace_shared: int
    workspace_per_thread: int
    branching: bool = False


def emit(kernel: Kernel, params: tuple[Param, ...], target: CpuTarget) -> LlvmSource:
    """LLVM text of `kernel` for `target`.

    Requires: one-dimensional buffers, extents known, a verified kernel; `params` describe
    `kernel.params` in order. Raises: CodegenError for what cannot be expressed.
    """
    if len(params) != len(kernel.params):
        raise CodegenError(f"{kernel.name}: {len(params)} params for {len(kernel.params)} buffers")
    storage = plan_storage(kernel)
    emitter = _Emitter(kernel, params, storage, target)
    emitter.main()
    return LlvmSource(
        emitter.module(),
        emitter.entry,
        params,
        kernel.n_outputs,
        storage.shared,
        storage.per_thread,
        branching=emitter.branching,
    )


class _Emitter:
    def __init__(
        self, kernel: Kernel, params: tuple[Param, ...], storage: Storage, target: CpuTarget
    ) -> None:
        self._kernel = kernel
        self._storage = storage
        self._target = target
        self._names = itertools.count()
        self.entry = "lw_" + re.sub(r"\W", "_", kernel.name, flags=re.ASCII)
        self._functions: list[str] = []
        self._indices = Indices(FunctionText(self._names))
        self._arith = LlvmOperations(self._indices, frozenset(target.features), target.arch)
        alignments = (param.alignment for param in params)
        self._params = {b: f"%p{i}" for i, b in enumerate(kernel.params)}
        self._alignments = dict(zip(kernel.params, alignments, strict=True))
        places = Places(self._params, self._alignments, storage, target)
        self._expressions = LlvmExpressions(self._indices, self._arith, places)
        self._memory = self._expressions.memory
        self._registers = self._memory.registers
        self._in_parallel = False
        self._in_lanes = False
        self._as_int: dict[str, bool] = {}
        self.branching = False

    @property
    def _text(self) -> FunctionText:
        return self._indices.text

    def main(self) -> None:
        """Write the function that does the work, and the entry that unpacks its arguments."""
        self._stmt(self._kernel.body)
        alignments = self._alignments
        pointers = [
            f"ptr noalias align {alignments[buffer]} {name}"
            for buffer, name in self._params.items()
        ]
        signature = ", ".join([*pointers, "ptr noalias %shared", "ptr %parallel", "ptr %pool"])
        self._define(f"{self.entry}.main", signature, self._text)
        lines = []
        for i in range(len(pointers)):
            lines.append(f"  %s{i} = getelementptr ptr, ptr %args, i64 {i}")
            lines.append(f"  %a{i} = load ptr, ptr %s{i}, align 8")
        passed = [f"ptr %a{i}" for i in range(len(pointers))]
        passed += ["ptr %workspace", "ptr %parallel", "ptr %pool"]
        lines.append(f"  call void @{self.entry}.main({', '.join(passed)})")
        head = (
            f"define void @{self.entry}(ptr %args, ptr %workspace, ptr %parallel, ptr %pool) #0 {{"
        )
        self._functions.append("\n".join([head, *lines, "  ret void", "}"]))

    def module(self) -> str:
        """The text of the whole module."""
        bits = self._target.vector_bits
        constants = [
            f"{name} = private unnamed_addr constant {content}, align 64"
            for content, name in self._memory.constants.items()
        ]
        attributes = (
            'attributes #0 = { nounwind "no-trapping-math"="true" '
            f'"prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}'
        )
        parts = [f'target triple = "{self._target.triple}"', *constants]
        parts += [*self._functions, *self._arith.declared.values(), attributes, "!0 = !{}"]
        return "\n".join(parts) + "\n"

    def _define(self, name: str, signature: str, text: FunctionText) -> None:
        lines = [f"define internal void @{name}({signature}) #0 {{", "entry:", *text.text()]
        self._functions.append("\n".join([*lines, "  ret void", "}"]))

    def _stmt(self, stmt: Stmt) -> None:
        match stmt:
            case Store():
                self._memory.store(stmt, self._expressions.root(stmt.value))
            case For():
                self._for(stmt)
            case Block(stmts=stmts):
                for inner in stmts:
                    self._stmt(inner)
            case If():
                self._if(stmt)
            case Alloc(buffer=buffer, body=body):
                place = self._storage.places[buffer]
                if place.home is not Home.REGISTERS:
                    self._stmt(body)
                    return
                self._registers.declare(buffer, place)
                self._stmt(body)
                self._registers.forget(buffer)
            case _:
                assert_never(stmt)

    def _for(self, loop: For) -> None:
        vectorized = loop.kind is LoopKind.VECTORIZED
        unrolled = loop.kind is LoopKind.UNROLLED or loop.extent == 1
        as_int = unrolled or (vectorized and self._in_lanes)
        if self._as_int.setdefault(loop.var.name, as_int) is not as_int:
            self._memory.forget_accesses()
            self._as_int[loop.var.name] = as_int
        if loop.extent < 1:
            return
        if as_int:
            self._unrolled(loop)
        elif vectorized:
            self._vectorized(loop)
        elif loop.kind is LoopKind.PARALLEL and not self._in_parallel and not self._in_lanes:
            self._parallel(loop)
        else:
            self._serial(loop, loop.extent, "0", str(loop.extent), self._body_of(loop))
        self._indices.env.pop(loop.var.name, None)

    def _body_of(self, loop: For) -> Callable[[Idx], None]:
        def body(position: Idx) -> None:
            self._indices.env[loop.var.name] = position
            self._stmt(loop.body)

        return body

    def _unrolled(self, loop: For) -> None:
        env, name, body = self._indices.env, loop.var.name, loop.body
        for value in range(loop.extent):
            env[name] = value
            self._stmt(body)
            if len(self._text.lines) > MAX_LINES:
                raise CodegenError(
                    f"loop {name} unrolls to more than {MAX_LINES} instructions; unroll less"
                )

    def _vectorized(self, loop: For) -> None:
        if loop.extent <= MAX_LANES:
            self._lanes(loop, loop.extent, LANE)
            return
        chunks, rest = divmod(loop.extent, CHUNK_LANES)

        def chunk(position: Idx) -> None:
            self._lanes(loop, CHUNK_LANES, Idx(position.total.times(CHUNK_LANES), 1))

        self._serial(loop, chunks, "0", str(chunks), chunk)
        if rest:
            self._lanes(loop, rest, constant(chunks * CHUNK_LANES, 1))

    def _lanes(self, loop: For, lanes: int, binding: Idx) -> None:
        """The body of `loop` once, for `lanes` iterations in lock step."""
        self._in_lanes = True
        self._indices.lanes = lanes
        if binding is not LANE:
            self._indices.epoch += 1
        self._indices.env[loop.var.name] = binding
        self._stmt(loop.body)
        self._indices.lanes = 1
        self._in_lanes = False

    def _serial(
        self, loop: For, extent: int, begin: str, end: str, body: Callable[[Idx], None]
    ) -> None:
        """A loop from `begin` to `end` (i64 texts, at least one iteration) around `body`."""
        text = self._text
        carried = self._registers.enter_loop(self._storage.changed[loop])
        before, label = text.block, text.fresh_label("loop")
        text.lines.append(f"  br label %{label}")
        text.label(label)
        phis = text.open_part()
        frame = text.open_frame()
        variable, following = text.name(), text.name()
        self._indices.epoch += 1
        with text.layer(alone=True):
            body(Idx(Linear({Scalar(variable, frame, 0, extent - 1): 1})))
            self._registers.leave_loop(carried, before, phis)
        leave = text.fresh_label("after")
        again = text.name()
        phis.append(
            f"  {variable} = phi i64 [ {begin}, %{before} ], [ {following}, %{text.block} ]"
        )
        text.lines += [
            f"  {following} = add nuw nsw i64 {variable}, 1",
            f"  {again} = icmp slt i64 {following}, {end}",
            f"  br i1 {again}, label %{label}, label %{leave}",
        ]
        text.close_frame()
        text.label(leave)
        self._indices.epoch += 1

    def _if(self, stmt: If) -> None:
        cond = self._expressions.condition(stmt.cond)
        if cond.const is not None:
            chosen = stmt.then if cond.const else stmt.otherwise
            if chosen is not None:
                self._stmt(chosen)
        elif not cond.is_mask:
            self._branch(cond, stmt, stmt.then, stmt.otherwise)
        else:
            self._masked(cond, stmt, stmt.then)
            if stmt.otherwise is not None:
                self._masked(self._expressions.conditions.negate(cond), stmt, stmt.otherwise)

    def _masked(self, cond: Cond, stmt: If, body: Stmt) -> None:
        """`body` in the lanes of `cond`; skipped if none is active and it touches one address."""
        before = self._memory.mask
        mask = cond if before is None else self._expressions.conditions.both(before, cond)
        self._memory.mask = mask
        if mask.somewhere or not self._expressions.touches_uniformly(body):
            with self._text.layer():
                self._stmt(body)
        else:
            self._branch(self._expressions.any_lane(mask), stmt, body, None)
        self._memory.mask = before

    def _branch(self, cond: Cond, stmt: If, then: Stmt, otherwise: Stmt | None) -> None:
        text, registers = self._text, self._registers
        changed = self._storage.changed[stmt]
        registers.settle(changed)
        before = registers.snapshot(changed)
        self.branching = self.branching or bool(before)
        labels = [text.fresh_label("then"), text.fresh_label("else"), text.fresh_label("join")]
        if otherwise is None:
            labels[1] = labels[2]
        came_from = text.block
        text.lines.append(f"  br i1 {cond.text}, label %{labels[0]}, label %{labels[1]}")
        sides = [self._side(labels[0], labels[2], then, stmt)]
        registers.restore(before)
        if otherwise is None:
            sides.append((came_from, before))
        else:
            sides.append(self._side(labels[1], labels[2], otherwise, stmt))
        text.label(labels[2])
        registers.join(sides)

    def _side(
        self, label: str, join: str, body: Stmt, stmt: If
    ) -> tuple[str, dict[Buffer, list[CodeValue]]]:
        text, changed = self._text, self._storage.changed[stmt]
        text.label(label)
        with text.layer():
            self._stmt(body)
            self._registers.settle(changed)
        block = text.block
        text.lines.append(f"  br label %{join}")
        return block, self._registers.snapshot(changed)

    def _parallel(self, loop: For) -> None:
        """Outline the body of `loop`; pass it to the `parallel` callback with what it captures."""
        outer_text, outer_env = self._indices.text, self._indices.env
        number = next(self._names)
        captured = self._captured(outer_env)
        self._in_parallel = True
        self._indices.text = text = FunctionText(self._names)
        moved = {
            term: Scalar(f"%o{i}", text.frames[0], term.lo, term.hi)
            for i, term in enumerate(captured)
        }
        self._indices.env = {name: _moved(bound, moved) for name, bound in outer_env.items()}
        text.lines += [
            "  %some = icmp slt i64 %begin, %end",
            "  br i1 %some, label %first, label %none",
        ]
        text.label("first")
        self._serial(loop, loop.extent, "%begin", "%end", self._body_of(loop))
        text.lines.append("  br label %none")
        text.label("none")
        pointers = [f"ptr noalias align 64 {name}" for name in self._params.values()]
        pointers += ["ptr noalias %shared", "ptr noalias %own", "i64 %begin", "i64 %end"]
        signature = ", ".join([*pointers, *(f"i64 %o{i}" for i in range(len(captured)))])
        self._define(f"{self.entry}.body{number}", signature, text)
        self._unpack(number, len(captured))
        self._indices.text, self._indices.env = outer_text, outer_env
        self._in_parallel = False
        self._launch(number, captured, loop.extent)

    def _captured(self, env: dict[str, Binding]) -> list[Scalar]:
        found: dict[Scalar, None] = {}
        for bound in env.values():
            if isinstance(bound, Idx):
                found.update(dict.fromkeys(bound.terms))
        return list(found)

    def _unpack(self, number: int, captured: int) -> None:
        """The function that the callback calls: closure slots to arguments of the body."""
        names = [*self._params.values(), "%shared"]
        lines, passed = [], []
        for slot, name in enumerate([*names, *(f"%o{i}" for i in range(captured))]):
            kind = "ptr" if slot < len(names) else "i64"
            lines.append(f"  %s{slot} = getelementptr i64, ptr %closure, i64 {slot}")
            lines.append(f"  {name} = load {kind}, ptr %s{slot}, align 8")
            passed.append(f"{kind} {name}")
        split = len(names)
        passed[split:split] = ["ptr %own", "i64 %begin", "i64 %end"]
        lines += [
            f"  %far = mul i64 %thread, {self._storage.per_thread}",
            f"  %beyond = add i64 %far, {self._storage.shared}",
            "  %own = getelementptr i8, ptr %shared, i64 %beyond",
            f"  call void @{self.entry}.body{number}({', '.join(passed)})",
        ]
        head = (
            f"define internal void @{self.entry}.parallel{number}"
            "(ptr %closure, i64 %begin, i64 %end, i64 %thread) #0 {"
        )
        self._functions.append("\n".join([head, *lines, "  ret void", "}"]))

    def _launch(self, number: int, captured: list[Scalar], extent: int) -> None:
        """Fill a closure and call the `parallel` callback."""
        text = self._text
        names = [*self._params.values(), "%shared"]
        values = [f"ptr {name}" for name in names] + [f"i64 {term.text}" for term in captured]
        closure = text.hoisted(
            ("closure", number), text.frames[0], f"alloca [{len(values)} x i64], align 16"
        )
        for slot, value in enumerate(values):
            address = text.op(f"getelementptr i64, ptr {closure}, i64 {slot}")
            text.lines.append(f"  store {value}, ptr {address}, align 8")
        text.lines.append(
            f"  call void %parallel(ptr %pool, ptr @{self.entry}.parallel{number}, "
            f"ptr {closure}, i64 {extent})"
        )


def _moved(bound: Binding, moved: dict[Scalar, Scalar]) -> Binding:
    if isinstance(bound, int):
        return bound
    terms = {moved[term]: coef for term, coef in bound.terms.items()}
    return bound._replace(total=Linear(terms, bound.const))

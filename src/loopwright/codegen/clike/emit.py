"""Loop IR to source text of C and its like: statements, loops, parallel regions, and the entry."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

from loopwright.codegen.affine import Idx, Scalar, constant
from loopwright.codegen.artifact import Param
from loopwright.codegen.clike.dialects import Dialect
from loopwright.codegen.clike.expr import ClikeExpressions
from loopwright.codegen.clike.index import ClikeIndices, moved
from loopwright.codegen.clike.memory import pieces
from loopwright.codegen.clike.operations import ClikeOperations, EmitState
from loopwright.codegen.clike.prelude import Prelude, storage_key
from loopwright.codegen.clike.text import Body
from loopwright.codegen.conditions import Cond
from loopwright.codegen.indexing import Binding
from loopwright.codegen.storage import ALIGN, CHUNK_LANES, MAX_LANES, Home, Storage, plan_storage
from loopwright.errors import CodegenError
from loopwright.ir.expr import Buffer
from loopwright.ir.kernel import Kernel
from loopwright.ir.linear import Linear
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store
from loopwright.target.cpu import CpuTarget


@dataclass(frozen=True, slots=True)
class ClikeSource:
    """Source of one kernel, in parts that several kernels in one file can share.

    `declarations` are of types and functions that any kernel may declare identically.
    """

    head: str
    declarations: tuple[str, ...]
    functions: str
    entry: str
    workspace_shared: int
    workspace_per_thread: int

    @property
    def text(self) -> str:
        """The whole file."""
        declared = "\n".join(self.declarations)
        return f"{self.head}\n{declared}\n\n{self.functions}"


def emit(
    kernel: Kernel, params: tuple[Param, ...], target: CpuTarget, dialect: Dialect
) -> ClikeSource:
    """The source of `kernel` for `target` in `dialect`.

    Requires: one-dimensional buffers, extents known, a verified kernel; `params` describe
    `kernel.params` in order. Raises: CodegenError for what cannot be expressed.
    """
    if len(params) != len(kernel.params):
        raise CodegenError(f"{kernel.name}: {len(params)} params for {len(kernel.params)} buffers")
    storage = plan_storage(kernel)
    emitter = _Emitter(kernel, storage, target, dialect)
    emitter.main()
    return ClikeSource(
        head=dialect.head,
        declarations=emitter.prelude.declarations,
        functions="\n".join(emitter.functions),
        entry=emitter.entry,
        workspace_shared=storage.shared,
        workspace_per_thread=storage.per_thread,
    )


class _Emitter:
    def __init__(
        self, kernel: Kernel, storage: Storage, target: CpuTarget, dialect: Dialect
    ) -> None:
        self._kernel = kernel
        self._storage = storage
        self._dialect = dialect
        self._names = itertools.count()
        self.prelude = Prelude(dialect)
        self.entry = "lw_" + re.sub(r"\W", "_", kernel.name, flags=re.ASCII)
        self.functions: list[str] = []
        self._most_lanes = _lanes_at_once(storage, target)
        self._state = EmitState(self.prelude, Body(self._names))
        self._indices = ClikeIndices(self._state)
        arm = target.arch == "aarch64"
        ops = ClikeOperations(self._state, fused=arm or "fma" in target.features)
        self._expressions = ClikeExpressions(self._state, self._indices, ops, storage)
        self._memory = self._expressions.memory
        self._params = {b: f"p{i}_{_identifier(b.name)}" for i, b in enumerate(kernel.params)}
        self._memory.names = dict(self._params)
        self._in_parallel = False
        self._in_lanes = False

    @property
    def _body(self) -> Body:
        return self._state.body

    def main(self) -> None:
        """Write the function that does the work, and the entry that unpacks its arguments."""
        self._stmt(self._kernel.body)
        arguments = ", ".join(
            [*self._pointers(), "char *shared", "lw_parallel_for parallel", "void *pool"]
        )
        self._define(f"{self.entry}_main", arguments, self._body)
        passed = [f"args[{i}]" for i in range(len(self._params))]
        call = f"  {self.entry}_main({', '.join([*passed, 'workspace', 'parallel', 'pool'])});"
        head = (
            f"void {self.entry}(void *const *args, char *workspace, "
            "lw_parallel_for parallel, void *pool)"
        )
        self.functions.append(f"{head} {{\n{call}\n}}\n")

    def _pointers(self) -> list[str]:
        restrict = self._dialect.restrict
        found = []
        for buffer, name in self._params.items():
            const = "" if buffer in self._storage.stored else "const "
            found.append(f"{const}{self._element(buffer)} *{restrict} {name}")
        return found

    def _element(self, buffer: Buffer) -> str:
        return self.prelude.type(storage_key(buffer.dtype))

    def _define(self, name: str, arguments: str, body: Body) -> None:
        head = f"{self._dialect.function} void {name}({arguments}) {{"
        self.functions.append("\n".join([head, *body.lines, "}\n"]))

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
            case Alloc():
                self._alloc(stmt)
            case _:
                assert_never(stmt)

    def _alloc(self, stmt: Alloc) -> None:
        buffer, place = stmt.buffer, self._storage.places[stmt.buffer]
        with self._body.scope():
            if place.home is Home.REGISTERS:
                self._memory.declare(buffer, self._most_lanes)
                self._stmt(stmt.body)
                self._memory.forget(buffer)
                return
            before = self._memory.names
            self._memory.names = {**before, buffer: self._array(buffer)}
            self._stmt(stmt.body)
            self._memory.names = before

    def _array(self, buffer: Buffer) -> str:
        """Declare the memory of an allocated buffer and return its name."""
        place, kind = self._storage.places[buffer], self._element(buffer)
        name = self._body.fresh(f"{_identifier(buffer.name)}_")
        if place.home is Home.STACK:
            aligned = self._dialect.aligned.format(align=ALIGN)
            size = buffer.size * max(1, place.expand)
            self._body.line(f"{kind} {name}[{size}] {aligned};")
        else:
            self._body.line(f"{kind} *const {name} = {self._workspace(buffer)};")
        return name

    def _workspace(self, buffer: Buffer) -> str:
        place = self._storage.places[buffer]
        area = "shared" if place.home is Home.SHARED else "own"
        return f"({self._element(buffer)} *)({area} + {place.offset})"

    def _for(self, loop: For) -> None:
        vectorized = loop.kind is LoopKind.VECTORIZED
        if loop.extent < 1:
            return
        if loop.kind is LoopKind.UNROLLED or loop.extent == 1 or (vectorized and self._in_lanes):
            for value in range(loop.extent):
                self._indices.env[loop.var.name] = value
                self._stmt(loop.body)
        elif vectorized:
            self._vectorized(loop)
        elif loop.kind is LoopKind.PARALLEL and not self._in_parallel and not self._in_lanes:
            self._parallel(loop)
        else:
            self._serial(loop, "0", str(loop.extent))
        self._indices.env.pop(loop.var.name, None)

    def _vectorized(self, loop: For) -> None:
        if loop.extent <= MAX_LANES:
            self._lanes(loop, loop.extent, constant(0))
            return
        chunks, rest = divmod(loop.extent, CHUNK_LANES)
        name = self._body.fresh(f"{_identifier(loop.var.name)}_")
        start = Idx(Linear({Scalar(name, None, 0, chunks - 1): CHUNK_LANES}))
        with self._loop(loop, self._loop_head(name, "0", str(chunks))):
            self._lanes(loop, CHUNK_LANES, start)
        if rest:
            self._lanes(loop, rest, constant(chunks * CHUNK_LANES))

    def _lanes(self, loop: For, lanes: int, first: Idx) -> None:
        """The body of `loop` for `lanes` iterations from `first` on, vector by vector."""
        self._in_lanes = True
        for start, width in pieces(lanes, self._most_lanes):
            lane = 0 if width == 1 else 1
            binding: Binding = moved(first, first.const + start, lane)
            self._indices.position = constant(start, lane)
            self._state.lanes = width
            if width == 1 and not first.terms:
                binding = first.const + start
            self._indices.env[loop.var.name] = binding
            self._stmt(loop.body)
        self._state.lanes = 1
        self._indices.position = constant(0)
        self._in_lanes = False

    def _loop_head(self, name: str, begin: str, end: str) -> str:
        kind = self.prelude.type("i64")
        return f"for ({kind} {name} = {begin}; {name} < {end}; ++{name})"

    @contextmanager
    def _loop(self, loop: For, head: str) -> Iterator[None]:
        """The scope of a loop: register values it stores are unknown inside it and after it."""
        changed = self._storage.changed[loop]
        self._memory.assume(self._memory.literals, changed)
        with self._body.scope(head, alone=True):
            yield
        self._memory.assume(self._memory.literals, changed)

    def _serial(self, loop: For, begin: str, end: str) -> None:
        name = self._body.fresh(f"{_identifier(loop.var.name)}_")
        term = Scalar(name, None, 0, loop.extent - 1)
        with self._loop(loop, self._loop_head(name, begin, end)):
            self._indices.env[loop.var.name] = Idx(Linear({term: 1}))
            self._stmt(loop.body)

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
            with self._body.scope():
                self._stmt(body)
        else:
            self._branch(self._expressions.any_lane(mask), stmt, body, None)
        self._memory.mask = before

    def _branch(self, cond: Cond, stmt: If, then: Stmt, otherwise: Stmt | None) -> None:
        memory, changed = self._memory, self._storage.changed[stmt]
        memory.assume(memory.literals, changed, wide=True)
        before = memory.literals
        with self._body.scope(f"if ({cond.text})"):
            self._stmt(then)
        memory.assume(memory.literals, changed, wide=True)
        after = memory.literals
        memory.assume(before)
        if otherwise is not None:
            with self._body.scope("else"):
                self._stmt(otherwise)
            memory.assume(memory.literals, changed, wide=True)
        found = memory.literals
        memory.assume({key: value for key, value in found.items() if after.get(key) == value})

    def _parallel(self, loop: For) -> None:
        """Outline the body of `loop`; pass it to the callback with what it captures."""
        outer, names = self._state.body, self._memory.names
        number = next(self._names)
        captured = self._captured()
        self._state.body = Body(self._names)
        self._in_parallel = True
        self._memory.names = {b: self._inner_name(b, name) for b, name in names.items()}
        self._serial(loop, "begin", "end")
        kind = self.prelude.type("i64")
        arguments = [*self._pointers(), "char *shared", "char *own"]
        arguments += [f"{kind} begin", f"{kind} end", *(f"{kind} {name}" for name in captured)]
        self._define(f"{self.entry}_body{number}", ", ".join(arguments), self._state.body)
        self._unpack(number, captured)
        self._state.body, self._memory.names = outer, names
        self._in_parallel = False
        self._launch(number, captured, loop.extent)

    def _inner_name(self, buffer: Buffer, name: str) -> str:
        """The name that an outer buffer has in the function of a parallel loop."""
        if self._storage.places[buffer].home is Home.SHARED:
            kind = self._element(buffer)
            self._body.line(f"{kind} *const {name} = {self._workspace(buffer)};")
        return name

    def _captured(self) -> list[str]:
        found: dict[str, None] = {}
        for bound in self._indices.env.values():
            if isinstance(bound, Idx):
                found.update((term.text, None) for term in bound.terms)
        return list(found)

    def _unpack(self, number: int, captured: list[str]) -> None:
        """The closure's type, and the function that the callback calls with it."""
        kind, closure = self.prelude.type("i64"), f"struct {self.entry}_closure{number}"
        fields = [f"  void *{name};" for name in (*self._params.values(), "shared")]
        fields += [f"  {kind} {name};" for name in captured]
        passed = [f"c->{name}" for name in (*self._params.values(), "shared")]
        own = f"(char *)c->shared + {self._storage.shared} + thread * {self._storage.per_thread}"
        passed += [own, "begin", "end", *(f"c->{name}" for name in captured)]
        head = (
            f"static void {self.entry}_parallel{number}"
            f"(void *closure, {kind} begin, {kind} end, {kind} thread) {{"
        )
        lines = [f"{closure} {{", *fields, "};", "", head, f"  const {closure} *c = closure;"]
        call = f"  if (begin < end) {self.entry}_body{number}({', '.join(passed)});"
        self.functions.append("\n".join([*lines, call, "}\n"]))

    def _launch(self, number: int, captured: list[str], extent: int) -> None:
        """Fill a closure and call the `parallel` callback."""
        values = [f"(void *){name}" for name in self._params.values()]
        values += ["shared", *captured]
        with self._body.scope():
            closure = f"struct {self.entry}_closure{number} closure = {{{', '.join(values)}}};"
            self._body.line(closure)
            function = f"{self.entry}_parallel{number}"
            self._body.line(f"parallel(pool, {function}, &closure, {extent});")


def _lanes_at_once(storage: Storage, target: CpuTarget) -> int:
    """Elements in one vector of the widest type that the kernel computes with."""
    widest = max(32, *(buffer.dtype.bits for buffer in storage.places))
    return max(1, target.vector_bits // widest)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)

"""Where each buffer of a kernel lives: SSA registers, the stack, or the workspace.

A REGISTER buffer becomes SSA values when every access is to a slot known while emitting: indices of
constants and unrolled variables, and the lane with stride 1 in vectorized loops of one width. Any
other small local buffer is on the stack; the rest is in the workspace, one copy per thread inside a
parallel loop. A buffer allocated inside a vectorized loop exists once per lane (`expand`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from loopwright.codegen.affine import parts
from loopwright.errors import CodegenError
from loopwright.ir import walk
from loopwright.ir.expr import Buffer, Expr, Load, Scope, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store

MAX_LANES = 128
"""A vectorized loop of more iterations runs as a serial loop over vectors of CHUNK_LANES."""
CHUNK_LANES = 64
MAX_SLOTS = 256
STACK_BUFFER = 16384
STACK_TOTAL = 65536
ALIGN = 64


class Home(enum.Enum):
    """Where a buffer lives."""

    PARAM = "param"
    REGISTERS = "registers"
    STACK = "stack"
    SHARED = "shared"
    THREAD = "thread"


@dataclass(frozen=True, slots=True)
class BufferPlace:
    """`offset` is bytes in the workspace; `lanes` is the width of a register slot.

    With `expand` > 0 the buffer has one copy per lane of the loop over `lane`: element i is at
    `i * expand + lane`.
    """

    home: Home
    offset: int = 0
    lanes: int = 1
    expand: int = 0
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Storage:
    """The places of all buffers, and the bytes of workspace they need.

    `stored` are the buffers that anything is stored to; `changed` has, for each loop and condition,
    the REGISTERS buffers stored to inside it.
    """

    places: dict[Buffer, BufferPlace]
    shared: int
    per_thread: int
    stored: frozenset[Buffer]
    changed: dict[Stmt, frozenset[Buffer]]


class _Role(enum.Enum):
    CONST = "const"
    LANE = "lane"
    RUNTIME = "runtime"


@dataclass(frozen=True, slots=True)
class _Site:
    """The loops around a statement: role of each variable, the lane loop, the parallel loop."""

    roles: dict[str, _Role]
    lanes: int = 1
    lane: str = ""
    chunked: bool = False
    parallel: For | None = None

    def inside(self, loop: For) -> _Site:
        """The site of the body of `loop`."""
        role, lanes, lane = _Role.RUNTIME, self.lanes, self.lane
        chunked, parallel = self.chunked, self.parallel
        vectorized = loop.kind is LoopKind.VECTORIZED
        if loop.extent == 1 or loop.kind is LoopKind.UNROLLED or (vectorized and lane):
            role = _Role.CONST
        elif vectorized:
            lane = loop.var.name
            chunked = loop.extent > MAX_LANES
            lanes = CHUNK_LANES if chunked else loop.extent
            role = _Role.RUNTIME if chunked else _Role.LANE
        elif loop.kind is LoopKind.PARALLEL and parallel is None and not lane:
            parallel = loop
        return _Site({**self.roles, loop.var.name: role}, lanes, lane, chunked, parallel)


def plan_storage(kernel: Kernel) -> Storage:
    """The places of the buffers of `kernel`.

    Requires: one-dimensional buffers. Raises: CodegenError for a buffer that is not
    one-dimensional, or not declared.
    """
    planner = _Planner()
    for buffer in kernel.params:
        planner.places[buffer] = BufferPlace(Home.PARAM)
    planner.survey(kernel.body, _Site({}))
    for buffer in planner.sites:
        planner.decide(buffer)
    planner.layout(kernel.body, 0, 0)
    planner.changes(kernel.body)
    return Storage(
        planner.places,
        planner.shared,
        planner.per_thread,
        frozenset(planner.stored),
        planner.changed,
    )


class _Planner:
    def __init__(self) -> None:
        self.places: dict[Buffer, BufferPlace] = {}
        self.sites: dict[Buffer, _Site] = {}
        self.accesses: dict[Buffer, list[tuple[Expr, _Site]]] = {}
        self.stored: set[Buffer] = set()
        self.changed: dict[Stmt, frozenset[Buffer]] = {}
        self.shared = self.per_thread = self.stack = 0

    def survey(self, stmt: Stmt, site: _Site) -> None:
        """Note where every buffer is allocated and how it is accessed."""
        match stmt:
            case For(body=body):
                self.survey(body, site.inside(stmt))
            case If(cond=cond, then=then, otherwise=otherwise):
                self._loads(cond, site)
                self.survey(then, site)
                if otherwise is not None:
                    self.survey(otherwise, site)
            case Store(buffer=buffer, indices=indices, value=value):
                self.stored.add(buffer)
                self._access(buffer, indices, site)
                for expr in (*indices, value):
                    self._loads(expr, site)
            case Alloc(buffer=buffer, body=body):
                if buffer in self.sites:
                    raise CodegenError(f"buffer {buffer.name} is allocated twice")
                self.sites[buffer] = site
                self.survey(body, site)
            case Block(stmts=stmts):
                for inner in stmts:
                    self.survey(inner, site)
            case _:
                assert_never(stmt)

    def _loads(self, expr: Expr, site: _Site) -> None:
        for node in distinct(expr):
            if isinstance(node, Load):
                self._access(node.buffer, node.indices, site)

    def _access(self, buffer: Buffer, indices: tuple[Expr, ...], site: _Site) -> None:
        if len(indices) != 1:
            raise CodegenError(
                f"buffer {buffer.name} has {len(indices)} dimensions; flatten it first"
            )
        if buffer not in self.places and buffer not in self.sites:
            raise CodegenError(f"buffer {buffer.name} is neither a parameter nor allocated here")
        self.accesses.setdefault(buffer, []).append((indices[0], site))

    def decide(self, buffer: Buffer) -> None:
        """Choose where an allocated buffer lives; workspace offsets come later."""
        site = self.sites[buffer]
        expand = site.lanes if site.lane else 0
        accesses = self.accesses.get(buffer, [])
        crossing = any(other.parallel is not site.parallel for _, other in accesses)
        nbytes = buffer.nbytes * max(1, expand)
        lanes = 0
        if buffer.scope is Scope.REGISTER and not crossing:
            lanes = self._slot_lanes(buffer, accesses, expand)
        if lanes:
            home = Home.REGISTERS
        elif buffer.scope is not Scope.GLOBAL and not crossing and self._fits_stack(nbytes):
            home = Home.STACK
        else:
            home = Home.SHARED if site.parallel is None else Home.THREAD
        self.places[buffer] = BufferPlace(
            home, 0, max(1, lanes), expand, site.lane if expand else ""
        )

    def _fits_stack(self, nbytes: int) -> bool:
        if nbytes > STACK_BUFFER or self.stack + nbytes > STACK_TOTAL:
            return False
        self.stack += nbytes
        return True

    def _slot_lanes(self, buffer: Buffer, accesses: list[tuple[Expr, _Site]], expand: int) -> int:
        """Lanes of the slots of a buffer that can be SSA values; 0 when it cannot."""
        widths = {_width(index, site, expand) for index, site in accesses}
        if len(widths) != 1:
            return 0
        lanes = widths.pop()
        size = buffer.size * max(1, expand)
        if not lanes or size % lanes or size // lanes > MAX_SLOTS:
            return 0
        return lanes if all(_aligned(index, site, lanes, expand) for index, site in accesses) else 0

    def layout(self, stmt: Stmt, shared: int, own: int) -> None:
        """Give workspace buffers offsets: nested ones apart, consecutive ones in one place."""
        for alloc in _outermost_allocs(stmt):
            place = self.places[alloc.buffer]
            nbytes = -(-alloc.buffer.nbytes * max(1, place.expand) // ALIGN) * ALIGN
            top_shared, top_own = shared, own
            if place.home is Home.SHARED:
                self.places[alloc.buffer] = _moved(place, shared)
                top_shared += nbytes
            elif place.home is Home.THREAD:
                self.places[alloc.buffer] = _moved(place, own)
                top_own += nbytes
            self.shared = max(self.shared, top_shared)
            self.per_thread = max(self.per_thread, top_own)
            self.layout(alloc.body, top_shared, top_own)

    def changes(self, stmt: Stmt) -> frozenset[Buffer]:
        """The REGISTERS buffers stored to in `stmt`; recorded for loops and conditions."""
        match stmt:
            case Store(buffer=buffer):
                in_registers = self.places[buffer].home is Home.REGISTERS
                return frozenset({buffer}) if in_registers else frozenset()
            case For(body=body):
                found = self.changes(body)
            case If(then=then, otherwise=otherwise):
                found = self.changes(then)
                if otherwise is not None:
                    found |= self.changes(otherwise)
            case Alloc(buffer=buffer, body=body):
                return self.changes(body) - {buffer}
            case Block(stmts=stmts):
                return frozenset().union(*(self.changes(inner) for inner in stmts))
            case _:
                assert_never(stmt)
        self.changed[stmt] = found
        return found


def distinct(expr: Expr) -> Iterator[Expr]:
    """Every node of `expr`, shared ones once."""
    seen = {expr}
    todo = [expr]
    while todo:
        node = todo.pop()
        yield node
        for child in walk.exprs(node):
            if child not in seen:
                seen.add(child)
                todo.append(child)


def _width(index: Expr, site: _Site, expand: int) -> int:
    """Lanes of the slot that an access reads or writes; 0 when the slot is not known in advance."""
    form = parts(index)
    lane, scale = (1, expand) if expand else (0, 1)
    for name, coef in form.variables.terms.items():
        role = site.roles.get(name, _Role.RUNTIME)
        if role is _Role.RUNTIME:
            return 0
        if role is _Role.LANE:
            lane += coef * scale
    for atom in form.atoms.terms:
        if not _constant(atom, site):
            return 0
    return {0: 1, 1: 0 if site.chunked else site.lanes}.get(lane, 0)


def _constant(expr: Expr, site: _Site) -> bool:
    nodes = list(distinct(expr))
    names = [n.name for n in nodes if isinstance(n, Var)]
    return all(site.roles.get(name) is _Role.CONST for name in names) and not any(
        isinstance(n, Load) for n in nodes
    )


def _aligned(index: Expr, site: _Site, lanes: int, expand: int) -> bool:
    """True when every slot that the access can name starts at a multiple of `lanes`."""
    form = parts(index)
    scale = max(1, expand)
    fixed = [c for n, c in form.variables.terms.items() if site.roles[n] is _Role.CONST]
    steps = (form.variables.const, *form.atoms.terms.values(), *fixed)
    return all(step * scale % lanes == 0 for step in steps)


def _outermost_allocs(stmt: Stmt) -> list[Alloc]:
    match stmt:
        case Alloc():
            return [stmt]
        case Store():
            return []
        case For(body=body):
            return _outermost_allocs(body)
        case If(then=then, otherwise=otherwise):
            rest = [] if otherwise is None else _outermost_allocs(otherwise)
            return _outermost_allocs(then) + rest
        case Block(stmts=stmts):
            return [alloc for inner in stmts for alloc in _outermost_allocs(inner)]
        case _:
            assert_never(stmt)


def _moved(place: BufferPlace, offset: int) -> BufferPlace:
    return BufferPlace(place.home, offset, place.lanes, place.expand, place.lane)

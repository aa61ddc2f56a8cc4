"""An interpreter of the loop IR, exactly as `ir.expr` and `ir.stmt` say it behaves: an oracle.

The kernel is translated to Python source, statement by statement, and run on NumPy scalars. Every
access is checked against the shape of its buffer. What kernels must not rely on is varied:
allocated buffers start as NaN (integers: an unlikely number), and with a random generator parallel
and vectorized iterations run in shuffled order. About a million operations a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import LoweringError, ShapeError
from loopwright.ir import walk
from loopwright.ir.bounds import dtype_range
from loopwright.ir.dtype import BF16, F16, F32, F64, I64, DType
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
    Select,
    Var,
)
from loopwright.ir.kernel import Kernel
from loopwright.ir.printer import show
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store

Array: TypeAlias = npt.NDArray[Any]
_MAX_DEPTH = 30
"""Nesting beyond which part of an expression gets its own variable."""
_MAX_LOOPS = 12
"""Loops in one Python function; CPython allows 20 nested blocks."""
_UNORDERED = frozenset({LoopKind.PARALLEL, LoopKind.VECTORIZED})


def run(kernel: Kernel, arrays: Sequence[Array], rng: np.random.Generator | None = None) -> None:
    """Run `kernel` on `arrays`, one for each parameter; outputs are written in place.

    Args:
        arrays: C-contiguous, of the dtype and number of elements of their buffers, any shape.
        rng: shuffles the iterations of parallel and vectorized loops; None: in order.

    Raises: ShapeError for arrays that do not fit; LoweringError for an access out of bounds, naming
        buffer, index and loop values.
    """
    program = _Program(kernel)
    code = compile(program.source(), f"<kernel {kernel.name}>", "exec")
    names: dict[str, Any] = {**_RUNTIME, **program.constants}
    names["fail"] = program.fail
    names["fresh"] = lambda site: _fresh(program.allocated[site])
    names["order"] = lambda extent: _order(extent, rng)
    exec(code, names)  # our own text, made from a kernel's structure: no foreign names or strings
    flat = [_flat(kernel, b, a) for b, a in zip(kernel.params, arrays, strict=True)]
    with np.errstate(all="ignore"):
        names["main"](*flat)


def _flat(kernel: Kernel, buffer: Buffer, array: Array) -> Array:
    if array.dtype != buffer.dtype.numpy or array.size != buffer.size:
        raise ShapeError(
            f"kernel {kernel.name}: {buffer.name} is {buffer.dtype}{list(buffer.shape)}, "
            f"got {array.dtype}{list(array.shape)}"
        )
    if not array.flags.c_contiguous:
        raise ShapeError(f"kernel {kernel.name}: the array for {buffer.name} is not contiguous")
    return array.reshape(-1)


def _order(extent: int, rng: np.random.Generator | None) -> Iterable[int]:
    if rng is None:
        return range(extent)
    shuffled: list[int] = rng.permutation(extent).tolist()
    return shuffled


def _fresh(buffer: Buffer) -> Array:
    """A new buffer with arbitrary contents."""
    if buffer.dtype.is_float:
        return np.full(buffer.size, np.nan).astype(buffer.dtype.numpy)
    limits = dtype_range(buffer.dtype)
    return np.full(
        buffer.size, 1 if limits is None else limits[1] - limits[1] // 5, buffer.dtype.numpy
    )


@dataclass(slots=True)
class _Piece:
    """Python text of an expression, and the statements that must run before it.

    `wild` is True where an int64 may be any number: a loaded one, and what is computed from it.
    """

    text: str
    depth: int = 0
    before: list[str] = field(default_factory=list)
    wild: bool = False


@dataclass(frozen=True, slots=True)
class _Site:
    """An access in the source, for its error message."""

    text: str
    shape: tuple[int, ...]
    loops: tuple[str, ...]


class _Program:
    """Writes the source of one kernel, with the objects that it refers to."""

    def __init__(self, kernel: Kernel) -> None:
        self.constants: dict[str, Any] = {}
        self.allocated: list[Buffer] = []
        self._kernel = kernel
        self._sites: list[_Site] = []
        self._names: dict[str, str] = {}  # loop variables
        self._loops: tuple[str, ...] = ()
        self._buffers: dict[Buffer, str] = {}
        self._lines: list[str] = []
        self._count = 0

    def source(self) -> str:
        """The text of a function `main(buffer, ...)`."""
        params = [self._buffer(b) for b in self._kernel.params]
        self._line(0, f"def main({', '.join(params)}):")
        self._stmt(self._kernel.body, 1, 0)
        return "\n".join(self._lines) + "\n"

    def fail(self, number: int, index: tuple[int, ...], values: tuple[int, ...]) -> NoReturn:
        """Called by the running kernel when an access is out of bounds."""
        site = self._sites[number]
        at = ", ".join(f"{n}={v}" for n, v in zip(site.loops, values, strict=True))
        raise LoweringError(
            f"kernel {self._kernel.name}: {site.text} is element {list(index)} of "
            f"{list(site.shape)}{' at ' if at else ''}{at}"
        )

    def _line(self, indent: int, text: str) -> None:
        self._lines.append(" " * indent + text)

    def _new(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _buffer(self, buffer: Buffer) -> str:
        if buffer not in self._buffers:
            self._buffers[buffer] = f"b{len(self._buffers)}"
        return self._buffers[buffer]

    # statements

    def _stmt(self, stmt: Stmt, indent: int, nested: int) -> None:
        match stmt:
            case For():
                self._for(stmt, indent, nested)
            case If(cond=cond, then=then, otherwise=otherwise):
                self._line(indent, f"if {self._expr(cond, indent)}:")
                self._stmt(then, indent + 1, nested)
                if otherwise is not None:
                    self._line(indent, "else:")
                    self._stmt(otherwise, indent + 1, nested)
            case Store():
                self._store(stmt, indent)
            case Alloc(buffer=buffer, body=body):
                self.allocated.append(buffer)
                self._line(indent, f"{self._buffer(buffer)} = fresh({len(self.allocated) - 1})")
                self._stmt(body, indent, nested)
            case Block(stmts=stmts):
                if not stmts:
                    self._line(indent, "pass")
                for inner in stmts:
                    self._stmt(inner, indent, nested)

    def _for(self, loop: For, indent: int, nested: int) -> None:
        if nested >= _MAX_LOOPS:
            name = self._new("part")
            self._line(indent, f"def {name}():")
            self._for(loop, indent + 1, 0)
            self._line(indent, f"{name}()")
            return
        name = self._names[loop.var.name] = self._new("v")
        iterations = "order" if loop.kind in _UNORDERED else "range"
        self._line(indent, f"for {name} in {iterations}({loop.extent}):")
        outer = self._loops
        self._loops = (*outer, loop.var.name)
        self._stmt(loop.body, indent + 1, nested + 1)
        self._loops = outer

    def _store(self, store: Store, indent: int) -> None:
        value = self._expr(store.value, indent)
        places = [self._new("t") for _ in store.indices]
        for place, index in zip(places, store.indices, strict=True):
            self._line(indent, f"{place} = {self._expr(index, indent)}")
        inside = _inside(places, store.buffer.shape)
        self._line(indent, f"if not ({inside}): {self._failure(store, places)}")
        self._line(
            indent, f"{self._buffer(store.buffer)}[{_offset(places, store.buffer.shape)}] = {value}"
        )

    def _failure(self, access: Load | Store, places: Sequence[str]) -> str:
        text = f"{access.buffer.name}[{', '.join(map(show, access.indices))}]"
        self._sites.append(_Site(text, access.buffer.shape, self._loops))
        values = "".join(f"{self._names[n]}, " for n in self._loops)
        index = "".join(f"{p}, " for p in places)
        return f"fail({len(self._sites) - 1}, ({index}), ({values}))"

    # expressions

    def _expr(self, expr: Expr, indent: int) -> str:
        """Text for the value of `expr`; statements it needs are written first."""
        piece = walk.fold(expr, self._piece)
        for line in piece.before:
            self._line(indent, line)
        return piece.text

    def _piece(self, expr: Expr, kids: list[_Piece]) -> _Piece:
        for kid in kids:
            if kid.depth > _MAX_DEPTH:
                name = self._new("t")
                kid.before.append(f"{name} = {kid.text}")
                kid.text, kid.depth = name, 0
        if isinstance(expr, Select):
            return self._select(kids)
        before = next((k.before for k in kids if k.before), [])
        for kid in kids:
            if kid.before is not before:
                before.extend(kid.before)
        depth = 1 + max((k.depth for k in kids), default=-1)
        wild = any(k.wild for k in kids)
        text = self._text(expr, [k.text for k in kids], is_wild=wild)
        wild = wild or isinstance(expr, Load | Cast)
        return _Piece(text, depth, before, wild)

    def _select(self, kids: list[_Piece]) -> _Piece:
        """Only the chosen side runs, including the statements that it needs."""
        cond, yes, no = kids
        wild = yes.wild or no.wild
        if not yes.before and not no.before:
            depth = 1 + max(k.depth for k in kids)
            text = f"({yes.text} if {cond.text} else {no.text})"
            return _Piece(text, depth, cond.before, wild)
        name = self._new("t")
        lines = [*cond.before, f"if {cond.text}:"]
        lines += [f" {line}" for line in (*yes.before, f"{name} = {yes.text}")]
        lines.append("else:")
        lines += [f" {line}" for line in (*no.before, f"{name} = {no.text}")]
        return _Piece(name, 0, lines, wild)

    def _text(self, expr: Expr, kids: list[str], *, is_wild: bool) -> str:
        match expr:
            case Const():
                return self._const(expr)
            case Var(name=name):
                if name not in self._names:
                    raise LoweringError(f"kernel {self._kernel.name}: {name} is read unbound")
                return self._names[name]
            case Binary():
                return _binary(expr, kids, is_wild=is_wild)
            case Cast(dtype=dtype, value=value):
                return _cast(kids[0], value.dtype, dtype)
            case Load():
                return self._load(expr, kids)
            case Call(fn=fn):
                return _rounded(f"{fn.value}_({', '.join(kids)})", expr.dtype, is_wild=is_wild)
            case Select() | Reduce():
                raise LoweringError(f"kernel {self._kernel.name}: {show(expr)} cannot be run")

    def _const(self, expr: Const) -> str:
        if expr.dtype.is_bool:
            return str(bool(expr.value))
        if expr.dtype.is_int:
            return f"({expr.value})"
        name = self._new("c")
        rounded = np.asarray(expr.value, expr.dtype.numpy)
        self.constants[name] = rounded.astype(_held(expr.dtype).numpy)[()]
        return name

    def _load(self, expr: Load, kids: list[str]) -> str:
        places = [self._new("t") for _ in kids]
        shape = expr.buffer.shape
        inside = _inside([f"({p} := {k})" for p, k in zip(places, kids, strict=True)], shape)
        element = f"{self._buffer(expr.buffer)}[{_offset(places, shape)}]"
        if expr.dtype.is_int or expr.dtype.is_bool:
            element = f"{'bool' if expr.dtype.is_bool else 'int'}({element})"
        elif expr.dtype.bits == 16:
            element = f"float32({element})"
        # every index must be evaluated before the message is made: `&` does not short-circuit
        return f"({element} if {inside} else {self._failure(expr, places)})"


def _inside(places: Sequence[str], shape: Sequence[int]) -> str:
    tests = [f"(0 <= {p} < {n})" for p, n in zip(places, shape, strict=True)]
    return " & ".join(tests) or "True"


def _offset(places: Sequence[str], shape: Sequence[int]) -> str:
    text = places[0] if places else "0"
    for place, extent in zip(places[1:], shape[1:], strict=True):
        text = f"({text})*{extent} + {place}"
    return text


def _held(dtype: DType) -> DType:
    """The float type that values of the float type `dtype` are computed in."""
    return F64 if dtype == F64 else F32


def _rounded(text: str, dtype: DType, *, is_wild: bool) -> str:
    """`text` brought back into `dtype`: integers wrap, 16-bit floats round."""
    if dtype in (F16, BF16):
        return f"float32({dtype}({text}))"
    if dtype.is_float or dtype.is_bool or (dtype == I64 and not is_wild):
        return text
    limits = dtype_range(dtype)
    low = 0 if limits is None else limits[0]
    return f"((({text}) - ({low}) & {(1 << dtype.bits) - 1}) + ({low}))"


def _binary(expr: Binary, kids: list[str], *, is_wild: bool) -> str:
    op, dtype = expr.op, expr.lhs.dtype
    left, right = kids
    if op in COMPARISONS:
        return f"({left} {op.value} {right})"
    if op in LOGICAL:  # both sides are evaluated
        return f"({left} {'&' if op is Op.AND else '|'} {right})"
    if op is Op.MIN or op is Op.MAX:
        prefix = "f" if dtype.is_float else ""
        return f"{prefix}{op.value}({left}, {right})"
    if op is Op.DIV and not dtype.is_float:
        return _rounded(f"truncdiv({left}, {right})", dtype, is_wild=is_wild)
    return _rounded(f"({left} {op.value} {right})", dtype, is_wild=is_wild)


def _cast(text: str, old: DType, new: DType) -> str:
    if new.is_bool:
        return f"({text} != 0)"
    if new.is_float:
        text = f"int({text})" if old.is_bool else text
        return f"{_held(new)}({new}({text}))" if new.bits == 16 else f"{new}({text})"
    return _rounded(f"{'trunc' if old.is_float else 'int'}({text})", new, is_wild=True)


# --- functions that the generated source calls ----------------------------------------------------


def _fmin(a: float, b: float) -> float:
    return a if a < b or a != a else b  # a NaN differs from itself


def _fmax(a: float, b: float) -> float:
    return a if a > b or a != a else b


def _truncdiv(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _trunc(x: float) -> int:
    """The integer part; for values without one, what x86 gives."""
    return int(x) if math.isfinite(x) else -(1 << 63)


_RUNTIME: Mapping[str, Callable[..., Any]] = {
    "float16": np.float16,
    "bfloat16": BF16.numpy.type,
    "float32": np.float32,
    "float64": np.float64,
    "fmin": _fmin,
    "fmax": _fmax,
    "truncdiv": _truncdiv,
    "trunc": _trunc,
    f"{Fn.ABS.value}_": abs,
    f"{Fn.NEG.value}_": lambda x: -x,
    f"{Fn.NOT.value}_": lambda x: not x,
    f"{Fn.EXP.value}_": np.exp,
    f"{Fn.LOG.value}_": np.log,
    f"{Fn.SQRT.value}_": np.sqrt,
    f"{Fn.RSQRT.value}_": lambda x: type(x)(1) / np.sqrt(x),
    f"{Fn.SIN.value}_": np.sin,
    f"{Fn.COS.value}_": np.cos,
    f"{Fn.TANH.value}_": np.tanh,
    f"{Fn.ERF.value}_": lambda x: type(x)(math.erf(x)),
    f"{Fn.FLOOR.value}_": np.floor,
    f"{Fn.CEIL.value}_": np.ceil,
    f"{Fn.ROUND.value}_": np.rint,
    f"{Fn.POW.value}_": np.power,
}

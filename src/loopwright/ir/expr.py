"""Expressions, of tensor expressions and of the loop IR.

    Expr ::= Const(value, dtype)           a number or truth value
           | Var(name, dtype)              a loop variable or tensor axis (int64)
           | Binary(op, lhs, rhs)          both sides have the same dtype
           | Select(cond, yes, no)         only the chosen side is meaningful; see below
           | Cast(dtype, value)
           | Load(buffer, indices)         one element; one int64 index per dimension
           | Call(fn, args)                an intrinsic function
           | Reduce(combiner, body, axes)  tensor expressions only, at the top of a body

Meaning

- Integers wrap around in two's complement. FLOORDIV and FLOORMOD round to minus infinity, as in
  Python; a zero divisor is undefined. DIV divides floats, and truncates integers as C does.
- Float arithmetic is IEEE, except for two liberties of the code generator: it may contract
  `a * b + c` into one rounding, and it takes a product with a literal 0 as 0 and drops a literal 0
  that is added, so that the zeros of a constant table cost nothing. The same holds for zeros that a
  Select gives for padding: an infinite factor times one of them makes no NaN.
- MIN and MAX of floats are NaN when one operand is. Of two zeros they give either.
- Comparisons, AND and OR give bool.
- `Select` evaluates like C's `?:`: a Load on the side that is not chosen is not performed, so it
  may be out of bounds (padding relies on that).
- float16 and bfloat16 are storage: code computes in float32 and rounds at each Binary.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, dataclass_transform

import numpy as np

from loopwright.errors import InternalError, ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir.dtype import BOOL, I64, DType

T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False)
def node(cls: type[T]) -> type[T]:
    """Declare an IR node: frozen, slotted, compared by identity.

    Structural comparison is `walk.same(a, b)`; passes return the same node when nothing changed.
    """
    return dataclasses.dataclass(frozen=True, slots=True, eq=False)(cls)


class Op(enum.Enum):
    """Binary operators; the value is the printed form."""

    ADD = "+"
    SUB = "-"
    MUL = "*"
    DIV = "/"
    FLOORDIV = "//"
    FLOORMOD = "%"
    MIN = "min"
    MAX = "max"
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    EQ = "=="
    NE = "!="
    AND = "and"
    OR = "or"


COMPARISONS = frozenset({Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE})
LOGICAL = frozenset({Op.AND, Op.OR})


class Fn(enum.Enum):
    """Intrinsic functions; the value is how they print. All but ABS, NEG, NOT, POW take a float."""

    ABS = "abs"
    NEG = "neg"
    NOT = "not"
    EXP = "exp"
    LOG = "log"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    SIN = "sin"
    COS = "cos"
    TANH = "tanh"
    ERF = "erf"
    FLOOR = "floor"
    CEIL = "ceil"
    ROUND = "round"  # half to even
    POW = "pow"  # two arguments


class Combiner(enum.Enum):
    """How a reduction folds its values."""

    SUM = "sum"
    PROD = "prod"
    MIN = "min"
    MAX = "max"


COMBINER_OP = {
    Combiner.SUM: Op.ADD,
    Combiner.PROD: Op.MUL,
    Combiner.MIN: Op.MIN,
    Combiner.MAX: Op.MAX,
}


class Scope(enum.Enum):
    """Where a buffer lives. REGISTER: per register tile, indexed by unrolled loops only."""

    GLOBAL = "global"
    LOCAL = "local"
    REGISTER = "register"


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A named array: row-major over `shape`. Compared by identity; names are unique in a kernel."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    scope: Scope = Scope.GLOBAL

    @property
    def size(self) -> int:
        """Number of elements."""
        total = 1
        for extent in self.shape:
            total *= extent
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.nbytes


class Arithmetic:
    """Python's operators: `A[i] * 2 + B[i]` builds expressions, with Python numbers converted."""

    __slots__ = ()

    def __add__(self, other: ExprLike) -> Expr:
        return binary(Op.ADD, self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return binary(Op.ADD, other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return binary(Op.SUB, self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return binary(Op.SUB, other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return binary(Op.MUL, self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return binary(Op.MUL, other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return binary(Op.DIV, self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return binary(Op.DIV, other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return binary(Op.FLOORDIV, self, other)

    def __rfloordiv__(self, other: ExprLike) -> Expr:
        return binary(Op.FLOORDIV, other, self)

    def __mod__(self, other: ExprLike) -> Expr:
        return binary(Op.FLOORMOD, self, other)

    def __rmod__(self, other: ExprLike) -> Expr:
        return binary(Op.FLOORMOD, other, self)

    def __neg__(self) -> Expr:
        return Call(Fn.NEG, (wrap(self),))

    def __lt__(self, other: ExprLike) -> Expr:
        return binary(Op.LT, self, other)

    def __le__(self, other: ExprLike) -> Expr:
        return binary(Op.LE, self, other)

    def __gt__(self, other: ExprLike) -> Expr:
        return binary(Op.GT, self, other)

    def __ge__(self, other: ExprLike) -> Expr:
        return binary(Op.GE, self, other)

    def __bool__(self) -> bool:
        raise ShapeError(
            "an expression has no truth value while it is being built; use te.if_then_else, "
            "te.all or te.any instead of `if`, `and`, `or` and chained comparisons"
        )

    def equal(self, other: ExprLike) -> Expr:
        """`self == other` as an expression (`==` itself is Python identity)."""
        return binary(Op.EQ, self, other)

    def astype(self, dtype: str | DType) -> Expr:
        """`self` converted to `dtype`; floats to integers truncate."""
        return cast(dtype, self)


@node
class Const(Arithmetic):
    """A literal; `value` is a Python int, float or bool that fits `dtype`."""

    value: int | float | bool
    dtype: DType


@node
class Var(Arithmetic):
    """A loop variable or a tensor axis. Loop variables have unique names in a kernel."""

    name: str
    dtype: DType = I64


@node
class Binary(Arithmetic):
    """`lhs op rhs`; both sides have the same dtype."""

    op: Op
    lhs: Expr
    rhs: Expr
    dtype: DType = field(init=False)
    """Bool for comparisons, else that of both sides; stored, since chains may be thousands deep."""

    def __post_init__(self) -> None:
        if self.lhs.dtype != self.rhs.dtype:
            raise InternalError(f"{self.op.name}: {self.lhs.dtype} with {self.rhs.dtype}")
        object.__setattr__(self, "dtype", BOOL if self.op in COMPARISONS else self.lhs.dtype)


@node
class Select(Arithmetic):
    """`yes if cond else no`."""

    cond: Expr
    yes: Expr
    no: Expr

    def __post_init__(self) -> None:
        if self.yes.dtype != self.no.dtype or not self.cond.dtype.is_bool:
            raise InternalError(f"select: {self.cond.dtype} ? {self.yes.dtype} : {self.no.dtype}")

    @property
    def dtype(self) -> DType:
        """The dtype of both sides."""
        return self.yes.dtype


@node
class Cast(Arithmetic):
    """`value` converted to `dtype`."""

    dtype: DType
    value: Expr


@node
class Load(Arithmetic):
    """`buffer[indices]`."""

    buffer: Buffer
    indices: tuple[Expr, ...]

    def __post_init__(self) -> None:
        if len(self.indices) != len(self.buffer.shape):
            raise InternalError(
                f"{self.buffer.name} has {len(self.buffer.shape)} dimensions, got "
                f"{len(self.indices)} indices"
            )

    @property
    def dtype(self) -> DType:
        """The dtype of the buffer."""
        return self.buffer.dtype


@node
class Call(Arithmetic):
    """`fn(args)`; the result has the dtype of the first argument."""

    fn: Fn
    args: tuple[Expr, ...]

    @property
    def dtype(self) -> DType:
        """The dtype of the first argument."""
        return self.args[0].dtype


@dataclass(frozen=True, slots=True, eq=False)
class ReduceAxis(Arithmetic):
    """An axis to reduce over, 0 <= var < extent. Stands for its variable in an expression."""

    var: Var
    extent: int


@node
class Reduce(Arithmetic):
    """Fold `body` over `axes`, starting from the combiner's identity."""

    combiner: Combiner
    body: Expr
    axes: tuple[ReduceAxis, ...]

    @property
    def dtype(self) -> DType:
        """The dtype of the body."""
        return self.body.dtype


Expr: TypeAlias = Const | Var | Binary | Select | Cast | Load | Call | Reduce
ExprLike: TypeAlias = Arithmetic | int | float | bool | np.generic


def const(value: float | bool, dtype: DType = I64) -> Const:  # noqa: FBT001  # a plain number
    """A literal of `dtype`, the value converted to the matching Python type."""
    if dtype.is_float:
        return Const(float(value), dtype)
    return Const(bool(value), dtype) if dtype.is_bool else Const(int(value), dtype)


def wrap(value: ExprLike, like: DType | None = None) -> Expr:
    """`value` as an expression; Python numbers take dtype `like` (int64, float32, bool without)."""
    if isinstance(value, ReduceAxis):
        return value.var
    if isinstance(value, Const | Var | Binary | Select | Cast | Load | Call | Reduce):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        if like is None:
            like = BOOL if isinstance(value, bool) else I64 if isinstance(value, int) else dt.F32
        if isinstance(value, float) and not like.is_float:
            raise ShapeError(f"the number {value} does not fit dtype {like}; cast one side first")
        return const(value, like)
    raise ShapeError(f"{value!r} ({type(value).__name__}) cannot be part of a tensor expression")


def binary(op: Op, lhs: ExprLike, rhs: ExprLike) -> Expr:
    """`lhs op rhs`; a Python number takes the dtype of the other side.

    Raises: ShapeError when the sides have different dtypes.
    """
    if isinstance(lhs, Arithmetic):
        left = wrap(lhs)
        right = wrap(rhs, left.dtype)
    else:
        right = wrap(rhs)
        left = wrap(lhs, right.dtype)
    if left.dtype != right.dtype:
        raise ShapeError(
            f"{left.dtype} {op.value} {right.dtype}: the dtypes differ; "
            "write .astype(...) on one side"
        )
    return Binary(op, left, right)


def cast(dtype: str | DType, value: ExprLike) -> Expr:
    """`value` converted to `dtype`; itself when it already has it."""
    wanted = dt.parse(dtype)
    expr = wrap(value)
    return expr if expr.dtype == wanted else Cast(wanted, expr)


def identity(combiner: Combiner, dtype: DType) -> Const:
    """The value a reduction starts from."""
    if combiner is Combiner.SUM:
        return const(0, dtype)
    if combiner is Combiner.PROD:
        return const(1, dtype)
    if dtype.is_float:
        return const(float("inf") if combiner is Combiner.MIN else float("-inf"), dtype)
    if dtype.is_bool:
        return const(combiner is Combiner.MIN, dtype)
    info = np.iinfo(dtype.name)
    return const(int(info.max if combiner is Combiner.MIN else info.min), dtype)

"""What a workload means, in NumPy: the oracle that generated code is compared with.

A body is evaluated over a grid of index arrays, one open dimension per axis, in blocks that bound
memory. Sums of products take a faster path (`te.contract`). With `precise`, floats are computed in
float64 and rounded where a stage or a cast says so; without, every operation rounds to its dtype
as `ir.expr` says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import InternalError, ShapeError
from loopwright.ir import walk
from loopwright.ir.dtype import BF16, F16, F32, F64, DType, accumulator
from loopwright.ir.expr import (
    Binary,
    Call,
    Cast,
    Combiner,
    Const,
    Expr,
    Fn,
    Load,
    Op,
    Reduce,
    Select,
    Var,
    identity,
)
from loopwright.ir.printer import show
from loopwright.layout import Array
from loopwright.te.contract import contract
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload

Inputs: TypeAlias = Mapping[str, Array] | Sequence[Array]
_Values: TypeAlias = npt.NDArray[Any]  # of the expression's dtype
_DIGITS: Mapping[DType, int] = {
    BF16: 8,
    F16: 11,
    F32: 24,
    F64: 53,
}  # significant bits, including the hidden one
_BLOCK = 1 << 19
"""Points of the grid (output times reduction) evaluated at once."""


def evaluate(workload: Workload, inputs: Inputs, *, precise: bool = True) -> tuple[Array, ...]:
    """The outputs of `workload`, plain arrays in its order, for `inputs` by name or in its order.

    Args:
        precise: compute floats in float64 and round at the end of each stage.

    Raises: ShapeError for inputs that do not fit, and for a counted read out of bounds.
    """
    arrays = dict(_named(workload, inputs))
    with np.errstate(all="ignore"):
        for stage in workload.stages:
            found = contract(stage, arrays, precise=precise)
            arrays[stage.name] = (
                _evaluate_stage(stage, arrays, precise=precise) if found is None else found
            )
    return tuple(arrays[t.name] for t in workload.outputs)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an element may be off: `relative * (|expected| + rms of all expected) + absolute`."""

    relative: float
    absolute: float = 0.0


def tolerance(workload: Workload) -> Tolerance:
    """How far outputs of `workload` may be from the precise ones by rounding alone.

    A sum of n terms in a type of unit roundoff u is off by about u * sqrt(n) times the size that
    such sums have, if rounding errors are independent; the worst of millions of elements, and an
    unknown order of summation, make that 8 * u * sqrt(n). The terms of all stages count, each
    intrinsic call as 16 (they are good to a few units in the last place), and every stage, cast and
    16-bit operation adds 2 of the u it rounds to. The size is estimated by the expected element and
    by the root mean square of all of them, since cancellation leaves small elements with the errors
    of large ones.

    Integers and bools are exact, but one unit may flip where a stage turned floats into integers.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, sections 2.8 and 4.2
    (the constant 8 and the 16 are ours).
    """
    terms = 1
    adding = storing = 0.0
    from_floats = False
    for stage in workload.stages:
        for node in walk.visit(stage.op.body) if isinstance(stage.op, Compute) else ():
            if isinstance(node, Cast) and node.dtype.is_float:
                storing += 2 * _roundoff(node.dtype)
            elif isinstance(node, Call | Binary) and node.dtype.is_float:
                terms += 16 if isinstance(node, Call) and node.fn not in _EXACT else 1
                adding = max(adding, _roundoff(accumulator(node.dtype)))
                storing += 2 * _roundoff(node.dtype) if node.dtype.bits == 16 else 0.0
            elif isinstance(node, Cast) and node.value.dtype.is_float:
                from_floats = True
        if stage.dtype.is_float:
            terms += math.prod(a.extent for a in stage.reduce_axis)
            adding = max(adding, _roundoff(accumulator(stage.dtype)))
            storing += 2 * _roundoff(stage.dtype)
    return Tolerance(8 * adding * math.sqrt(terms) + storing, 1.0 if from_floats else 0.0)


def check(actual: Array, expected: Array, allowed: Tolerance) -> str | None:
    """None if `actual` is within `allowed` of `expected`; else one line with the worst element.

    NaN must match NaN, and infinities must be equal. Integers and bools have no relative tolerance.
    """
    if actual.dtype.itemsize == expected.dtype.itemsize and actual.dtype.kind == "u":
        actual = actual.view(expected.dtype)  # bfloat16 and bool as they are stored in memory
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return (
            f"{actual.dtype}{list(actual.shape)} instead of {expected.dtype}{list(expected.shape)}"
        )
    got, wanted = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(wanted)
    room = np.full(wanted.shape, allowed.absolute)
    if expected.dtype.kind not in "iub" and finite.any():
        rms = math.sqrt(float(np.mean(np.square(wanted[finite]))))
        room += allowed.relative * (np.abs(np.where(finite, wanted, 0.0)) + rms)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(
            (got == wanted) | (np.isnan(got) & np.isnan(wanted)), 0.0, np.abs(got - wanted)
        )
    off = np.where(np.isnan(off), np.inf, off)
    wrong = off > room
    if not wrong.any():
        return None
    excess = np.where(wrong, off / np.maximum(room, np.finfo(np.float64).tiny), -1.0)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), wrong.shape))
    return (
        f"element {list(at)} is {got[at]:.9g} instead of {wanted[at]:.9g}, off by {off[at]:.3g} "
        f"where rounding explains {room[at]:.3g}; {np.count_nonzero(wrong)} of {wrong.size} "
        "elements are wrong"
    )


def compare(workload: Workload, actual: Array, expected: Array) -> str | None:
    """None if an output of `workload` is right, else what is wrong with it, as `check` says."""
    return check(actual, expected, tolerance(workload))


def scale_error(actual: Array, expected: Array) -> float:
    """The largest error of an output, relative to the largest expected number; infinite for NaN.

    Requires: floats of one shape.
    """
    wanted = expected.astype(np.float64)
    off = float(np.max(np.abs(actual.astype(np.float64) - wanted), initial=0.0))
    scale = float(np.max(np.abs(wanted), initial=0.0))
    if off == 0.0:
        return 0.0
    return off / scale if scale > 0 and math.isfinite(off) else math.inf


def compare_scaled(actual: Array, expected: Array, error: float) -> str | None:
    """None if the `scale_error` of an output is at most `error`, else what it is."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return check(actual, expected, Tolerance(0.0))
    found = scale_error(actual, expected)
    if found <= error:
        return None
    return f"the largest error is {found:.3g} of the largest output, more than {error:.3g}"


def _roundoff(dtype: DType) -> float:
    """Half the distance from 1 to the next number of a float dtype."""
    return float(2.0 ** -_DIGITS[dtype])


def _named(workload: Workload, inputs: Inputs) -> Iterator[tuple[str, Array]]:
    names = [t.name for t in workload.inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ShapeError(f"{workload.name}: takes {names}, got {sorted(inputs)}")
        given = [inputs[n] for n in names]
    else:
        given = list(inputs)
        if len(given) != len(names):
            raise ShapeError(f"{workload.name}: takes {names}, got {len(given)} arrays")
    for tensor, array in zip(workload.inputs, given, strict=True):
        if array.shape != tensor.shape or array.dtype != tensor.dtype.numpy:
            raise ShapeError(
                f"{workload.name}: {tensor.name} is {tensor.dtype}{list(tensor.shape)}, "
                f"got {array.dtype}{list(array.shape)}"
            )
        yield tensor.name, array


def _evaluate_stage(tensor: Tensor, arrays: Mapping[str, Array], *, precise: bool) -> Array:
    op = tensor.op
    if not isinstance(op, Compute):
        raise InternalError(f"{tensor.name} is an input")
    reduce = op.body if isinstance(op.body, Reduce) else None
    body = op.body if reduce is None else reduce.body
    names = [*(v.name for v in op.axes), *(a.var.name for a in op.reduce_axes)]
    extents = [*tensor.shape, *(a.extent for a in op.reduce_axes)]
    ndim = len(tensor.shape)
    kept = _held(tensor.dtype, precise=precise)
    result = np.empty(tensor.shape, kept)
    if reduce is not None:
        result.fill(identity(reduce.combiner, reduce.dtype).value)
    for block in _blocks(extents):
        grid = _Grid(tensor, names, block, arrays, precise=precise)
        shape = tuple(s.stop - s.start for s in block)
        value = np.broadcast_to(grid.value(body, None), shape)
        place = block[:ndim]
        if reduce is None:
            result[place] = value
        else:
            fold = _FOLDS[reduce.combiner]
            over = tuple(range(ndim, len(shape)))
            result[place] = fold(result[place], fold.reduce(value, axis=over, dtype=kept))
    return result.astype(tensor.dtype.numpy)


def _blocks(extents: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of at most `_BLOCK` points that cover the grid, the last axis fastest."""
    room = _BLOCK
    sizes: list[int] = []
    for extent in reversed(extents):
        sizes.append(max(1, min(extent, room)))
        room //= sizes[-1]
    sizes.reverse()
    return itertools.product(
        *(
            [slice(at, min(at + size, extent)) for at in range(0, extent, size)]
            for extent, size in zip(extents, sizes, strict=True)
        )
    )


def _held(dtype: DType, *, precise: bool) -> np.dtype[np.generic]:
    """The NumPy dtype that holds values of `dtype` between operations."""
    if dtype.is_float:
        return F64.numpy if precise or dtype == F64 else F32.numpy
    return dtype.numpy


class _Grid:
    """Evaluates expressions over one block of a stage's grid."""

    def __init__(
        self,
        tensor: Tensor,
        names: Sequence[str],
        block: Sequence[slice],
        arrays: Mapping[str, _Values],
        *,
        precise: bool,
    ) -> None:
        self._tensor = tensor
        self._arrays = arrays
        self._precise = precise
        self._vars: dict[str, _Values] = {}
        for dim, (name, part) in enumerate(zip(names, block, strict=True)):
            shape = [1] * len(names)
            shape[dim] = -1
            self._vars[name] = np.arange(part.start, part.stop, dtype=np.int64).reshape(shape)

    def value(self, expr: Expr, mask: _Values | None) -> _Values:
        """`expr` at every point, as an array that broadcasts to the block.

        Where `mask` is given and False the value does not count, and reads may be out of bounds.
        """
        match expr:
            case Var(name=name):
                return self._vars[name]
            case Const(value=value, dtype=dtype):
                return np.asarray(value, dtype=_held(dtype, precise=self._precise))
            case Binary(op=op, lhs=lhs, rhs=rhs):
                rule = _INTEGER_RULES.get(op) if not lhs.dtype.is_float else None
                operation = _RULES[op] if rule is None else rule
                made = operation(self.value(lhs, mask), self.value(rhs, mask))
                return self._rounded(made, expr.dtype)
            case Select():
                return self._select(expr, mask)
            case Cast(dtype=dtype, value=inner):
                return self._cast(self.value(inner, mask), dtype)
            case Load():
                return self._load(expr, mask)
            case Call(fn=fn, args=args):
                return self._rounded(
                    _FUNCTIONS[fn](*(self.value(a, mask) for a in args)), expr.dtype
                )
            case Reduce():
                raise InternalError(f"{self._tensor.name}: a reduction inside an expression")

    def _rounded(self, value: _Values, dtype: DType) -> _Values:
        """`value` rounded to a 16-bit float dtype, unless precise."""
        held = _held(dtype, precise=self._precise)
        if dtype.is_float and dtype.bits == 16 and not self._precise:
            return value.astype(dtype.numpy).astype(held)
        return value if value.dtype == held else value.astype(held)

    def _cast(self, value: _Values, dtype: DType) -> _Values:
        return value.astype(dtype.numpy).astype(_held(dtype, precise=self._precise))

    def _select(self, expr: Select, mask: _Values | None) -> _Values:
        cond = self.value(expr.cond, mask)
        if cond.all():
            return self.value(expr.yes, mask)
        if not cond.any():
            return self.value(expr.no, mask)
        yes = self.value(expr.yes, cond if mask is None else cond & mask)
        no = self.value(expr.no, ~cond if mask is None else ~cond & mask)
        return np.where(cond, yes, no)

    def _load(self, expr: Load, mask: _Values | None) -> _Values:
        array = self._arrays[expr.buffer.name]
        indices = [self.value(i, mask) for i in expr.indices]
        places: list[_Values] = []
        for index, extent in zip(indices, array.shape, strict=True):
            outside = (index < 0) | (index >= extent)
            if outside.any():
                self._refuse(expr, outside if mask is None else outside & mask, indices)
                index = np.clip(index, 0, extent - 1)
            places.append(index)
        found = array[tuple(places)]
        return found.astype(_held(expr.dtype, precise=self._precise), copy=False)

    def _refuse(self, expr: Load, wrong: _Values, indices: Sequence[_Values]) -> None:
        """Raise if a read that counts is out of bounds."""
        if not wrong.any():
            return
        full = np.broadcast_arrays(wrong, *indices)
        at = np.argwhere(full[0])[0]
        place = [int(i[tuple(at)]) for i in full[1:]]
        raise ShapeError(
            f"{self._tensor.name} reads {show(expr)} at {place}, outside "
            f"{list(expr.buffer.shape)}; guard the read with te.if_then_else"
        )


def _truncating_div(a: _Values, b: _Values) -> _Values:
    """`a / b` rounded towards zero; undefined where b is 0."""
    quotient: _Values = a // b + ((a % b != 0) & ((a < 0) != (b < 0)))
    return quotient


_EXACT = frozenset({Fn.ABS, Fn.NEG, Fn.FLOOR, Fn.CEIL, Fn.ROUND})  # no rounding
_FOLDS: Mapping[Combiner, Any] = {
    Combiner.SUM: np.add,
    Combiner.PROD: np.multiply,
    Combiner.MIN: np.minimum,
    Combiner.MAX: np.maximum,
}
_RULES: Mapping[Op, Callable[[Any, Any], Any]] = {
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.DIV: np.divide,
    Op.FLOORDIV: np.floor_divide,
    Op.FLOORMOD: np.mod,
    Op.MIN: np.minimum,
    Op.MAX: np.maximum,
    Op.LT: np.less,
    Op.LE: np.less_equal,
    Op.GT: np.greater,
    Op.GE: np.greater_equal,
    Op.EQ: np.equal,
    Op.NE: np.not_equal,
    Op.AND: np.logical_and,
    Op.OR: np.logical_or,
}
_INTEGER_RULES: Mapping[Op, Callable[[Any, Any], Any]] = {Op.DIV: _truncating_div}
_FUNCTIONS: Mapping[Fn, Callable[..., Any]] = {
    Fn.ABS: np.abs,
    Fn.NEG: np.negative,
    Fn.NOT: np.logical_not,
    Fn.EXP: np.exp,
    Fn.LOG: np.log,
    Fn.SQRT: np.sqrt,
    Fn.RSQRT: lambda x: 1 / np.sqrt(x),
    Fn.SIN: np.sin,
    Fn.COS: np.cos,
    Fn.TANH: np.tanh,
    Fn.ERF: lambda x: np.vectorize(math.erf, otypes=[np.float64])(x),
    Fn.FLOOR: np.floor,
    Fn.CEIL: np.ceil,
    Fn.ROUND: np.rint,
    Fn.POW: np.power,
}

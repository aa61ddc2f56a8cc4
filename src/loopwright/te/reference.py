"""What a workload means: evaluated with NumPy, stage by stage. The oracle of every measured kernel.

Floats are computed in float64 and rounded where a stage stores them, so that the reference is nearer to
the exact result than any kernel. Integers wrap, and divide, as `ir/expr.py` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import InternalError, ShapeError
from loopwright.ir.dtype import DType
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
from loopwright.te.contraction import contract
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload

Array: TypeAlias = npt.NDArray[Any]
_CHUNK = 1 << 22
"""Elements of a temporary; reductions are evaluated in pieces of at most this."""


def evaluate(workload: Workload, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The outputs of `workload` for plain `inputs` in argument order.

    Raises: ShapeError when an input does not fit, or a body reads outside of a tensor.
    """
    known: dict[str, Array] = {}
    if len(inputs) != len(workload.inputs):
        raise ShapeError(f"{workload.name} takes {len(workload.inputs)} inputs, got {len(inputs)}")
    for tensor, array in zip(workload.inputs, inputs, strict=True):
        if tuple(array.shape) != tensor.shape or array.dtype != tensor.dtype.numpy:
            raise ShapeError(
                f"{workload.name}: input {tensor.name} is {array.dtype}{list(array.shape)}, "
                f"not {tensor.dtype}{list(tensor.shape)}"
            )
        known[tensor.name] = _widened(array, tensor.dtype)
    stored: dict[str, Array] = {}
    for stage in workload.stages:
        exact = _stage(stage, known)
        stored[stage.name] = np.ascontiguousarray(exact.astype(stage.dtype.numpy))
        known[stage.name] = _widened(stored[stage.name], stage.dtype)
    return tuple(stored[t.name] for t in workload.outputs)


def tolerance(workload: Workload) -> float:
    """The error allowed, as a share of the largest output: eps * (8 + 4 sqrt(K)), 0 for integers.

    K is the number of terms summed into one element over all stages. Rounding errors of a sum of K terms
    grow like sqrt(K) eps when they are independent; the factors leave room for other orders of summation
    and for intrinsics of a few ulp. eps is that of the coarsest float stored on the way.
    """
    floats = [t.dtype for t in (*workload.inputs, *workload.stages) if t.dtype.is_float]
    if not workload.outputs[0].dtype.is_float or not floats:
        return 0.0
    eps = max(_eps(t) for t in floats)
    terms = 1
    for stage in workload.stages:
        body = stage.op.body if isinstance(stage.op, Compute) else None
        if isinstance(body, Reduce) and body.combiner in (Combiner.SUM, Combiner.PROD):
            terms *= math.prod(a.extent for a in body.axes)
    return eps * (8.0 + 4.0 * math.sqrt(terms))


def compare(workload: Workload, actual: Array, expected: Array) -> str | None:
    """What is wrong with an output and where it is worst; None when it is right."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return (
            f"is {actual.dtype}{list(actual.shape)}, not {expected.dtype}{list(expected.shape)}"
        )
    share = tolerance(workload)
    wide_actual, wide = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(wide)
    scale = float(np.max(np.abs(wide), initial=0.0, where=finite))
    with np.errstate(invalid="ignore"):
        error = np.abs(wide_actual - wide)
    same = (wide_actual == wide) | (np.isnan(wide_actual) & np.isnan(wide))
    error = np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))
    allowed = share * scale
    if not (error > allowed).any():
        return None
    place = np.unravel_index(int(np.argmax(error)), error.shape)
    where = ", ".join(str(int(p)) for p in place)
    wrong = int((error > allowed).sum())
    return (
        f"[{where}] is {actual[place]!s}, should be {expected[place]!s} "
        f"({wrong} of {error.size} elements are off by more than {allowed:.3g})"
    )


def _eps(dtype: DType) -> float:
    return {16: 2.0**-10, 32: 2.0**-23, 64: 2.0**-52}[dtype.bits] * (
        8.0 if dtype.name == "bfloat16" else 1.0
    )


def _widened(array: Array, dtype: DType) -> Array:
    return array.astype(np.float64) if dtype.is_float else array


def _stage(stage: Tensor, known: Mapping[str, Array]) -> Array:
    op = stage.op
    if not isinstance(op, Compute):
        raise InternalError(f"{stage.name} is an input")
    extents = {v.name: n for v, n in zip(op.axes, stage.shape, strict=True)}
    if not isinstance(op.body, Reduce):
        return _over_chunks(op.body, extents, known, stage.dtype)
    fast = contract(op.body, extents, known)
    if fast is not None:
        return fast
    return _reduced(op.body, extents, known)


def _over_chunks(
    body: Expr, extents: Mapping[str, int], known: Mapping[str, Array], dtype: DType
) -> Array:
    """An elementwise body, in pieces along the first axis."""
    shape = tuple(extents.values())
    result = np.empty(shape, np.float64 if dtype.is_float else dtype.numpy)
    if not shape:
        result[...] = _Evaluator(known, {}).value(body)
        return result
    names = list(extents)
    rows = max(1, _CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        piece = slice(start, min(start + rows, shape[0]))
        grids = _grids(names, shape, {names[0]: piece})
        result[piece] = _Evaluator(known, grids).value(body)
    return result


def _reduced(body: Reduce, extents: Mapping[str, int], known: Mapping[str, Array]) -> Array:
    """A reduction: pieces of all axes in turn are evaluated and folded into the result."""
    shape = tuple(extents.values())
    names = [*extents, *(a.var.name for a in body.axes)]
    sizes = (*shape, *(a.extent for a in body.axes))
    start = identity(body.combiner, body.dtype).value
    result = np.full(shape, start, np.float64 if body.dtype.is_float else body.dtype.numpy)
    steps = [1] * len(sizes)
    for dim in reversed(range(len(sizes))):  # whole inner axes first, then part of one
        steps[dim] = max(1, min(sizes[dim], _CHUNK // math.prod(steps[dim + 1 :])))
    ndim = len(shape)
    fold = _FOLDS[body.combiner]
    counts = [-(-size // step) for size, step in zip(sizes, steps, strict=True)]
    for block in np.ndindex(*counts):
        pieces = [
            slice(b * step, min((b + 1) * step, size))
            for b, step, size in zip(block, steps, sizes, strict=True)
        ]
        grids = _grids(names, sizes, dict(zip(names, pieces, strict=True)))
        values = _Evaluator(known, grids).value(body.body)
        full = tuple(p.stop - p.start for p in pieces)
        part = fold.reduce(np.broadcast_to(values, full), axis=tuple(range(ndim, len(sizes))))
        place = tuple(pieces[:ndim])
        result[place] = fold(result[place], part)
    return result


_FOLDS: Mapping[Combiner, np.ufunc] = {
    Combiner.SUM: np.add,
    Combiner.PROD: np.multiply,
    Combiner.MIN: np.fmin,
    Combiner.MAX: np.fmax,
}


def _grids(
    names: Sequence[str], sizes: Sequence[int], pieces: Mapping[str, slice]
) -> dict[str, Array]:
    """An index array for each axis, shaped to broadcast against the others."""
    grids = {}
    for dim, (name, size) in enumerate(zip(names, sizes, strict=True)):
        piece = pieces.get(name, slice(0, size))
        shape = [1] * len(names)
        shape[dim] = piece.stop - piece.start
        grids[name] = np.arange(piece.start, piece.stop, dtype=np.int64).reshape(shape)
    return grids


class _Evaluator:
    """Evaluates expressions over grids; floats are float64."""

    def __init__(self, known: Mapping[str, Array], grids: Mapping[str, Array]) -> None:
        self.known = known
        self.grids = grids

    def value(self, expr: Expr, *, masked: bool = False) -> Array:
        """The values of `expr`; reads are kept within bounds where a Select decides (`masked`)."""
        match expr:
            case Const():
                return np.asarray(expr.value, _kept(expr.dtype))
            case Var():
                return self.grids[expr.name]
            case Load():
                return self._load(expr, masked=masked)
            case Select():
                cond = self.value(expr.cond, masked=masked)
                yes, no = (self.value(e, masked=True) for e in (expr.yes, expr.no))
                return np.where(cond, yes, no)
            case Cast():
                return _cast(self.value(expr.value, masked=masked), expr.dtype)
            case Call():
                args = [self.value(a, masked=masked) for a in expr.args]
                with np.errstate(all="ignore"):
                    return np.asarray(_CALLS[expr.fn](*args))
            case Binary():
                lhs, rhs = (self.value(e, masked=masked) for e in (expr.lhs, expr.rhs))
                with np.errstate(all="ignore"):
                    return np.asarray(_binary(expr.op, lhs, rhs, is_float=expr.lhs.dtype.is_float))
            case Reduce():
                raise InternalError("a reduction inside an expression")

    def _load(self, load: Load, *, masked: bool) -> Array:
        array = self.known[load.buffer.name]
        indices = []
        for dim, index in enumerate(load.indices):
            values = self.value(index, masked=masked)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= array.shape[dim]:
                if not masked:
                    raise ShapeError(
                        f"{load.buffer.name} is read at [{low}, {high}] in dimension {dim} of extent "
                        f"{array.shape[dim]}; guard the read with te.if_then_else"
                    )
                values = np.clip(values, 0, array.shape[dim] - 1)
            indices.append(values)
        return np.asarray(array[tuple(indices)]) if indices else array


def _kept(dtype: DType) -> npt.DTypeLike:
    return np.float64 if dtype.is_float else dtype.numpy


def _cast(values: Array, dtype: DType) -> Array:
    if dtype.is_bool:
        return values != 0
    if dtype.is_int and values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            return np.trunc(values).astype(np.int64).astype(dtype.numpy)
    return values.astype(_kept(dtype))


def _binary(op: Op, lhs: Array, rhs: Array, *, is_float: bool) -> Array:
    if op is Op.DIV and not is_float:
        quotient = lhs // rhs
        inexact = quotient * rhs != lhs
        return np.asarray(quotient + (inexact & ((lhs < 0) != (rhs < 0))), quotient.dtype)
    if op in (Op.MIN, Op.MAX) and not is_float:
        return np.asarray((np.minimum if op is Op.MIN else np.maximum)(lhs, rhs))
    return np.asarray(_BINARY[op](lhs, rhs))


_BINARY: Mapping[Op, Callable[[Array, Array], Array]] = {
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.DIV: np.divide,
    Op.FLOORDIV: np.floor_divide,
    Op.FLOORMOD: np.mod,
    Op.MIN: np.fmin,
    Op.MAX: np.fmax,
    Op.LT: np.less,
    Op.LE: np.less_equal,
    Op.GT: np.greater,
    Op.GE: np.greater_equal,
    Op.EQ: np.equal,
    Op.NE: np.not_equal,
    Op.AND: np.logical_and,
    Op.OR: np.logical_or,
}
_CALLS: Mapping[Fn, Callable[..., Array]] = {
    Fn.ABS: np.abs,
    Fn.NEG: np.negative,
    Fn.NOT: np.logical_not,
    Fn.EXP: np.exp,
    Fn.LOG: np.log,
    Fn.SQRT: np.sqrt,
    Fn.RSQRT: lambda x: 1.0 / np.sqrt(x),
    Fn.SIN: np.sin,
    Fn.COS: np.cos,
    Fn.TANH: np.tanh,
    Fn.ERF: np.vectorize(math.erf, otypes=[np.float64]),
    Fn.FLOOR: np.floor,
    Fn.CEIL: np.ceil,
    Fn.ROUND: np.rint,
    Fn.POW: np.power,
}


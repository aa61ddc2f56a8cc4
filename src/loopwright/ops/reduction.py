"""Reductions over some dimensions, and the places of extrema."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loopwright.errors import ShapeError
from loopwright.ir.dtype import BOOL, I64, DType, accumulator
from loopwright.ir.expr import Binary, Combiner, Expr, Op, ReduceAxis, const
from loopwright.ops.attributes import NodeAttrs, integer, integers
from loopwright.ops.opdef import (
    Channels,
    Define,
    Inputs,
    OpDef,
    OpKind,
    Outputs,
    given,
    read,
)
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, reduce_axis

_AXES = frozenset({"axes", "keepdims"})
_PLACE = frozenset({"axis", "keepdims", "select_last"})
_HUGE = 3.0e38
"""Exponents are taken relative to a maximum within these bounds, so that infinite ones work."""
_BLOCK = 64
"""Elements that a prefix sum adds up anew for each one."""
Element = Callable[[tuple[Expr, ...]], Expr]
_REDUCTIONS = {
    Combiner.SUM: te.sum,
    Combiner.PROD: te.prod,
    Combiner.MIN: te.min,
    Combiner.MAX: te.max,
}


def dimension(attrs: NodeAttrs, name: str, rank: int, default: int | None = None) -> int:
    """The attribute `name`, a dimension of `rank`; counted from the end when less than 0."""
    axis = integer(attrs, name, default)
    if not -rank <= axis < rank:
        raise ShapeError(f"{name}={axis} is not a dimension of {rank}")
    return axis % rank


def folded(
    shape: Sequence[int],
    axes: Sequence[int],
    combiner: Combiner,
    element: Element,
    name: str,
    *,
    keepdims: bool,
) -> Tensor:
    """`element` of every index of `shape`, folded over `axes`, which have extent 1 or are gone."""
    kept = [d for d in range(len(shape)) if keepdims or d not in axes]
    out = [1 if d in axes else shape[d] for d in kept]
    over = {d: reduce_axis(shape[d], f"k{d}") for d in axes}

    def body(*index: Expr) -> Expr:
        own = dict(zip(kept, index, strict=True))
        at = [over[d].var if d in over else own[d] for d in range(len(shape))]
        return _REDUCTIONS[combiner](element(tuple(at)), axis=_nonempty(tuple(over.values())))

    return compute(out, body, name)


def _nonempty(axes: tuple[ReduceAxis, ...]) -> tuple[ReduceAxis, ...]:
    """`axes`, or one of extent 1 if there are none: then each element is folded alone."""
    return axes if axes else (reduce_axis(1, "once"),)


@dataclass(frozen=True, slots=True)
class _Reduction:
    """`after(fold of before(x), how many)`; both in the dtype that sums are kept in."""

    combiner: Combiner
    before: Callable[[Expr], Expr] = lambda x: x
    after: Callable[[Expr, int], Expr] | None = None


def _reduce(inputs: Inputs, attrs: NodeAttrs, prefix: str, rule: _Reduction) -> Outputs:
    x = given(inputs)
    axes = _axes(x, attrs)
    keepdims = bool(integer(attrs, "keepdims", 1))
    kept = _kept(x.dtype, rule.combiner)

    def element(i: tuple[Expr, ...]) -> Expr:
        return rule.before(read(x, i).astype(kept))

    after = rule.after
    direct = after is None and kept == x.dtype
    name = prefix if direct else f"{prefix}.fold"
    fold = folded(x.shape, axes, rule.combiner, element, name, keepdims=keepdims)
    if direct:
        return (fold,)
    count = math.prod(x.shape[d] for d in axes)

    def body(*i: Expr) -> Expr:
        value = read(fold, i)
        return (value if after is None else after(value, count)).astype(x.dtype)

    return (compute(fold.shape, body, prefix),)


def _axes(x: Tensor, attrs: NodeAttrs) -> tuple[int, ...]:
    """The dimensions to fold, in order; all without the attribute."""
    axes = integers(attrs, "axes", tuple(range(x.ndim)))
    if any(not -x.ndim <= a < x.ndim for a in axes):
        raise ShapeError(f"axes={axes} are not dimensions of {x.ndim}")
    return tuple(sorted({a % x.ndim for a in axes}))


def _kept(dtype: DType, combiner: Combiner) -> DType:
    return dtype if combiner in (Combiner.MIN, Combiner.MAX) else accumulator(dtype)


def _mean(value: Expr, count: int) -> Expr:
    return value * (1.0 / count) if value.dtype.is_float else value / count


def _log_sum_exp(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    axes = _axes(x, attrs)
    keepdims = bool(integer(attrs, "keepdims", 1))
    kept = accumulator(x.dtype)
    top = folded(
        x.shape, axes, Combiner.MAX, lambda i: read(x, i), f"{prefix}.max", keepdims=keepdims
    )

    def base(index: Sequence[Expr]) -> Expr:
        return te.maximum(te.minimum(read(top, index).astype(kept), _HUGE), -_HUGE)

    def element(i: tuple[Expr, ...]) -> Expr:
        if keepdims:
            at = [const(0) if d in axes else v for d, v in enumerate(i)]
        else:
            at = [v for d, v in enumerate(i) if d not in axes]
        return te.exp(read(x, i).astype(kept) - base(at))

    total = folded(x.shape, axes, Combiner.SUM, element, f"{prefix}.sum", keepdims=keepdims)
    return (
        compute(total.shape, lambda *i: (te.log(read(total, i)) + base(i)).astype(x.dtype), prefix),
    )


def _extremum_place(inputs: Inputs, attrs: NodeAttrs, prefix: str, combiner: Combiner) -> Outputs:
    """The place of the extremum along a dimension: the first one, or the last one."""
    x = given(inputs)
    axis = dimension(attrs, "axis", x.ndim, 0)
    last = bool(integer(attrs, "select_last", 0))
    extent = x.shape[axis]
    best = folded(
        x.shape, (axis,), combiner, lambda i: read(x, i), f"{prefix}.value", keepdims=True
    )

    def element(i: tuple[Expr, ...]) -> Expr:
        top = read(best, [const(0) if d == axis else v for d, v in enumerate(i)])
        value = read(x, i)
        hit = te.any(value.equal(top), Binary(Op.NE, value, value))  # of NaNs, too, the first
        missed = const(0 if last else extent - 1, I64)
        return te.if_then_else(hit, i[axis], missed)

    place = Combiner.MAX if last else Combiner.MIN
    keepdims = bool(integer(attrs, "keepdims", 1))
    return (folded(x.shape, (axis,), place, element, prefix, keepdims=keepdims),)


def _cumsum(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    """The sums of the elements up to each one along a dimension, or from it on in `reverse`."""
    x = given(inputs)
    axis = dimension(attrs, "axis", x.ndim, 0)
    exclusive, reverse = (bool(integer(attrs, name, 0)) for name in ("exclusive", "reverse"))
    found = _prefix_sums(x, axis, prefix, exclusive=exclusive, reverse=reverse)
    if found.dtype == x.dtype:
        return (found,)
    return (compute(x.shape, lambda *i: read(found, i).astype(x.dtype), f"{prefix}.rounded"),)


def _prefix_sums(x: Tensor, axis: int, name: str, *, exclusive: bool, reverse: bool) -> Tensor:
    """The sum of the whole blocks before each element's, and of those in its block up to it.

    Only what counts is added: an infinity further on changes nothing.
    """
    extent, kept = x.shape[axis], accumulator(x.dtype)
    k = reduce_axis(min(extent, _BLOCK), "k")

    def counted(i: tuple[Expr, ...], place: Expr, counts: Expr) -> Expr:
        value = read(x, (*i[:axis], place, *i[axis + 1 :])).astype(kept)
        within = te.all(place < extent, counts) if extent % _BLOCK else counts
        return te.sum(te.if_then_else(within, value, const(0, kept)), axis=k)

    def within_block(*i: Expr) -> Expr:
        place = i[axis] // _BLOCK * _BLOCK + k.var if extent > _BLOCK else k.var
        before, after = (i[axis], place) if reverse else (place, i[axis])
        return counted(i, place, before < after if exclusive else before <= after)

    if extent <= _BLOCK:
        return compute(x.shape, within_block, name)
    blocks = (*x.shape[:axis], -(-extent // _BLOCK), *x.shape[axis + 1 :])
    totals = compute(
        blocks,
        lambda *i: counted(i, i[axis] * _BLOCK + k.var, const(1, BOOL)),
        f"{name}.totals",
    )
    whole = _prefix_sums(totals, axis, f"{name}.whole", exclusive=True, reverse=reverse)
    part = compute(x.shape, within_block, f"{name}.part")

    def body(*i: Expr) -> Expr:
        return read(part, i) + read(whole, (*i[:axis], i[axis] // _BLOCK, *i[axis + 1 :]))

    return compute(x.shape, body, name)


def _square(x: Expr) -> Expr:
    return x * x


def _row(
    name: str,
    define: Define,
    names: tuple[str, str],
    attrs: frozenset[str] = _AXES,
    channels: Channels = Channels.MIXED,
) -> OpDef:
    """A row of the table; `names` are those in ONNX and torch."""
    return OpDef(
        name=name,
        kind=OpKind.REDUCTION,
        define=define,
        onnx=names[0],
        torch=names[1],
        channels=channels,
        attrs=attrs,
    )


def _fold(rule: _Reduction) -> Define:
    return lambda inputs, attrs, prefix: _reduce(inputs, attrs, prefix, rule)


def _place(combiner: Combiner) -> Define:
    return lambda inputs, attrs, prefix: _extremum_place(inputs, attrs, prefix, combiner)


_SUM, _MAX = Combiner.SUM, Combiner.MAX
_UNFOLDED = Channels.UNFOLDED
_ROOT = _Reduction(_SUM, _square, lambda x, _: te.sqrt(x))
_LOG = _Reduction(_SUM, after=lambda x, _: te.log(x))
OPS: tuple[OpDef, ...] = (
    _row("reduce_sum", _fold(_Reduction(_SUM)), ("ReduceSum", "sum"), channels=_UNFOLDED),
    _row(
        "reduce_mean",
        _fold(_Reduction(_SUM, after=_mean)),
        ("ReduceMean", "mean"),
        channels=_UNFOLDED,
    ),
    _row("reduce_max", _fold(_Reduction(_MAX)), ("ReduceMax", "amax"), channels=_UNFOLDED),
    _row("reduce_min", _fold(_Reduction(Combiner.MIN)), ("ReduceMin", "amin")),
    _row("reduce_prod", _fold(_Reduction(Combiner.PROD)), ("ReduceProd", "prod")),
    _row("reduce_l1", _fold(_Reduction(_SUM, te.abs)), ("ReduceL1", "")),
    _row("reduce_l2", _fold(_ROOT), ("ReduceL2", "linalg_vector_norm")),
    _row("reduce_sum_square", _fold(_Reduction(_SUM, _square)), ("ReduceSumSquare", "")),
    _row("reduce_log_sum", _fold(_LOG), ("ReduceLogSum", "")),
    _row("reduce_log_sum_exp", _log_sum_exp, ("ReduceLogSumExp", "logsumexp")),
    _row("argmax", _place(_MAX), ("ArgMax", "argmax"), _PLACE),
    _row("cumsum", _cumsum, ("CumSum", "cumsum"), frozenset({"axis", "exclusive", "reverse"})),
    _row("argmin", _place(Combiner.MIN), ("ArgMin", "argmin"), _PLACE),
)

"""Matrix products, and the forms that are asked for by name: `dense`, `matmul`, `batch_matmul`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loopwright.errors import ShapeError
from loopwright.ir.dtype import accumulator
from loopwright.ir.expr import Expr
from loopwright.ops.attributes import Attr, Attrs, NodeAttrs, float_dtype, integer, number, shape_of
from loopwright.ops.epilogue import ATTRS, ContractionArgs, finished
from loopwright.ops.opdef import (
    Channels,
    Inputs,
    OpDef,
    OpKind,
    Outputs,
    TaskForm,
    broadcast,
    element,
    given,
    optional,
    read,
)
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload


@dataclass(frozen=True, slots=True)
class _Factor:
    """A matrix, or several along leading dimensions, or a vector; `flipped`: to be transposed.

    Where there is one matrix it is read at 0; `single` says that it is so even if there is one
    product, as the keys of records have it.
    """

    tensor: Tensor
    flipped: bool = False
    single: bool = False

    def at(self, lead: Sequence[Expr], batch: Sequence[int], *index: Expr) -> Expr:
        """The element at `index`, which leaves out a dimension that a vector does not have."""
        own = self.tensor.shape[:-2]
        skipped = len(batch) - len(own)
        leading = [
            0 if mine == 1 and (extent > 1 or self.single) else i
            for i, mine, extent in zip(lead[skipped:], own, batch[skipped:], strict=True)
        ]
        return read(self.tensor, (*leading, *(reversed(index) if self.flipped else index)))


def _sums(
    a: _Factor,
    b: _Factor,
    batch: tuple[int, ...],
    name: str,
    axes: tuple[str, ...] = (),
) -> Tensor:
    """The products of `a` and `b` in the dtype of sums, `batch` of them."""
    left, right = a.tensor, b.tensor
    rows = left.shape[-1 if a.flipped else -2 :][:1] if left.ndim > 1 else ()
    columns = right.shape[-2 if b.flipped else -1 :][:1] if right.ndim > 1 else ()
    k = reduce_axis(left.shape[-2 if a.flipped else -1], "k")
    kept = accumulator(left.dtype)

    def body(*index: Expr) -> Expr:
        lead, own = index[: len(batch)], index[len(batch) :]
        i, j = own[: len(rows)], own[len(rows) :]
        factors = a.at(lead, batch, *i, k.var), b.at(lead, batch, k.var, *j)
        return te.sum(factors[0].astype(kept) * factors[1].astype(kept), axis=k)

    return compute((*batch, *rows, *columns), body, name, axes)


def _matmul(inputs: Inputs, _: NodeAttrs, prefix: str) -> Outputs:
    a, b = given(inputs, 0), given(inputs, 1)
    depth = a.shape[-1] if a.shape else 0
    if not a.shape or not b.shape or b.shape[-2:][0] != depth:
        raise ShapeError("the last dimension of a must be the last but one of b")
    batch = broadcast((a.shape[:-2], b.shape[:-2]))
    if accumulator(a.dtype) == a.dtype:
        return (_sums(_Factor(a), _Factor(b), batch, prefix),)
    product = _sums(_Factor(a), _Factor(b), batch, f"{prefix}.product")
    return (compute(product.shape, lambda *i: read(product, i).astype(a.dtype), prefix),)


def _gemm(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    a, b, c = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    alpha, beta = number(attrs, "alpha", 1.0), number(attrs, "beta", 1.0)
    flip_a, flip_b = bool(integer(attrs, "trans_a", 0)), bool(integer(attrs, "trans_b", 0))
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError("a and b must be matrices")
    m, depth = a.shape[::-1] if flip_a else a.shape
    other, n = b.shape[::-1] if flip_b else b.shape
    if depth != other:
        raise ShapeError(f"a sums over {depth} elements, b over {other}")
    factors = _Factor(a, flip_a), _Factor(b, flip_b)
    kept = accumulator(a.dtype)
    if c is None and alpha == 1 and kept == a.dtype:
        return (_sums(*factors, (), prefix, ("i", "j")),)
    if c is not None and broadcast((c.shape, (m, n))) != (m, n):
        raise ShapeError(f"c {list(c.shape)} does not broadcast to {[m, n]}")
    product = _sums(*factors, (), f"{prefix}.product", ("i", "j"))

    def body(*i: Expr) -> Expr:
        value = _scaled(product[i], alpha)
        if c is not None and beta:
            value = value + _scaled(element(c, i, (m, n)).astype(kept), beta)
        return value.astype(a.dtype)

    return (compute((m, n), body, prefix),)


def _scaled(value: Expr, factor: float) -> Expr:
    if factor == 1:
        return value
    return value * (factor if value.dtype.is_float else int(factor))


# by name


def _dense(attrs: Attrs) -> Workload:
    (m, k), (n, depth) = shape_of(attrs["data"]), shape_of(attrs["weight"])
    if k != depth:
        raise ShapeError(f"dense: data {(m, k)} has {k} columns, weight {(n, depth)} has {depth}")
    dtype = float_dtype("dense", attrs["dtype"])
    data, weight = placeholder((m, k), dtype, "data"), placeholder((n, k), dtype, "weight")
    product = _sums(_Factor(data), _Factor(weight, flipped=True), (), "dense", ("m", "n"))
    return finished(
        "dense", product, attrs, ContractionArgs((data, weight), ("weight",), ("m", "n"))
    )


def _batch_matmul(attrs: Attrs) -> Workload:
    a, b = shape_of(attrs["a"]), shape_of(attrs["b"])
    if a[0] != b[0] and 1 not in (a[0], b[0]):
        raise ShapeError(
            f"batch_matmul: a {a} and b {b} have different batch extents, and none is 1"
        )
    return _product("batch_matmul", attrs, ("b", "m", "n"), (max(a[0], b[0]),))


def _product(name: str, attrs: Attrs, axes: tuple[str, ...], batch: tuple[int, ...]) -> Workload:
    a_shape, b_shape = shape_of(attrs["a"]), shape_of(attrs["b"])
    flip_a, flip_b = bool(attrs["transpose_a"]), bool(attrs["transpose_b"])
    dtype = float_dtype(name, attrs["dtype"])
    depth, other = a_shape[-2 if flip_a else -1], b_shape[-1 if flip_b else -2]
    if depth != other:
        raise ShapeError(
            f"{name}: a {a_shape}{' transposed' if flip_a else ''} sums over {depth}, "
            f"b {b_shape}{' transposed' if flip_b else ''} over {other}"
        )
    a, b = placeholder(a_shape, dtype, "A"), placeholder(b_shape, dtype, "B")
    factors = _Factor(a, flip_a, single=True), _Factor(b, flip_b, single=True)
    product = _sums(*factors, batch, "product", axes)
    constants = ("B",) if attrs["constant_b"] else ()
    return finished(name, product, attrs, ContractionArgs((a, b), constants, axes, len(batch) + 1))


_TRANSPOSED = (
    Attr("transpose_a", bool, default=False),
    Attr("transpose_b", bool, default=False),
    Attr("constant_b", bool, default=False),
    Attr("dtype", str, "float32"),
    *(attr for attr in ATTRS if attr.name != "dtype"),
)
DENSE = TaskForm(
    name="dense",
    attrs=(
        Attr("data", tuple, length=2, least=1),
        Attr("weight", tuple, length=2, least=1),
        *ATTRS,
    ),
    build=_dense,
    summary="data (m, k) times the transpose of weight (n, k), optional bias and relu",
    onnx="Gemm",
    torch="linear",
)
MATMUL = TaskForm(
    name="matmul",
    attrs=(Attr("a", tuple, length=2, least=1), Attr("b", tuple, length=2, least=1), *_TRANSPOSED),
    build=lambda attrs: _product("matmul", attrs, ("m", "n"), ()),
    summary="a (m, k) times b (k, n); constant_b: b is a weight that may be packed ahead",
    onnx="Gemm",
    torch="matmul",
)
BATCH_MATMUL = TaskForm(
    name="batch_matmul",
    attrs=(Attr("a", tuple, length=3, least=1), Attr("b", tuple, length=3, least=1), *_TRANSPOSED),
    build=_batch_matmul,
    summary="a (b, m, k) times b (b, k, n), batch by batch",
    onnx="MatMul",
    torch="matmul",
)
OPS: tuple[OpDef, ...] = (
    OpDef(
        name="matmul",
        kind=OpKind.CONTRACTION,
        define=_matmul,
        onnx="MatMul",
        torch="matmul",
        channels=Channels.MIXED,
        least=2,
        most=2,
        forms=(MATMUL, BATCH_MATMUL),
    ),
    OpDef(
        name="gemm",
        kind=OpKind.CONTRACTION,
        define=_gemm,
        onnx="Gemm",
        torch="addmm",
        channels=Channels.MIXED,
        least=2,
        most=3,
        attrs=frozenset({"alpha", "beta", "trans_a", "trans_b"}),
        forms=(DENSE,),
    ),
)

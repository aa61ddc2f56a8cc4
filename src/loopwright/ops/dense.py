"""Matrix products as tensor expressions."""

from __future__ import annotations

from loopwright.errors import ShapeError
from loopwright.ir.dtype import accumulator, parse
from loopwright.ir.expr import Expr, ExprLike
from loopwright.ops.attrs import Attr, Attrs, AttrValue, OpDef, float_dtype
from loopwright.ops.conv import epilogue
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload, workload

_NO = False


def _shape(value: AttrValue) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise ShapeError(f"{value!r} is not a shape")
    return value


def _dense(attrs: Attrs) -> Workload:
    (m, k), (n, depth) = _shape(attrs["data"]), _shape(attrs["weight"])
    if k != depth:
        raise ShapeError(f"dense: data {(m, k)} has {k} columns, weight {(n, depth)} has {depth}")
    dtype = float_dtype("dense", attrs["dtype"])
    data, weight = placeholder((m, k), dtype, "data"), placeholder((n, k), dtype, "weight")
    axis = reduce_axis(k, "k")
    kept = accumulator(parse(dtype))

    def body(i: Expr, j: Expr) -> Expr:
        return te.sum(data[i, axis].astype(kept) * weight[j, axis].astype(kept), axis=axis)

    product = compute((m, n), lambda m, n: body(m, n), name="dense")
    output, added, constants = epilogue(product, attrs, 1)
    return workload(
        output,
        [data, weight, *added, output],
        name="dense",
        constants=["weight", *constants],
    )


def _matmul(attrs: Attrs) -> Workload:
    return _product("matmul", attrs, batch=())


def _batch_matmul(attrs: Attrs) -> Workload:
    a, b = _shape(attrs["a"]), _shape(attrs["b"])
    if a[0] != b[0] and 1 not in (a[0], b[0]):
        raise ShapeError(
            f"batch_matmul: a {a} and b {b} have different batch extents, and none is 1"
        )
    return _product("batch_matmul", attrs, batch=(max(a[0], b[0]),))


def _product(name: str, attrs: Attrs, batch: tuple[int, ...]) -> Workload:
    a_shape, b_shape = _shape(attrs["a"]), _shape(attrs["b"])
    flip_a, flip_b = bool(attrs["transpose_a"]), bool(attrs["transpose_b"])
    dtype = float_dtype(name, attrs["dtype"])
    m, k = a_shape[-2:] if not flip_a else a_shape[:-3:-1]
    depth, n = b_shape[-2:] if not flip_b else b_shape[:-3:-1]
    if k != depth:
        raise ShapeError(
            f"{name}: a {a_shape}{' transposed' if flip_a else ''} sums over {k}, "
            f"b {b_shape}{' transposed' if flip_b else ''} over {depth}"
        )
    a, b = placeholder(a_shape, dtype, "A"), placeholder(b_shape, dtype, "B")
    axis = reduce_axis(k, "k")
    kept = accumulator(parse(dtype))

    def element(x: Tensor, lead: tuple[Expr, ...], i: ExprLike, j: ExprLike) -> Expr:
        own = (0,) if lead and x.shape[0] == 1 else lead
        return x[(*own, i, j)].astype(kept)

    def body(lead: tuple[Expr, ...], i: Expr, j: Expr) -> Expr:
        left = element(a, lead, axis, i) if flip_a else element(a, lead, i, axis)
        right = element(b, lead, j, axis) if flip_b else element(b, lead, axis, j)
        return te.sum(left * right, axis=axis)

    if batch:
        product = compute((*batch, m, n), lambda b, m, n: body((b,), m, n), name="product")
    else:
        product = compute((m, n), lambda m, n: body((), m, n), name="product")
    output, added, constants = epilogue(product, attrs, product.ndim - 1)
    if attrs["constant_b"]:
        constants = ["B", *constants]
    return workload(output, [a, b, *added, output], name=name, constants=constants)


DENSE = OpDef(
    "dense",
    (
        Attr("data", tuple, length=2, least=1),
        Attr("weight", tuple, length=2, least=1),
        Attr("bias", bool, _NO),
        Attr("relu", bool, _NO),
        Attr("dtype", str, "float32"),
        Attr("epilogue", str, ""),
    ),
    _dense,
    "data (m, k) times the transpose of weight (n, k), optional bias and relu",
)
_PRODUCT = (
    Attr("transpose_a", bool, _NO),
    Attr("transpose_b", bool, _NO),
    Attr("constant_b", bool, _NO),
    Attr("dtype", str, "float32"),
    Attr("bias", bool, _NO),
    Attr("relu", bool, _NO),
    Attr("epilogue", str, ""),
)
MATMUL = OpDef(
    "matmul",
    (Attr("a", tuple, length=2, least=1), Attr("b", tuple, length=2, least=1), *_PRODUCT),
    _matmul,
    "a (m, k) times b (k, n); constant_b: b is a weight that may be packed ahead",
)
BATCH_MATMUL = OpDef(
    "batch_matmul",
    (Attr("a", tuple, length=3, least=1), Attr("b", tuple, length=3, least=1), *_PRODUCT),
    _batch_matmul,
    "a (b, m, k) times b (b, k, n), batch by batch",
)

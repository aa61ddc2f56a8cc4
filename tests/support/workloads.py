"""Random small workloads: chains, products, convolutions, reductions, several stages."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from loopwright.ir.expr import Expr
from loopwright.ops.registry import build
from loopwright.te import language as te
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload

NUMBERS = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8")
FLOATS = ("float32", "float64")
extents = st.integers(1, 9)


@st.composite
def chains(draw: DrawFn) -> Workload:
    """Stages that each read the one before: as it is, shifted, strided or turned around."""
    dtype = draw(st.sampled_from(NUMBERS))
    shape = (*draw(st.lists(extents, max_size=2)), draw(st.integers(1, 40)))
    last = te.placeholder(shape, dtype, "A")
    for number in range(draw(st.integers(1, 3))):
        last = _next_in_chain(draw, last, f"S{number}")
    return te.workload(last, name="chain")


def _next_in_chain(draw: DrawFn, source: Tensor, name: str) -> Tensor:
    how = draw(st.sampled_from(["scale", "clip", "shift", "stride", "turn", "mirror", "window"]))
    shape, lead = source.shape, source.shape[:-1]
    n = shape[-1]
    if how == "shift":
        far = draw(st.integers(-2, 2))

        def shifted(*i: Expr) -> Expr:
            at = i[-1] + far
            return te.if_then_else(te.all(at >= 0, at < n), source[(*i[:-1], at)], 1)

        return te.compute(shape, shifted, name=name)
    if how == "stride" and n > 1:
        step = draw(st.integers(1, min(3, n)))
        return te.compute(
            (*lead, (n + step - 1) // step), lambda *i: source[(*i[:-1], i[-1] * step)], name=name
        )
    if how == "window" and n > 2:
        wide = draw(st.integers(1, 2))
        return te.compute(
            (*lead, n - wide),
            lambda *i: te.maximum(source[i], source[(*i[:-1], i[-1] + wide)]),
            name,
        )
    if how == "turn" and len(shape) > 1:
        return te.compute(shape[::-1], lambda *i: source[i[::-1]], name=name)
    if how == "mirror":
        return te.compute(shape, lambda *i: source[(*i[:-1], (n - 1) - i[-1])], name=name)
    if how == "clip":
        return te.compute(shape, lambda *i: te.minimum(te.maximum(source[i], 0), 2), name=name)
    return te.compute(shape, lambda *i: source[i] * 2 + source[i], name=name)


@st.composite
def reductions(draw: DrawFn) -> Workload:
    """Sum, product, minimum or maximum over one or two axes, and perhaps an epilogue."""
    dtype = draw(st.sampled_from(NUMBERS))
    kept = draw(st.lists(extents, max_size=2))
    folded = draw(st.lists(extents, min_size=1, max_size=2))
    coarse = dtype.endswith("float16")  # sums of these lose digits that no tolerance foresees
    fold = draw(st.sampled_from([te.min, te.max] if coarse else [te.min, te.max, te.sum, te.prod]))
    order = draw(st.permutations(range(len(kept) + len(folded))))
    all_extents = [*kept, *folded]
    a = te.placeholder(tuple(all_extents[d] for d in order), dtype, "A")
    axes = [te.reduce_axis(n, f"k{d}") for d, n in enumerate(folded)]

    def body(*i: Expr) -> Expr:
        index = [*i, *axes]
        return fold(a[tuple(index[d] for d in order)], axis=axes)

    result = te.compute(tuple(kept), body, name="R")
    if draw(st.booleans()):
        total = result
        result = te.compute(tuple(kept), lambda *i: te.maximum(total[i], 1), name="E")
    return te.workload(result, name="reduction")


@st.composite
def products(draw: DrawFn) -> Workload:
    """A matrix product, operands transposed or not, batched or not."""
    m, n, k = draw(extents), draw(st.integers(1, 40)), draw(extents)
    flips = {"transpose_a": draw(st.booleans()), "transpose_b": draw(st.booleans())}
    a = (k, m) if flips["transpose_a"] else (m, k)
    b = (n, k) if flips["transpose_b"] else (k, n)
    dtype = draw(st.sampled_from(FLOATS))
    if draw(st.booleans()):
        batch = draw(st.integers(1, 3))
        return build("batch_matmul", a=(batch, *a), b=(batch, *b), dtype=dtype, **flips)
    return build("matmul", a=a, b=b, dtype=dtype, **flips)


@st.composite
def convolutions(draw: DrawFn) -> Workload:
    """A small convolution with any padding, stride, dilation, groups, bias and relu."""
    small = st.integers(1, 2)
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(small, small))
    least = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = (n + draw(st.integers(0, 4)) for n in least)
    batch, groups = draw(small), draw(st.integers(1, 3))
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return build(
        "conv2d",
        data=(batch, inputs * groups, height, width),
        weight=(outputs * groups, inputs, *kernel),
        strides=draw(st.tuples(small, small)),
        padding=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        relu=draw(st.booleans()),
    )


@st.composite
def pipelines(draw: DrawFn) -> Workload:
    """Stages that read windows, rows and columns of each other; two outputs now and then."""
    h, w = draw(st.integers(2, 8)), draw(st.integers(3, 10))
    a = te.placeholder((h, w + 2), draw(st.sampled_from(("float32", "int32"))), "A")
    blur = te.compute((h, w), lambda y, x: a[y, x] + a[y, x + 1] + a[y, x + 2], name="blur")
    taps = te.reduce_axis(draw(st.integers(1, min(3, h))), "t")
    rows = te.compute(
        (h - taps.extent + 1, w), lambda y, x: te.sum(blur[y + taps, x], axis=taps), name="rows"
    )
    half = te.compute((rows.shape[0], (w + 1) // 2), lambda y, x: rows[y, x * 2] * 3, name="half")
    k = te.reduce_axis(half.shape[1], "k")
    total = te.compute((half.shape[0],), lambda y: te.max(half[y, k], axis=k), name="total")
    ends = {"half": (half,), "total": (total,), "both": (half, total), "rows": (rows, total)}
    return te.workload(ends[draw(st.sampled_from(sorted(ends)))], name="pipeline")


def workloads() -> st.SearchStrategy[Workload]:
    """Any of the above."""
    return st.one_of(chains(), reductions(), products(), convolutions(), pipelines())

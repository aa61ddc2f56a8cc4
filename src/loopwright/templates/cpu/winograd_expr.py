"""A convolution in Winograd form: the tensors between its input and its output.

    in        the padded data, as far as the last tile reads
    rows.half, rows    the transform along columns: a rows of each tile row
    v.half, v          the transform along rows: a x a positions of each tile
    products  for each position a matrix product with the transformed weight
    back.half, back    the inverse transform along columns
    out.half           the first half of the inverse transform along rows; the second is inlined

The rows of a one-dimensional transform for points p and -p are the sum and the difference of an
even and an odd part, so each is done in two steps: `half` holds those parts or, for the inverse,
the sums and differences. Tables are chains of Selects on an axis, which fold where
that axis is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loopwright import weights
from loopwright.errors import LoopwrightError, TemplateError
from loopwright.ir import walk
from loopwright.ir.dtype import F32
from loopwright.ir.expr import Binary, Const, Expr, Load, Op, Reduce, Select, const
from loopwright.ir.linear import Linear
from loopwright.ir.simplify import affine
from loopwright.te import functions as te
from loopwright.te.tensor import Compute, Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload, workload
from loopwright.templates.cpu.conv_roles import ConvRoles, find_roles
from loopwright.weights import TAPS, Table, Winograd, winograd

_ONE = const(1.0, F32)
_KIND = "a convolution of NCHW data with an OIHW weight"


def eligible(of: Workload) -> bool:
    """True for a convolution that has a Winograd form: 3x3, stride 1, one group, float32."""
    try:
        return reason_against(of) is None
    except LoopwrightError:
        return False


def reason_against(of: Workload) -> str | None:
    """Why a convolution has no Winograd form, or None.

    Raises: TemplateError when it is not a convolution.
    """
    role = find_roles(of, 3, _KIND)
    if any(t.dtype != F32 for t in (*of.args, *of.stages)):
        return "it is not in float32 throughout"
    if role.weight.name not in of.constants:
        return "its weight is not constant"
    if role.weight.shape[2:] != (TAPS, TAPS):
        return f"its kernel is not {TAPS}x{TAPS}"
    if not _is_plain(role):
        return "it has strides, dilation or groups"
    if role.pad is not None and _padding(role) is None:
        return f"{role.pad.name} is not a copy with zeros around"
    after = _stages_after(of, role)
    if any(t.is_reduction or not _elementwise(t, role, after) for t in after):
        return f"what follows {role.conv.name} is not elementwise"
    return None


def _is_plain(role: ConvRoles) -> bool:
    """True when the body is `padded[n, ic, y + kh, x + kw] * weight[o, ic, kh, kw]`, summed."""
    body = role.conv.op.body if isinstance(role.conv.op, Compute) else None
    product = body.body if isinstance(body, Reduce) else None
    if not isinstance(product, Binary) or product.op is not Op.MUL:
        return False
    n, o, y, x = (v.name for v in role.conv.axis)
    ic, kh, kw = (a.var.name for a in role.conv.reduce_axis)
    data = ({n: 1}, {ic: 1}, {y: 1, kh: 1}, {x: 1, kw: 1})
    weight = ({o: 1}, {ic: 1}, {kh: 1}, {kw: 1})
    wanted = {role.padded.name: data, role.weight.name: weight}
    for factor in (product.lhs, product.rhs):
        if not isinstance(factor, Load) or factor.buffer.name not in wanted:
            return False
        forms = [affine(index) for index in factor.indices]
        if forms != [Linear(coeffs) for coeffs in wanted.pop(factor.buffer.name)]:
            return False
    return not wanted


def _padding(role: ConvRoles) -> tuple[int, int] | None:
    """The zero padding above and to the left of the data; None for any other stage."""
    pad = role.pad
    if pad is None:
        return 0, 0
    body = pad.op.body if isinstance(pad.op, Compute) else None
    if not isinstance(body, Select) or not isinstance(body.yes, Load):
        return None
    if not isinstance(body.no, Const) or body.no.value != 0:
        return None
    n, c, y, x = (v.name for v in pad.axis)
    forms = [affine(index) for index in body.yes.indices]
    if forms[:2] != [Linear({n: 1}), Linear({c: 1})]:
        return None
    starts = []
    for form, name in zip(forms[2:], (y, x), strict=True):
        if form is None or form.terms != {name: 1} or form.const > 0:
            return None
        starts.append(-form.const)
    wanted = _inside(pad.axis[2:], starts, role.data.shape[2:], pad.shape[2:])
    given = _terms(body.cond)
    if len(given) != len(wanted) or any(not any(walk.same(a, b) for b in given) for a in wanted):
        return None
    above, left = starts
    return above, left


def _terms(cond: Expr) -> list[Expr]:
    if isinstance(cond, Binary) and cond.op is Op.AND:
        return [*_terms(cond.lhs), *_terms(cond.rhs)]
    return [cond]


def _inside(
    place: Sequence[Expr], starts: Sequence[int], extents: Sequence[int], shape: Sequence[int]
) -> list[Expr]:
    """The conditions for a place in a padded copy of `shape` to lie in the data.

    The data begins at `starts` in the copy; all are of the height, then of the width.
    """
    found: list[Expr] = []
    for at, start, extent, whole in zip(place, starts, extents, shape, strict=True):
        if start:
            found.append(at >= start)
        if start + extent < whole:
            found.append(at < start + extent)
    return found


def _stages_after(of: Workload, role: ConvRoles) -> tuple[Tensor, ...]:
    before = (role.conv.name, role.padded.name)
    return tuple(t for t in of.stages if t.name not in before)


def _elementwise(stage: Tensor, role: ConvRoles, after: Sequence[Tensor]) -> bool:
    """True when `stage` reads only the element of the convolution that it computes."""
    inner = {role.conv.name, *(t.name for t in after)}
    if stage.shape != role.conv.shape or not isinstance(stage.op, Compute):
        return False
    here = [Linear({v.name: 1}) for v in stage.axis]
    for load in walk.loads(stage.op.body):
        if load.buffer.name == role.padded.name or load.buffer.name == role.weight.name:
            return False
        if load.buffer.name in inner and [affine(i) for i in load.indices] != here:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Stages:
    """The tensors of a rewritten convolution; see the head of this file."""

    data: Tensor
    weight: Tensor
    padded: Tensor
    rows_half: Tensor
    rows: Tensor
    v_half: Tensor
    v: Tensor
    products: Tensor
    back_half: Tensor
    back: Tensor
    out_half: Tensor
    output: Tensor
    epilogue: tuple[Tensor, ...]
    """The stages between `out_half` and `output`."""

    @property
    def tile(self) -> int:
        """The width m of the output tiles."""
        return self.products.shape[1] - TAPS + 1


def stages_of(of: Workload) -> Stages:
    """The tensors of a workload that `rewritten` made."""
    (products,) = (t for t in of.stages if t.is_reduction)
    name = products.name.removesuffix(".products")

    def stage(suffix: str) -> Tensor:
        return of.tensor(f"{name}.{suffix}")

    padded, output = stage("in"), of.outputs[0]
    (data,) = padded.inputs
    weight = next(t for t in products.inputs if not t.axis)
    known = [
        *("in", "rows.half", "rows", "v.half", "v", "products", "back.half", "back", "out.half")
    ]
    taken = {f"{name}.{suffix}" for suffix in known} | {output.name}
    return Stages(
        data=data,
        weight=weight,
        padded=padded,
        rows_half=stage("rows.half"),
        rows=stage("rows"),
        v_half=stage("v.half"),
        v=stage("v"),
        products=products,
        back_half=stage("back.half"),
        back=stage("back"),
        out_half=stage("out.half"),
        output=output,
        epilogue=tuple(t for t in of.stages if t.name not in taken),
    )


def tiles(extent: int, m: int) -> int:
    """How many tiles of width `m` cover `extent`."""
    return -(-extent // m)


def rewritten(of: Workload, m: int) -> Workload:
    """`of` computed from output tiles of m x m; its weight is transformed by `winograd{m}`.

    Raises: TemplateError when it has no Winograd form.
    """
    reason = reason_against(of)
    if reason is not None:
        raise TemplateError(f"{of.name}: {reason}, so it has no Winograd form")
    role = find_roles(of, 3, _KIND)
    transform = f"winograd{m}"
    plain = role.weight
    weight = placeholder(weights.stored_shape(transform, plain.shape), plain.dtype, plain.name)
    conv = _convolution(role, weight, winograd(m), m)
    made = _after(of, role, conv)
    args = tuple(weight if t is plain else made.get(t.name, t) for t in of.args)
    return workload(
        made[role.output.name],
        args,
        name=of.name,
        constants=of.constants,
        transforms={weight.name: transform},
    )


def _after(of: Workload, role: ConvRoles, conv: Tensor) -> dict[str, Tensor]:
    """`conv` and the stages after it, which now read it, by name."""
    made = {conv.name: conv}

    def turn(expr: Expr) -> Expr:
        if isinstance(expr, Load) and expr.buffer.name in made:
            return Load(made[expr.buffer.name], expr.indices)
        return expr

    for stage in _stages_after(of, role):
        if isinstance(stage.op, Compute):
            body = walk.rewrite_expr(stage.op.body, turn)
            made[stage.name] = replace(stage, op=replace(stage.op, body=body))
    return made


def _convolution(role: ConvRoles, weight: Tensor, tables: Winograd, m: int) -> Tensor:
    name = role.conv.name
    v = _transformed(role, tables, m)
    batch, a, _, channels, high, wide = v.shape
    outputs = weight.shape[2]
    c = reduce_axis(channels, "c")
    products = compute(
        (batch, a, a, outputs, high, wide),
        lambda n, a, b, o, ty, tx: te.sum(v[n, a, b, c, ty, tx] * weight[a, b, o, c], axis=c),
        name=f"{name}.products",
    )
    return _inverted(role, products, tables, m)


def _transformed(role: ConvRoles, tables: Winograd, m: int) -> Tensor:
    """The transformed input: (n, a, b, channel, tile row, tile column)."""
    padded = _padded(role, m)
    batch, channels, _, width = padded.shape
    high, wide = (tiles(extent, m) for extent in role.conv.shape[2:])
    a = m + TAPS - 1
    halves = _halves(tables.data)
    name = role.conv.name
    rows_half = compute(
        (batch, a, channels, high, width),
        lambda n, h, c, ty, x: _combined(h, halves, lambda i: padded[n, c, ty * m + i, x]),
        name=f"{name}.rows.half",
    )
    rows = compute(
        (batch, a, channels, high, width),
        lambda n, a, c, ty, x: _butterfly(a, lambda h: rows_half[n, h, c, ty, x]),
        name=f"{name}.rows",
    )
    v_half = compute(
        (batch, a, a, channels, high, wide),
        lambda n, a, h, c, ty, tx: _combined(h, halves, lambda j: rows[n, a, c, ty, tx * m + j]),
        name=f"{name}.v.half",
    )
    return compute(
        (batch, a, a, channels, high, wide),
        lambda n, a, b, c, ty, tx: _butterfly(b, lambda h: v_half[n, a, h, c, ty, tx]),
        name=f"{name}.v",
    )


def _padded(role: ConvRoles, m: int) -> Tensor:
    """The zero-padded data, up to the end of the last tile."""
    padding = _padding(role)
    if padding is None:
        raise TemplateError(f"{role.padded.name} is not a copy with zeros around")
    above, left = padding
    batch, channels, *size = role.data.shape
    extents = [tiles(extent, m) * m + TAPS - 1 for extent in role.conv.shape[2:]]
    shape = (batch, channels, *extents)

    def body(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        value = role.data[n, c, y - above, x - left]
        inside = _inside((y, x), padding, size, extents)
        return te.if_then_else(te.all(*inside), value, 0.0) if inside else value

    return compute(shape, body, name=f"{role.conv.name}.in")


def _inverted(role: ConvRoles, products: Tensor, tables: Winograd, m: int) -> Tensor:
    """The output of the convolution, from the products."""
    batch, a, _, outputs, high, wide = products.shape
    rest = tuple(zip(*_halves(tuple(zip(*tables.inverse, strict=True))), strict=True))
    name = role.conv.name
    back_half = compute(
        (batch, a, a, outputs, high, wide),
        lambda n, h, b, o, ty, tx: _butterfly(h, lambda i: products[n, i, b, o, ty, tx]),
        name=f"{name}.back.half",
    )
    back = compute(
        (batch, m, a, outputs, high, wide),
        lambda n, p, b, o, ty, tx: _alternating(p, rest, lambda h: back_half[n, h, b, o, ty, tx]),
        name=f"{name}.back",
    )
    out_half = compute(
        (batch, m, a, outputs, high, wide),
        lambda n, p, h, o, ty, tx: _butterfly(h, lambda j: back[n, p, j, o, ty, tx]),
        name=f"{name}.out.half",
    )
    n, o, y, x = role.conv.axis

    def element(h: Expr) -> Expr:
        return out_half[n, y % m, h, o, y // m, x // m]

    body = _alternating(x % m, rest, element)
    return replace(role.conv, op=Compute(role.conv.axis, body))


def _halves(table: Table) -> Table:
    """`table` with each pair of rows, for points p and -p, split into an even and an odd part.

    The rows are the sum and the difference of the parts; those for 0 and infinity, which come
    first, stay.
    """
    rows = list(table[:2])
    for at in range(2, len(table), 2):
        plus, minus = table[at : at + 2]
        rows.append(tuple((p + q) / 2 for p, q in zip(plus, minus, strict=True)))
        rows.append(tuple((p - q) / 2 for p, q in zip(plus, minus, strict=True)))
    return tuple(rows)


def _butterfly(row: Expr, element: Callable[[Expr], Expr]) -> Expr:
    """The sum or difference of the pair that `row` belongs to; the first two rows as they are."""
    even = row // 2 * 2
    first = Select(row <= 0, _ONE, Select(row <= 1, const(0.0, F32), _ONE))
    sign = Select((row % 2).equal(0), _ONE, const(-1.0, F32))
    second = Select(row <= 0, const(0.0, F32), Select(row <= 1, _ONE, sign))
    return element(even) * first + element(even + 1) * second


def _alternating(row: Expr, table: Table, element: Callable[[Expr], Expr]) -> Expr:
    """`sum(table[row][j] * element(j))`; even rows have even columns only, odd ones odd."""
    total: Expr | None = None
    for place in range(0, len(table[0]), 2):
        column = [line[place + number % 2] for number, line in enumerate(table)]
        term = element(row % 2 + place) * _entry(row, column)
        total = term if total is None else total + term
    if total is None:
        raise TemplateError("an empty table")
    return total


def _combined(row: Expr, table: Table, element: Callable[[int], Expr]) -> Expr:
    """`sum(table[row][j] * element(j))`."""
    total: Expr | None = None
    for place in range(len(table[0])):
        column = [line[place] for line in table]
        if not any(column):
            continue
        term = element(place) * _entry(row, column)
        total = term if total is None else total + term
    if total is None:
        raise TemplateError("a table of zeros")
    return total


def _entry(row: Expr, column: Sequence[float]) -> Expr:
    """`column[row]` as a chain of Selects, one per run of equal numbers."""
    value: Expr = const(column[-1], F32)
    for place in range(len(column) - 2, -1, -1):
        if column[place] != column[place + 1]:
            value = Select(row <= place, const(column[place], F32), value)
    return value

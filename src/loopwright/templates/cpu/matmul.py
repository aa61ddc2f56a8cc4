"""Matrix products on CPUs (dense, matmul, batch_matmul): packed panels and a register tile.

The operand along the output's last axis, B, is read as panels [N/t][K][t] of t = `n` vectors of
columns: a weight is stored so ahead of time, another operand is packed here (knob `pack_b`: all of
it ahead, or by blocks of columns right before they are used). The other one, A, is broadcast
element by element, straight or from panels [M/t][K][t] (knob `pack_a`, likewise). With `k[0] > 1`
blocks of K run outside the tiles, and partial sums go through the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy.typing as npt

from loopwright.errors import TemplateError
from loopwright.ir import walk
from loopwright.sched.extent import SizeLike
from loopwright.sched.schedule import Loop, Schedule, Stage
from loopwright.space.config import Config
from loopwright.space.constraints import Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, KnobValue, SplitKnob
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload
from loopwright.templates.cpu.blocking import (
    completed,
    of_floats,
    sizes_of,
    spans,
    store_as,
    tile_cycles,
)
from loopwright.templates.template import Configuration, CpuOnly, Template

MAX_UNROLLED = 512
_STEPS = 8
"""Unrolled steps of the sum without tuning."""
_SCALARS = 16
"""How far a tile's operands may exceed the registers: some loads are folded into their uses."""
_STREAMS = 4
"""Vectors per step of a product with one row, which is limited by the bandwidth of B."""
_FAR = 1024
"""Stride of rows in bytes beyond which they map to few sets of the L1 cache."""
_OFTEN = 4
"""Tiles that must read a panel for a copy of it to pay off."""


@dataclass(frozen=True, slots=True)
class ProductOperand:
    """An input: its dimension along the output, and the one that is summed."""

    tensor: Tensor
    along: int
    summed: int


@dataclass(frozen=True, slots=True)
class ProductRoles:
    """Which tensor is which; `a` runs along the rows of the output, `b` along its columns."""

    a: ProductOperand
    b: ProductOperand
    product: Tensor
    output: Tensor
    constants: frozenset[str]


def roles(workload: Workload) -> ProductRoles:
    """The roles of the tensors. Raises: TemplateError when the workload is not a matrix product."""
    products = [t for t in workload.stages if t.is_reduction]
    if len(products) != 1 or products[0].ndim < 2 or len(products[0].reduce_axis) != 1:
        raise TemplateError(f"{workload.name} is not a matrix product")
    product = products[0]
    row, column = product.axis[-2:]
    summed = product.reduce_axis[0].var
    found: dict[str, ProductOperand] = {}
    body = product.op.body if isinstance(product.op, Compute) else None
    for load in walk.loads(body) if body is not None else ():
        dims = {v.name: d for d, i in enumerate(load.indices) for v in walk.free_vars(i)}
        for axis in (row, column):
            if axis.name in dims and summed.name in dims and isinstance(load.buffer, Tensor):
                found[axis.name] = ProductOperand(load.buffer, dims[axis.name], dims[summed.name])
    if set(found) != {row.name, column.name}:
        raise TemplateError(
            f"{workload.name}: a product needs one operand by rows and one by columns"
        )
    return ProductRoles(
        found[row.name], found[column.name], product, workload.outputs[0], workload.constants
    )


def space(workload: Workload, target: CpuTarget) -> Space:
    """The knobs of a product; `n` counts vectors of columns, `m` rows, `k` elements."""
    role = roles(workload)
    lanes = target.lanes(role.product.dtype)
    rows, columns = role.product.shape[-2:]
    depth = role.product.reduce_axis[0].extent
    room = target.registers - 2
    blocked = role.output is role.product
    straight = role.b.along == role.b.tensor.ndim - 1
    packs_b = ("all", "block", "none") if straight else ("all", "block")
    knobs: list[Knob] = [
        ChoiceKnob("lanes", (lanes,)),
        SplitKnob("m", rows, 3, policy="listed", candidates=_blocks(rows, min(room, 16))),
        SplitKnob(
            "n",
            -(-columns // lanes),
            3,
            policy="listed",
            candidates=_blocks(-(-columns // lanes), 8),
        ),
        SplitKnob("k", depth, 3, policy="listed", candidates=_depths(depth, blocked=blocked)),
        ChoiceKnob("order", ("n,m", "m,n")),
        ChoiceKnob("pack_b", ("none",) if role.b.tensor.name in role.constants else packs_b),
        ChoiceKnob("pack_a", ("none", "all", "block") if rows > 1 else ("none",)),
    ]

    def fits(columns_of: Columns) -> npt.ArrayLike:
        m, n = columns_of["m"][2], columns_of["n"][2]
        return (m * n <= room) & (m + n + m * n <= room + _SCALARS)

    def not_too_long(columns_of: Columns) -> npt.ArrayLike:
        return columns_of["m"][2] * columns_of["n"][2] * columns_of["k"][2] <= MAX_UNROLLED

    return Space(
        knobs,
        (
            Constraint(("m", "n"), fits, f"the tile does not fit {room} registers"),
            Constraint(
                ("m", "n", "k"),
                not_too_long,
                f"the unrolled body has more than {MAX_UNROLLED} multiply-adds",
            ),
        ),
    )


def _blocks(extent: int, most: int) -> tuple[tuple[int, ...], ...]:
    """(tiles per block, tile): tiles waste at most an eighth; blocks of 1, 2, 4, ... or all."""
    found: list[tuple[int, ...]] = []
    for tile in range(1, min(extent, most) + 1):
        tiles = -(-extent // tile)
        if tiles * tile > extent * 1.125 and tile > 1:
            continue
        blocks = {b for b in (1, 2, 4, 8, 16, 32) if b < tiles} | {tiles}
        found += [(block, tile) for block in sorted(blocks)]
    return tuple(found)


def _depths(depth: int, *, blocked: bool) -> tuple[tuple[int, ...], ...]:
    """(steps per block, unrolled steps) that divide the depth; blocks of at least 64 elements."""
    found: list[tuple[int, ...]] = []
    for inner in (1, 2, 4, 8, 16):
        if depth % inner:
            continue
        steps = depth // inner
        found.append((steps, inner))
        if blocked:
            found += [
                (steps // parts, inner)
                for parts in (2, 4, 8, 16)
                if steps % parts == 0 and depth // parts >= 64
            ]
    return tuple(found)


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs; see the head of this file."""
    role = roles(s.workload)
    lanes = config.integer("lanes")
    _, _, m_tile = config.sizes("m")
    _, _, n_tile = config.sizes("n")
    for tensor in s.workload.stages:
        if tensor is not role.product and tensor is not role.output:
            s[tensor].compute_inline()
    packed_b = packed_a = None
    if role.b.tensor.name in role.constants:
        store_as(s, role.b.tensor, _panels(role.b, n_tile * lanes))
    elif config.text("pack_b") != "none":
        packed_b = _panelled(s, role.product, role.b, n_tile * lanes)
    if config.text("pack_a") != "none":
        packed_a = _panelled(s, role.product, role.a, m_tile)
    blocks = _outer_loops(s, role, config, lanes)
    if packed_b is not None:
        at = blocks.columns if config.text("pack_b") == "block" else None
        _pack(s, role, packed_b, lanes, at)
    if packed_a is not None:
        at = blocks.rows if config.text("pack_a") == "block" else None
        _pack(s, role, packed_a, lanes, at)
    if role.output is not role.product:
        s[role.product].compute_at(role.output, blocks.tiles)
        s[role.product].set_scope("register")
        stage = s[role.product]
        *_, row, column = role.product.axis
        nv, nl = stage.split(column, lanes)
        _reduce_loops(stage, role, config, [stage.loops[-4], nv, nl], row_name=row.name)


def _panels(operand: ProductOperand, width: SizeLike) -> list[int | tuple[int, SizeLike]]:
    """[batch...][along / width][summed][width]."""
    batch = [d for d in range(operand.tensor.ndim) if d not in (operand.along, operand.summed)]
    return [*batch, operand.along, operand.summed, (operand.along, width)]


@dataclass(frozen=True, slots=True)
class _Panelled:
    """A copy of an operand that is stored in panels of `width` rows, or columns."""

    tensor: Tensor
    operand: ProductOperand
    width: SizeLike


def _panelled(s: Schedule, product: Tensor, operand: ProductOperand, width: SizeLike) -> _Panelled:
    """The copy of `operand` that `product` reads from now on."""
    name = f"{operand.tensor.name}.packed"
    packed = s.cache_read(operand.tensor, [product], "global", name)
    s.set_layout(packed, _panels(operand, width))
    return _Panelled(packed, operand, width)


def _pack(s: Schedule, role: ProductRoles, copy: _Panelled, lanes: int, at: Loop | None) -> None:
    """Copy an operand into panels: in the loop `at` of the output, or all of it ahead."""
    packed, operand = copy.tensor, copy.operand
    stage = s[packed]
    if at is not None:
        stage.compute_at(role.output, at)
    along, summed = packed.axis[operand.along], packed.axis[operand.summed]
    batch = [v for v in packed.axis if v.name not in (along.name, summed.name)]
    panel, inside = stage.split(along, copy.width)
    if operand.along == operand.tensor.ndim - 1:
        outer, vector = stage.split(inside, lanes)
        stage.reorder(*batch, panel, summed, outer, vector)
        stage.vectorize(vector)
    else:  # a transpose: by lines of the source, so that both sides stay in L1
        line, step = stage.split(summed, lanes)
        stage.reorder(*batch, panel, line, inside, step)
        stage.unroll(step)
    if at is None:
        stage.parallel(stage.fuse(*batch, panel) if batch else panel)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Loops of the output stage: over blocks of rows, blocks of columns, and tiles."""

    rows: Loop
    columns: Loop
    tiles: Loop


def _outer_loops(s: Schedule, role: ProductRoles, config: Configuration, lanes: int) -> Blocks:
    """Tile the output stage."""
    stage = s[role.output]
    *batch, row, column = role.output.axis
    _, m_block, m_tile = config.sizes("m")
    _, n_block, n_tile = config.sizes("n")
    mt, mi = stage.split(row, m_tile)
    mo, mm = stage.split(mt, m_block)
    nt, ni = stage.split(column, n_tile * lanes)
    no, nm = stage.split(nt, n_block)
    nv, nl = stage.split(ni, lanes)
    outer = [no, mo] if config.text("order") == "n,m" else [mo, no]
    middle = [nm, mm] if config.text("order") == "n,m" else [mm, nm]
    stage.reorder(*batch, *outer, *middle, mi, nv, nl)
    if role.output is role.product:
        _reduce_loops(stage, role, config, [mi, nv, nl], outside=middle)
    else:
        stage.unroll(mi)
        stage.unroll(nv)
        stage.vectorize(nl)
    shared = stage.fuse(*batch, outer[0]) if batch else outer[0]
    stage.parallel(shared)
    rows, columns = (shared, no) if outer[0] is mo else (mo, shared)
    return Blocks(rows, columns, middle[-1])


def _reduce_loops(
    stage: Stage,
    role: ProductRoles,
    config: Configuration,
    tile: list[Loop],
    *,
    outside: list[Loop] | None = None,
    row_name: str | None = None,
) -> None:
    """The loops over K around the tile; blocks of K go around the loops `outside`."""
    _, steps, inner = config.sizes("k")
    k = role.product.reduce_axis[0]
    kt, ki = stage.split(k, inner)
    kb, ko = stage.split(kt, steps)
    mi, nv, nl = tile
    first = row_name if row_name is not None else mi
    stage.reorder(kb, *(outside or []), ko, ki, first, nv, nl)
    stage.unroll(first)
    stage.unroll(nv)
    stage.unroll(ki)
    stage.vectorize(nl)


def default(workload: Workload, target: CpuTarget) -> Config:
    """The cheapest register tile; each panel of B is read by all rows before the next one."""
    role, knobs = roles(workload), space(workload, target)
    lanes = target.lanes(role.product.dtype)
    *batch, rows, columns = role.product.shape
    depth = role.product.reduce_axis[0].extent
    room = target.registers - 2

    def cycles(m: int, n: int) -> float:
        return sum(
            tile_cycles(target, h, v, depth) * nh * nv
            for h, nh in spans(rows, m)
            for v, nv in spans(-(-columns // lanes), n)
        )

    ms = {m[2] for m in sizes_of(knobs, "m")}
    ns = {n[2] for n in sizes_of(knobs, "n") if rows > 1 or n[2] <= _STREAMS}
    tiles = [
        (m, n)
        for m in sorted(ms)
        for n in sorted(ns)
        if m * n <= min(room, room + _SCALARS - m - n)
    ]
    m_tile, n_tile = min(tiles, key=lambda tile: cycles(*tile))
    unrolled = m_tile * n_tile
    steps = [k for k in sizes_of(knobs, "k") if k[0] == 1 and k[2] * unrolled <= MAX_UNROLLED]
    by_rows = math.prod(batch) * -(-columns // (lanes * n_tile)) < target.cores
    blocks = [m for m in sizes_of(knobs, "m") if m[2] == m_tile]
    shared = [m for m in blocks if by_rows and m[0] >= target.cores] or blocks
    chosen: dict[str, KnobValue] = {
        "m": max(shared, key=lambda m: m[1]),
        "n": min((n for n in sizes_of(knobs, "n") if n[2] == n_tile), key=lambda n: n[1]),
        "k": max((k for k in steps if k[2] <= _STEPS), key=lambda k: k[2]),
        "order": "m,n" if by_rows else "n,m",
    }
    if role.b.tensor.name not in role.constants:
        chosen["pack_b"] = _default_pack(role, rows, columns, m_tile)
    return completed(knobs, chosen)


def _default_pack(role: ProductRoles, rows: int, columns: int, m_tile: int) -> str:
    """Whether to copy B into panels: where its rows lie far apart and are read often."""
    straight = role.b.along == role.b.tensor.ndim - 1
    near = columns * role.product.dtype.nbytes < _FAR
    return "none" if straight and (near or rows < _OFTEN * m_tile) else "block"


TEMPLATE = Template(
    "cpu.matmul",
    1,
    CpuOnly(space),
    schedule,
    default=CpuOnly(default),
    is_for=of_floats,
)

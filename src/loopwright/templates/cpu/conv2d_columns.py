"""Convolution in groups with the pixels of a row in vectors, on CPUs: data stay row-major.

Any group will do, as no two channels share a vector. A tile of `oc` channels of one group times
`vectors` of pixels lies in registers while the reduce loops run: one vector load for each of the
latter, one scalar broadcast for each channel. Weights are packed as [O/oc][I/b][kh][kw][b][oc].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loopwright.sched.schedule import Loop, Schedule, Stage
from loopwright.space.config import Config
from loopwright.space.constraints import Columns, Constraint
from loopwright.space.knobs import ChoiceKnob, Knob, KnobValue, SplitKnob
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.cpu.blocking import (
    completed,
    of_floats,
    sizes_of,
    store_as,
    tile_cycles,
)
from loopwright.templates.cpu.conv_roles import ConvRoles, find_roles
from loopwright.templates.template import Configuration, CpuOnly, Template

FULL = 16
"""Output channels of a group that fill vectors of every target."""
MOST_CHANNELS = 8
MOST_VECTORS = 4
MAX_UNROLLED = 256
"""Multiply-adds in the unrolled body."""
_FEW_STEPS = 9
"""Taps of one input channel that are unrolled together."""


def roles(workload: Workload) -> ConvRoles:
    """The roles of the tensors. Raises: TemplateError when it is not a convolution."""
    reductions = [t for t in workload.stages if t.is_reduction]
    axes = len(reductions[0].reduce_axis) if reductions else 0
    return find_roles(workload, 2 if axes == 2 else 3, "a convolution of NCHW data")


def is_for(workload: Workload) -> bool:
    """Whether `workload` has groups that do not fill vectors, and vectors of pixels are better.

    So they are where a map is read as it is, and where a group has channels that no short vector
    divides.
    """
    if not of_floats(workload):
        return False
    role = roles(workload)
    outputs = outputs_of_group(role)
    if outputs == role.conv.shape[1] or outputs % FULL == 0 or is_depthwise(role):
        return False
    return keeps_maps(role) or outputs % 4 != 0


def is_depthwise(role: ConvRoles) -> bool:
    """Whether each input channel makes one output channel."""
    return len(role.conv.reduce_axis) == 2 and role.data.shape[1] == role.conv.shape[1]


def outputs_of_group(role: ConvRoles) -> int:
    """The output channels of a group."""
    inputs = role.weight.shape[1]
    return role.conv.shape[1] * inputs // role.data.shape[1]


def keeps_maps(role: ConvRoles) -> bool:
    """Whether it is a 1x1 convolution of every pixel of maps without padding."""
    return role.weight.shape[2:] == (1, 1) and role.data.shape[2:] == role.conv.shape[2:]


def space(workload: Workload, target: CpuTarget) -> Space:
    """The knobs: the tile, what is unrolled, the order of tiles, and where padding is copied."""
    role = roles(workload)
    full = target.lanes(role.conv.dtype)
    outputs, row = outputs_of_group(role), role.conv.shape[3]
    lanes = tuple(dict.fromkeys((full, max(2, full // 2))))
    tiles = tuple((n,) for n in range(1, min(outputs, MOST_CHANNELS) + 1) if outputs % n == 0)
    vectors = tuple(range(1, max(1, min(MOST_VECTORS, -(-row // full))) + 1))
    inputs, room = role.weight.shape[1], target.registers - 2
    knobs: list[Knob] = [
        SplitKnob("oc", outputs, policy="listed", candidates=tiles),
        ChoiceKnob("vectors", vectors),
        ChoiceKnob("lanes", lanes),
        SplitKnob("ic", inputs, policy="factors", max_factor=min(inputs, 8)),
        ChoiceKnob("unroll_taps", (False, True)),
        ChoiceKnob("order", ("oc,rows", "rows,oc")),
    ]
    if role.pad is not None:
        knobs.append(ChoiceKnob("pad", ("root", "group")))
    taps = role.weight.shape[2] * role.weight.shape[3]

    def fits(columns: Columns) -> npt.ArrayLike:
        return (columns["oc"][1] + 1) * columns["vectors"] <= room

    def not_too_long(columns: Columns) -> npt.ArrayLike:
        body = columns["oc"][1] * columns["vectors"] * columns["ic"][1]
        return body * np.where(columns["unroll_taps"], taps, 1) <= MAX_UNROLLED

    return Space(
        knobs,
        (
            Constraint(("oc", "vectors"), fits, f"the tile does not suit {room} registers"),
            Constraint(
                ("oc", "vectors", "ic", "unroll_taps"),
                not_too_long,
                f"the unrolled body has more than {MAX_UNROLLED} multiply-adds",
            ),
        ),
    )


def schedule(s: Schedule, config: Configuration) -> None:
    """Apply the knobs; see the head of this file."""
    role = roles(s.workload)
    tile, steps = config.sizes("oc")[1], config.sizes("ic")[1]
    store_as(s, role.weight, [0, 1, 2, 3, (1, steps), (0, tile)])
    for tensor in s.workload.stages:
        if tensor not in (role.pad, role.conv, role.output):
            s[tensor].compute_inline()
    stage = s[role.output]
    n, o, y, x = role.output.axis
    group, within = stage.split(o, outputs_of_group(role))
    channels, one = stage.split(within, tile)
    lanes = config.integer("lanes")
    columns, inner = stage.split(x, lanes * config.integer("vectors"))
    vector, lane = stage.split(inner, lanes)
    in_registers = [one, vector, lane]
    if config.text("order") == "rows,oc":
        innermost = channels
        stage.reorder(n, group, y, columns, channels, *in_registers)
    else:
        innermost = columns
        stage.reorder(n, group, channels, y, columns, *in_registers)
    if role.output is role.conv:
        _reduce(stage, role.conv, config, in_registers)
    else:
        stage.unroll(one)
        stage.unroll(vector)
        stage.vectorize(lane)
    shared = stage.fuse(n, group)
    stage.parallel(shared)
    if role.output is not role.conv:
        own = s[role.conv]
        own.compute_at(role.output, innermost)
        own.set_scope("register")
        loops = {loop.name: loop for loop in own.loops}
        one, row = loops[role.conv.axis[1].name], loops[role.conv.axis[3].name]
        vector, lane = own.split(row, lanes)
        _reduce(own, role.conv, config, [one, vector, lane])
    if role.pad is not None:
        _place_pad(s, role, role.pad, config, shared)


def _place_pad(
    s: Schedule, role: ConvRoles, padded: Tensor, config: Configuration, group: Loop
) -> None:
    """The padded copy: all of it ahead, or the channels of a group."""
    stage = s[padded]
    at_root = config.text("pad") == "root"
    if not at_root:
        stage.compute_at(role.output, group)
    _, inside = stage.split(padded.axis[3], config.integer("lanes"))
    stage.vectorize(inside)
    if at_root:
        stage.parallel(stage.fuse(*stage.loops[:2]))


def _reduce(stage: Stage, conv: Tensor, config: Configuration, tile: list[Loop]) -> None:
    """The reduce loops around the tile of `conv`."""
    *channels, r, c = conv.reduce_axis
    steps = [stage.split(axis, config.sizes("ic")[1]) for axis in channels]
    outer = [over for over, _ in steps]
    unrolled = [step for _, step in steps]
    stage.reorder(*outer, r, c, *unrolled, *tile)
    if config.flag("unroll_taps"):
        stage.unroll(r)
        stage.unroll(c)
    for loop in (*unrolled, *tile[:-1]):
        stage.unroll(loop)
    stage.vectorize(tile[-1])


def default(workload: Workload, target: CpuTarget) -> Config:
    """The tile that takes the fewest cycles; tiles of one group read the same data in turns."""
    role, knobs = roles(workload), space(workload, target)
    outputs, row = outputs_of_group(role), role.conv.shape[3]
    taps = role.weight.shape[2] * role.weight.shape[3]
    steps = taps * role.weight.shape[1]

    def cycles(tile: tuple[int, int, int]) -> float:
        oc, vectors, lanes = tile
        tiles = -(-row // (vectors * lanes)) * (outputs // oc)
        return tiles * tile_cycles(target, oc, vectors, steps)

    found = [
        (oc[1], vectors, lanes)
        for oc in sizes_of(knobs, "oc")
        for vectors in _integers(knobs, "vectors")
        for lanes in _integers(knobs, "lanes")
        if (oc[1] + 1) * vectors <= target.registers - 2
    ]
    oc, vectors, lanes = min(found, key=lambda tile: (cycles(tile), -tile[2]))
    unrolls = taps <= _FEW_STEPS and oc * vectors * taps <= MAX_UNROLLED
    size = oc * vectors * (taps if unrolls else 1)
    chosen: dict[str, KnobValue] = {
        "oc": (outputs // oc, oc),
        "vectors": vectors,
        "lanes": lanes,
        "ic": max((v for v in sizes_of(knobs, "ic") if v[1] * size <= MAX_UNROLLED), key=_last),
        "unroll_taps": unrolls,
        "order": "rows,oc",
    }
    if role.pad is not None:
        chosen["pad"] = "group"
    return completed(knobs, chosen)


def _last(value: tuple[int, ...]) -> int:
    return value[-1]


def _integers(knobs: Space, name: str) -> list[int]:
    return [v for v in knobs.knobs[knobs.column(name)].values if isinstance(v, int)]


TEMPLATE = Template(
    "cpu.conv2d_columns",
    1,
    CpuOnly(space),
    schedule,
    default=CpuOnly(default),
    is_for=is_for,
)

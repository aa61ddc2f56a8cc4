"""The memory of a model: which values share it, and where each lies.

Values that are parts of a concatenation are written where the concatenation wants them, if its
parts are whole stretches of its memory; it then costs nothing. Of several concatenations that
begin alike (DenseNet) all but the longest are stretches of that one. A kernel may write its output
over an input that nothing reads later, where it reads each element of it before it writes there
(`graph/in_place.py`). What remains is put into one block of memory, the largest first, each at the
least offset that no value alive at the same time uses.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from loopwright.graph.layouts import Alias, Chosen, Placed, PlacedKernel, StoredValue

ALIGNMENT = 64


class SlotKind(enum.Enum):
    """Where an argument of a kernel lies."""

    INPUT = "input"
    OUTPUT = "output"
    MEMORY = "memory"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Slot:
    """An address: `offset` bytes into an input or output of the model, or into its memory.

    `index` is the number of the input, output or constant.
    """

    kind: SlotKind
    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A kernel and where each of its arguments lies; constants are named, in `constants`.

    `over` is the place of the input that its output is written over, if any.
    """

    call: PlacedKernel
    arguments: tuple[Slot, ...]
    over: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The calls in order. `constants` are the (call, place) of every constant argument.

    `nbytes` is the memory that values between kernels take, `sum_bytes` what they would take
    without sharing.
    """

    calls: tuple[PlannedCall, ...]
    constants: tuple[tuple[int, int], ...]
    nbytes: int
    sum_bytes: int


def plan(
    placed: Placed,
    alignment: int,
    overwritable: Callable[[Chosen], Sequence[int]],
) -> MemoryPlan:
    """Where everything lies; parts of concatenations are multiples of `alignment` bytes.

    Args:
        overwritable: the places of inputs that a kernel may write its output over.
    """
    homes = _Homes(placed)
    for step in placed.steps:
        if isinstance(step, Alias):
            homes.move(step.output, step.source, 0)
    joined = _join(placed, homes, alignment)
    calls = [s for s in placed.steps if isinstance(s, PlacedKernel) and s.name not in joined]
    over = _overwrite(placed, homes, calls, overwritable)
    offsets, nbytes = _allocate(placed, homes, calls)
    planned: list[PlannedCall] = []
    constants: list[tuple[int, int]] = []
    for number, call in enumerate(calls):
        slots = []
        for place, key in enumerate((*call.inputs, *call.outputs)):
            if place in call.constants and place < len(call.inputs):
                slots.append(Slot(SlotKind.CONSTANT, len(constants), 0))
                constants.append((number, place))
                continue
            root, offset = homes.find(key)
            slots.append(_slot(placed, root, offset, offsets))
        planned.append(PlannedCall(call, tuple(slots), over.get(call.name)))
    return MemoryPlan(tuple(planned), tuple(constants), nbytes, _sum_bytes(placed))


def _sum_bytes(placed: Placed) -> int:
    """Bytes of all values that kernels write, each on its own, but the model's outputs."""
    keys = {k for s in placed.steps if isinstance(s, PlacedKernel) for k in s.outputs}
    return sum(_padded(placed.stored[key]) for key in keys if key not in placed.outputs)


def _padded(stored: StoredValue) -> int:
    """Bytes that a value takes where the next one begins at a multiple of ALIGNMENT."""
    return -(-stored.nbytes // ALIGNMENT) * ALIGNMENT


def _slot(placed: Placed, root: str, offset: int, offsets: Mapping[str, int]) -> Slot:
    if root in placed.inputs:
        return Slot(SlotKind.INPUT, placed.inputs.index(root), offset)
    if root in placed.outputs:
        return Slot(SlotKind.OUTPUT, placed.outputs.index(root), offset)
    return Slot(SlotKind.MEMORY, 0, offsets[root] + offset)


@dataclass(slots=True)
class _Homes:
    """Which values lie inside of another one, and how many bytes into it."""

    placed: Placed
    inside: dict[str, tuple[str, int]] = field(default_factory=dict)

    def find(self, key: str) -> tuple[str, int]:
        """The value that has memory of its own, and the bytes into it where `key` begins."""
        offset = 0
        while key in self.inside:
            key, more = self.inside[key]
            offset += more
        return key, offset

    def move(self, key: str, home: str, offset: int) -> None:
        """Let `key`, which has memory of its own, lie in `home`; an output keeps its own."""
        if key in self.placed.outputs:
            root, _ = self.find(home)
            self.inside[root] = (key, 0)
        else:
            self.inside[key] = (home, offset)

    def stored(self, key: str) -> StoredValue:
        """The value called `key`."""
        return self.placed.stored[key]


def _join(placed: Placed, homes: _Homes, alignment: int) -> set[str]:
    """Let parts of concatenations lie in them. Returns the calls that then need not run."""
    joins = [s for s in placed.steps if isinstance(s, PlacedKernel) and s.join_axis is not None]
    joins.sort(key=lambda call: -homes.stored(call.outputs[0]).nbytes)
    needless = set()
    for call in joins:
        if _is_in_stretches(call, homes, alignment) and _put_together(call, placed, homes):
            needless.add(call.name)
    return needless


def _is_in_stretches(call: PlacedKernel, homes: _Homes, alignment: int) -> bool:
    """Whether the parts are stretches of the result, one after another."""
    axis, whole = call.join_axis, homes.stored(call.outputs[0])
    physical = whole.layout.physical_shape(whole.value.shape)
    leading = next((n for n, extent in enumerate(physical) if extent > 1), 0)
    if whole.layout.parts[leading].dim != axis or call.constants:
        return False
    parts = [homes.stored(key) for key in call.inputs]
    same = all(part.layout == whole.layout for part in parts)
    aligned = all(part.nbytes % alignment == 0 for part in parts)
    full = not any(part.is_padded for part in parts[:-1])  # the next one begins where a block does
    return same and aligned and full and sum(part.nbytes for part in parts) == whole.nbytes


def _put_together(call: PlacedKernel, placed: Placed, homes: _Homes) -> bool:
    """Let the parts lie in the result, or the result where its parts lie; False if neither can."""
    result = call.outputs[0]
    found = [homes.find(key) for key in call.inputs]
    sizes = [homes.stored(key).nbytes for key in call.inputs]
    if len(set(call.inputs)) != len(call.inputs):
        return False
    free = result not in homes.inside and result not in placed.outputs
    root, begin = found[0]
    expected = begin
    for (other, offset), size in zip(found, sizes, strict=True):
        if other != root or offset != expected:
            break
        expected += size
    else:
        if len(found) > 1 and free:
            homes.move(result, root, begin)
            return True
    taken = {*placed.inputs, *placed.outputs}
    fresh = all(
        offset == 0 and own not in taken and homes.stored(own).nbytes == size
        for (own, offset), size in zip(found, sizes, strict=True)
    )
    if not fresh or len({own for own, _ in found}) != len(found):
        return False
    target, offset = homes.find(result)
    if any(own == target for own, _ in found):
        return False
    for (own, _), size in zip(found, sizes, strict=True):
        homes.inside[own] = (target, offset)
        offset += size
    return True


def _overwrite(
    placed: Placed,
    homes: _Homes,
    calls: Sequence[PlacedKernel],
    overwritable: Callable[[Chosen], Sequence[int]],
) -> dict[str, int]:
    """Let outputs lie in inputs that end with their call; the places of these, by call."""
    found: dict[str, int] = {}
    lives = _lives(homes, calls)
    fixed = {*placed.inputs, *placed.outputs}
    for number, call in enumerate(calls):
        if len(call.outputs) != 1 or call.join_axis is not None:
            continue
        (output,) = call.outputs
        if output in homes.inside or output in fixed or lives[output][0] != number:
            continue
        read = [homes.find(key)[0] for key in call.inputs]
        for place in overwritable(call.chosen):
            key, root = call.inputs[place], read[place]
            alone = place not in call.constants and read.count(root) == 1 and key == root
            whole = homes.stored(root).nbytes == homes.stored(output).nbytes
            if alone and whole and root not in fixed and lives[root][1] == number:
                homes.move(output, root, 0)
                lives[root] = (lives[root][0], lives[output][1])
                found[call.name] = place
                break
    return found


def _lives(homes: _Homes, calls: Sequence[PlacedKernel]) -> dict[str, tuple[int, int]]:
    """The first and the last call that uses each value with memory of its own."""
    lives: dict[str, tuple[int, int]] = {}
    for number, call in enumerate(calls):
        for place, key in enumerate((*call.inputs, *call.outputs)):
            if place in call.constants and place < len(call.inputs):
                continue
            root, _ = homes.find(key)
            first, _ = lives.get(root, (number, number))
            lives[root] = (first, number)
    return lives


def _allocate(
    placed: Placed, homes: _Homes, calls: Sequence[PlacedKernel]
) -> tuple[dict[str, int], int]:
    """An offset for every value with memory of its own, and the bytes of them all."""
    lives = _lives(homes, calls)
    own = [k for k in lives if k not in placed.inputs and k not in placed.outputs]
    own.sort(key=lambda key: (-homes.stored(key).nbytes, lives[key]))
    offsets: dict[str, int] = {}
    ends: dict[str, int] = {}
    for key in own:
        size = _padded(homes.stored(key))
        first, last = lives[key]
        busy = sorted(
            (offsets[other], ends[other])
            for other in offsets
            if lives[other][0] <= last and first <= lives[other][1]
        )
        at = 0
        for begin, end in busy:
            if at + size <= begin:
                break
            at = max(at, end)
        offsets[key], ends[key] = at, at + size
    return offsets, max(ends.values(), default=0)

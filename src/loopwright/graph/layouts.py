"""Where every value of a model lies in memory, and the changes of layout between kernels.

The template of a convolution or product says, with its config, how it wants its arguments. Other
kernels follow: their output is blocked as their input is, where channels stay channels. What is
left are changes of layout, one for each value and layout however many kernels read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from loopwright.graph.fuse import Fused, FusedKernel, Join, ViewStep
from loopwright.graph.ir import Value
from loopwright.ir.dtype import U8
from loopwright.layout import Layout
from loopwright.space.config import Config
from loopwright.target.union import Target
from loopwright.te.tensor import Tensor
from loopwright.templates.apply import good_config, scheduled
from loopwright.templates.relayout import change_task
from loopwright.templates.task import Task

Layouts: TypeAlias = tuple[tuple[str, Layout], ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """How a kernel is computed.

    `origin` says where the config comes from: tuned, transferred, default or copy; `device` is the
    machine whose record it is, and `expected_ns` what it measured.
    """

    task: Task
    config: Config
    origin: str
    expected_ns: float | None = None
    device: str = ""

    def layouts(self) -> Mapping[str, Layout]:
        """How each argument lies in memory."""
        schedule = scheduled(self.task, self.config)
        return {tensor.name: schedule.layout(tensor.name) for tensor in schedule.workload.args}


Choose: TypeAlias = Callable[[FusedKernel, Layouts], Chosen]
"""The way to compute a (fused) kernel, given layouts that are fixed already."""


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A value in memory: `key` names value and layout."""

    key: str
    value: Value
    layout: Layout

    @property
    def nbytes(self) -> int:
        """Bytes of the memory, padding of blocked dimensions included."""
        total = self.value.dtype.nbytes
        for extent in self.layout.physical_shape(self.value.shape):
            total *= extent
        return total

    @property
    def is_padded(self) -> bool:
        """Whether its last block of a dimension is not full."""
        physical = self.layout.physical_shape(self.value.shape)
        return math.prod(physical) != math.prod(self.value.shape)

    @property
    def is_row_major(self) -> bool:
        """Whether the elements lie in row-major order."""
        return self.layout.is_row_major(self.value.shape)


@dataclass(frozen=True, slots=True)
class PlacedKernel:
    """One kernel with the memory that it reads and writes.

    `constants` are the inputs that come ready from the file, by place.
    """

    name: str
    nodes: tuple[str, ...]
    chosen: Chosen
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: frozenset[int] = frozenset()
    join_axis: int | None = None
    """Of a concatenation: it need not run where its inputs are written into its output."""


@dataclass(frozen=True, slots=True)
class Alias:
    """`output` is the memory of `source`."""

    source: str
    output: str


PlacedStep: TypeAlias = PlacedKernel | Alias


@dataclass(frozen=True, slots=True)
class Placed:
    """The steps of a model over stored values; `inputs` and `outputs` are keys of plain ones."""

    steps: tuple[PlacedStep, ...]
    stored: Mapping[str, StoredValue]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def place(fused: Fused, choose: Choose, target: Target, threads: int) -> Placed:
    """The steps of `fused` with a layout for every value, and changes of layout between them."""
    placer = _Placer(fused, choose, target, threads)
    for name in fused.graph.inputs:
        placer.put(name, Layout.plain(len(fused.values[name].shape)))
    for step in fused.steps:
        match step:
            case ViewStep():
                placer.view(step)
            case Join(kernel=kernel, axis=axis):
                placer.kernel(kernel, axis)
            case FusedKernel():
                placer.kernel(step, None)
    outputs = tuple(placer.output(name) for name in fused.graph.outputs)
    return Placed(tuple(placer.steps), placer.stored, tuple(fused.graph.inputs), outputs)


@dataclass(slots=True)
class _Placer:
    fused: Fused
    choose: Choose
    target: Target
    threads: int
    steps: list[PlacedStep] = field(default_factory=list)
    stored: dict[str, StoredValue] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)  # how a value was made
    claimed: set[str] = field(default_factory=set)  # whose memory is an output's
    scheduled: dict[int, tuple[Chosen, Mapping[str, Layout]]] = field(default_factory=dict)

    def put(self, name: str, layout: Layout) -> str:
        """The key of the value `name` made in `layout`."""
        self.layouts[name] = layout
        self.stored[name] = StoredValue(name, self.fused.values[name], layout)
        return name

    def is_constant(self, name: str) -> bool:
        """Whether the value comes with the model."""
        return name in self.fused.constants

    def view(self, step: ViewStep) -> None:
        """Give the memory of a value another shape."""
        source = self.row_major(step.source)
        shape = self.fused.values[step.output].shape
        self.put(step.output, Layout.plain(len(shape)))
        self.steps.append(Alias(source, step.output))

    def kernel(self, kernel: FusedKernel, axis: int | None) -> None:
        """Compute a kernel; its inputs are brought into the layouts it wants."""
        chosen = self.choose(kernel, given_layouts(self.fused, kernel, axis, self.layouts))
        wanted, made = argument_layouts(self.fused, kernel, chosen, self.layouts_of(chosen))
        inputs, constants = [], set()
        for place_, (name, layout) in enumerate(zip(kernel.inputs, wanted, strict=True)):
            if self.is_constant(name):
                constants.add(place_)
                inputs.append(name)
            else:
                inputs.append(self.changed(name, layout))
        outputs = [self.put(name, at) for name, at in zip(kernel.outputs, made, strict=True)]
        self.steps.append(
            PlacedKernel(
                kernel.name,
                kernel.nodes,
                chosen,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                constants=frozenset(constants),
                join_axis=axis,
            )
        )

    def layouts_of(self, chosen: Chosen) -> Mapping[str, Layout]:
        """The layouts of its arguments; found once, for kernels that are alike share a choice."""
        if id(chosen) not in self.scheduled:
            self.scheduled[id(chosen)] = chosen, chosen.layouts()
        return self.scheduled[id(chosen)][1]

    def row_major(self, name: str) -> str:
        """The key of a value in row-major order."""
        return self.changed(name, Layout.plain(len(self.fused.values[name].shape)))

    def changed(self, name: str, layout: Layout) -> str:
        """The key of a value in `layout`; it is copied there if it is not so already."""
        value = self.fused.values[name]
        if name not in self.layouts:  # a constant that is not a kernel's argument
            self.put(name, Layout.plain(len(value.shape)))
        if layout.same_memory(self.layouts[name], value.shape):
            return name
        key = f"{name}%{layout}"
        if key not in self.stored:
            self.stored[key] = StoredValue(key, value, layout)
            chosen = change(value, self.layouts[name], layout, self.target, self.threads)
            self.steps.append(PlacedKernel(key, (), chosen, (name,), (key,)))
        return key

    def output(self, name: str) -> str:
        """The key of an output of the model: plain, and memory of its own."""
        key = self.row_major(name)
        root = self._root(key)
        if root in self.claimed or root in self.fused.graph.inputs or self.is_constant(root):
            value = self.fused.values[name]
            plain = Layout.plain(len(value.shape))
            copied = f"{name}%copy{len(self.claimed)}"
            self.stored[copied] = StoredValue(copied, value, plain)
            if self.stored[copied].nbytes:  # of a tensor without elements there is nothing to copy
                chosen = change(value, plain, plain, self.target, self.threads)
                constant = frozenset({0} if self.is_constant(name) else ())
                self.steps.append(PlacedKernel(copied, (), chosen, (key,), (copied,), constant))
            key = root = copied
        self.claimed.add(root)
        return key

    def _root(self, key: str) -> str:
        """The value whose memory `key` is."""
        for step in reversed(self.steps):
            if isinstance(step, Alias) and step.output == key:
                key = step.source
        return key


def given_layouts(
    fused: Fused, kernel: FusedKernel, axis: int | None, layouts: Mapping[str, Layout]
) -> Layouts:
    """What is fixed of a fused kernel's layouts: its inputs as they are, its outputs as is best.

    Args:
        axis: of a concatenation, else None.
        layouts: how the values made so far lie.
    """
    if kernel.operator != "fused":
        return ()
    found: dict[str, Layout] = {}
    block = None
    for name, tensor in zip(kernel.inputs, kernel.workload.inputs, strict=True):
        if name in fused.constants or tensor.shape != fused.values[name].shape:
            continue
        layout = layouts[name]
        if block is None and tensor.ndim == 4 and not layout.is_row_major(tensor.shape):
            block = layout
        found[tensor.name] = layout
    if block is not None and axis == 1:
        _join_blocked(kernel, block, found)
    for tensor in kernel.workload.outputs:
        if block is not None and kernel.keeps_channels and tensor.ndim == 4:
            found[tensor.name] = block
    return tuple((name, layout) for name, layout in found.items() if not layout.is_plain)


def _join_blocked(kernel: FusedKernel, block: Layout, found: dict[str, Layout]) -> None:
    """Ask for the parts of a concatenation in one layout, if each fills whole blocks."""
    size = max(part.extent for part in block.parts)
    if all(tensor.shape[1] % size == 0 for tensor in kernel.workload.inputs):
        for tensor in kernel.workload.inputs:
            found[tensor.name] = block


def argument_layouts(
    fused: Fused, kernel: FusedKernel, chosen: Chosen, layouts: Mapping[str, Layout]
) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    """The layouts of the values that a kernel reads, and of those that it makes.

    `layouts` are those of the arguments of what was `chosen`. An argument of another shape than the
    value's is the value in row-major order.
    """

    def of(name: str, tensor: Tensor) -> Layout:
        shape = fused.values[name].shape
        return layouts[tensor.name] if tensor.shape == shape else Layout.plain(len(shape))

    workload = chosen.task.workload
    return (
        tuple(of(n, t) for n, t in zip(kernel.inputs, workload.inputs, strict=True)),
        tuple(of(n, t) for n, t in zip(kernel.outputs, workload.outputs, strict=True)),
    )


def change(value: Value, before: Layout, after: Layout, target: Target, threads: int) -> Chosen:
    """How a value is copied from one layout into another."""
    task = change_task(
        value.shape,
        value.dtype,
        before,
        after,
        target,
        threads=threads,
        alignment=alignment(target),
    )
    return Chosen(task, good_config(task), "copy")


def alignment(target: Target) -> int:
    """Bytes that values inside a model are aligned to: one vector, a block of channels."""
    return min(64, target.lanes(U8))


def renamed(call: PlacedKernel, keys: Mapping[str, str]) -> PlacedKernel:
    """`call` on other memory."""
    return replace(
        call,
        inputs=tuple(keys.get(key, key) for key in call.inputs),
        outputs=tuple(keys.get(key, key) for key in call.outputs),
    )

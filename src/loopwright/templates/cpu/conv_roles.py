"""Which tensor of a convolution workload is which."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.errors import TemplateError
from loopwright.ir import walk
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload


@dataclass(frozen=True, slots=True)
class ConvRoles:
    """`pad` is the padded copy of `data`, if there is one; `output` is `conv` or its epilogue.

    `added` are inputs of the output's shape that the epilogue reads.
    """

    data: Tensor
    weight: Tensor
    conv: Tensor
    pad: Tensor | None
    output: Tensor
    added: tuple[Tensor, ...]

    @property
    def padded(self) -> Tensor:
        """What the convolution reads: the padded data, or the data itself."""
        return self.data if self.pad is None else self.pad


def find_roles(workload: Workload, reduce_axes: int, kind: str) -> ConvRoles:
    """The roles in a workload whose one reduction is a convolution over that many `reduce_axes`.

    Raises: TemplateError when it is not; `kind` says what it should be.
    """
    reductions = [t for t in workload.stages if t.is_reduction]
    if len(reductions) != 1 or reductions[0].ndim != 4:
        raise TemplateError(f"{workload.name} is not {kind}")
    conv = reductions[0]
    moving = moving_inputs(conv)
    sources = [t for t in conv.inputs if t.name in moving]
    weights = [t for t in conv.inputs if t.name not in moving]
    if len(conv.reduce_axis) != reduce_axes or len(sources) != 1 or len(weights) != 1:
        raise TemplateError(f"{workload.name} is not {kind}")
    source = sources[0]
    pad = source if source.axis else None
    if pad is not None and len(pad.inputs) != 1:
        raise TemplateError(f"{workload.name}: {pad.name} must read one tensor, the data")
    data = source if pad is None else pad.inputs[0]
    return ConvRoles(data, weights[0], conv, pad, workload.outputs[0], added_to(workload, conv))


def added_to(workload: Workload, conv: Tensor) -> tuple[Tensor, ...]:
    """The inputs of the output's shape that the epilogue of `conv` reads."""
    output = workload.outputs[0]
    read = output.inputs if output is not conv else ()
    return tuple(t for t in read if not t.axis and t.shape == output.shape)


def moving_inputs(conv: Tensor) -> set[str]:
    """What a convolution reads at indices that move with its output: not its weight."""
    return _read_along(conv, conv.axis[2].name) | _read_along(conv, conv.axis[3].name)


def _read_along(conv: Tensor, axis: str) -> set[str]:
    """The tensors that the body reads at indices that move with `axis`."""
    if not isinstance(conv.op, Compute):
        return set()
    return {
        load.buffer.name
        for load in walk.loads(conv.op.body)
        if any(axis in walk.names(index) for index in load.indices)
    }

"""PyTorch as a peer: the fastest of the ways it can compute an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch.nn import functional

from loopwright.ops.registry import FORMS
from loopwright.peers.engine import batch_size, operands, time_calls
from loopwright.peers.wire import OpSpec

Call: TypeAlias = Callable[[], object]
Step: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
_PROBE_S = 0.02


class Torch:
    """PyTorch on the CPU with `threads` threads, without gradients."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._call: Call = lambda: None

    def load(self, spec: OpSpec) -> str:
        """Make the operator ready in its fastest form: plain, channels last, or packed."""
        forms = _forms(spec)
        times = {}
        for name, call in forms.items():
            calls = batch_size(_silent(call), _PROBE_S)
            times[name] = min(time_calls(_silent(call), calls, 3))
        fastest = min(times, key=times.__getitem__)
        self._call = forms[fastest]
        return f"torch {torch.__version__} {fastest}"

    def run(self) -> None:
        """Compute the operator once."""
        self._call()

    def kernel_ns(self, repeats: int) -> Sequence[float]:
        """Nothing: PyTorch's profile does not tell the kernel from the layout changes around it."""
        del repeats
        return ()


def _silent(call: Call) -> Callable[[], None]:
    def run() -> None:
        call()

    return run


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _forms(spec: OpSpec) -> Mapping[str, Call]:
    """The ways to compute `spec`, by name."""
    found = operands(spec)
    data, weight = torch.from_numpy(found.data), torch.from_numpy(found.weight)
    bias = None if found.bias is None else torch.from_numpy(found.bias)
    relu: Step = functional.relu if spec.flag("relu") else _same
    form = FORMS.get(spec.operator)
    match form and form.torch:
        case "conv2d":
            return _convolutions(spec, data, weight, bias, relu)
        case "linear":
            return {"plain": lambda: relu(functional.linear(data, weight, bias))}
        case "matmul":
            lhs = data.mT if spec.flag("transpose_a") else data
            rhs = weight.mT if spec.flag("transpose_b") else weight
            return {"plain": lambda: torch.matmul(lhs, rhs)}
        case _:
            raise NotImplementedError(f"no PyTorch call for {spec.operator}")


def _convolutions(
    spec: OpSpec,
    data: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    relu: Step,
) -> Mapping[str, Call]:
    top, left, bottom, right = spec.shape("padding")
    if (top, left) != (bottom, right):
        data = functional.pad(data, (left, right, top, bottom))
        top = left = 0
    groups = data.shape[1] if spec.operator == "depthwise_conv2d" else spec.integer("groups", 1)
    strides, dilation, pads = spec.shape("strides"), spec.shape("dilation"), (top, left)
    last = {"memory_format": torch.channels_last}
    data_last, weight_last = data.contiguous(**last), weight.contiguous(**last)

    def conv(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return relu(
            functional.conv2d(
                x, w, bias, stride=strides, padding=pads, dilation=dilation, groups=groups
            )
        )

    forms: dict[str, Call] = {
        "plain": lambda: conv(data, weight),
        "channels last": lambda: conv(data_last, weight_last),
    }
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, pads, strides, dilation, groups, data.shape
        )
        attr = "relu" if spec.flag("relu") else "none"

        def fused(x: torch.Tensor) -> object:
            return torch.ops.mkldnn._convolution_pointwise(
                *(x, packed, bias, pads, strides, dilation, groups, attr, [], "")
            )

        forms["packed"] = lambda: fused(data)
        forms["packed, channels last"] = lambda: fused(data_last)
    return forms

"""The twelve convolutions of ResNet-18 at batch 1 that everything is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import loopwright as lw
from loopwright.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, `kernel` x `kernel` over `size` x `size`, padded by half the kernel."""

    name: str
    size: int
    inputs: int
    outputs: int
    kernel: int
    stride: int

    @property
    def shape(self) -> str:
        """For a person: `56x56 64>64 3x3`, and `/2` for a stride of 2."""
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return (
            f"{self.size}x{self.size} {self.inputs}>{self.outputs} "
            f"{self.kernel}x{self.kernel}{stride}"
        )

    def task(self, threads: int = 1) -> lw.Task:
        """The task of this layer on this machine."""
        pad = self.kernel // 2
        return lw.task(
            "conv2d",
            data=(1, self.inputs, self.size, self.size),
            weight=(self.outputs, self.inputs, self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=(pad, pad, pad, pad),
            target="cpu",
            threads=threads,
        )


LAYERS = (
    Layer("C1", 224, 3, 64, 7, 2),
    Layer("C2", 56, 64, 64, 3, 1),
    Layer("C3", 56, 64, 64, 1, 1),
    Layer("C4", 56, 64, 128, 3, 2),
    Layer("C5", 56, 64, 128, 1, 2),
    Layer("C6", 28, 128, 128, 3, 1),
    Layer("C7", 28, 128, 256, 3, 2),
    Layer("C8", 28, 128, 256, 1, 2),
    Layer("C9", 14, 256, 256, 3, 1),
    Layer("C10", 14, 256, 512, 3, 2),
    Layer("C11", 14, 256, 512, 1, 2),
    Layer("C12", 7, 512, 512, 3, 1),
)


def select(text: str) -> tuple[Layer, ...]:
    """The layers that `text` names: `all`, or names such as `C2,C6`.

    Raises: ConfigError for a name that is none.
    """
    if text == "all":
        return LAYERS
    known = {layer.name: layer for layer in LAYERS}
    names = text.split(",")
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no layer {name!r}; there are {', '.join(known)}")
    return tuple(known[name] for name in names)

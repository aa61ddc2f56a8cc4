"""What pages and pictures draw: curves of the best so far, and short names of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopwright.records.curve import Curve

_UNSAID = {
    "strides=1x1",
    "padding=0x0x0x0",
    "dilation=1x1",
    "groups=1",
    "bias=False",
    "relu=False",
    "dtype=float32",
}


@dataclass(frozen=True, slots=True)
class CurveLine:
    """Best-so-far in GFLOP/s by trial: the median over the runs, and the range they span."""

    label: str
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def line_of(curve: Curve, label: str) -> CurveLine:
    """`curve` as it is drawn."""
    return CurveLine(
        label,
        tuple(curve.median.tolist()),
        tuple(curve.gflops.min(axis=0).tolist()),
        tuple(curve.gflops.max(axis=0).tolist()),
    )


def short(task: str) -> str:
    """The name of a task without its usual attributes."""
    words = []
    for word in task.split():
        name, _, value = word.partition("=")
        extents = value.split("x")
        if word in _UNSAID:
            continue
        if name in ("data", "a", "ops"):
            words.append(value)
        elif name in ("weight", "b", "depthwise"):
            words.append(f"{name[0]} {value}")
        elif name in ("strides", "padding", "dilation"):
            words.append(name[0] + (extents[0] if len(set(extents)) == 1 else value))
        elif name.endswith("epilogue"):
            words.append(f"+ {value}")
        else:
            words.append(name.replace("_", " ") if value == "True" else word)
    return " ".join(words)

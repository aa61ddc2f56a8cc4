"""Drawing best-so-far curves to PNG and SVG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright.errors import EnvironmentFailure, UserError
from loopwright.report.drawn import CurveLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Distinct for colour-blind readers too (Okabe and Ito's palette), the same in every panel.
_COLOURS = {
    "model": "#0072B2",
    "random": "#999999",
    "genetic": "#E69F00",
    "grid": "#009E73",
    "autotvm": "#CC79A7",
}
_MORE = ("#56B4E9", "#D55E00", "#000000")
_BASE = "#D55E00"


@dataclass(frozen=True, slots=True)
class Panel:
    """One task: its lines, and base lines as (name, GFLOP/s)."""

    title: str
    lines: tuple[CurveLine, ...]
    bases: tuple[tuple[str, float], ...] = ()


def draw(panels: Sequence[Panel], out: Path) -> tuple[str, ...]:
    """Draw `panels` in a grid; the files written, `out` with .png and .svg.

    Raises: EnvironmentFailure when matplotlib is not installed, UserError when a file cannot be
        written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentFailure(
            "drawing needs the package matplotlib; pip install 'loopwright[plot]'"
        ) from error
    columns = min(3, math.ceil(math.sqrt(len(panels))))
    rows = math.ceil(len(panels) / columns)
    stem = out.with_suffix("") if out.suffix in (".png", ".svg") else out
    with rc_context({"font.size": 9, "axes.titlesize": 9, "svg.hashsalt": "loopwright"}):
        size = (4.4 * columns + 0.6, 3.1 * rows + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        files = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
        try:
            for file in files:
                metadata = {"Date": None} if file.suffix == ".svg" else None
                figure.savefig(file, dpi=150, metadata=metadata)
        except OSError as error:
            raise UserError(f"{stem}.png cannot be written: {error.strerror}") from error
    return tuple(map(str, files))


def _draw_panel(axis: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    spare = iter(_MORE)
    for line in panel.lines:
        colour = _COLOURS.get(line.label) or next(spare, "#000000")
        trials = range(1, len(line.median) + 1)
        if line.low != line.high:
            axis.fill_between(
                trials, line.low, line.high, step="post", color=colour, alpha=0.15, lw=0
            )
        axis.step(trials, line.median, where="post", color=colour, lw=1.8, label=line.label)
    for name, gflops in panel.bases:
        axis.axhline(gflops, color=_BASE, lw=1.2, ls=(0, (4, 3)), label=name)
    axis.set_title("\n".join(textwrap.wrap(panel.title, 52)), loc="left")
    axis.set_xlabel("trials")
    axis.set_ylabel("best so far, GFLOP/s")
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    reached = [max(line.high, default=0.0) for line in panel.lines]
    axis.set_ylim(0, 1.08 * max(*reached, *(gflops for _, gflops in panel.bases), 1e-9))
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", lw=0.5, alpha=0.4)
    axis.legend(frameon=False, loc="lower right")

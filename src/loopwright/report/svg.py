"""Small charts as SVG text for a page: bars and step curves, coloured by the page's style sheet.

Everything that is text is escaped; marks carry a `<title>`, which browsers show on hovering.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from loopwright.report.drawn import CurveLine

_Axis: TypeAlias = Callable[[float], float]
_ROW, _GAP, _TEXT = 20, 4, 7.0
_VALUE_WIDTH = 120
_PLOT_WIDTH, _PLOT_HEIGHT = 330, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 12, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: `value` is its length, `text` what stands at its end; `css` is its class."""

    label: str
    value: float
    text: str
    css: str = "one"
    hint: str = ""


def bars(rows: Sequence[Bar], title: str, *, width: int = 960) -> str:
    """A chart of horizontal bars, from the top."""
    longest = max((len(row.label) for row in rows), default=0)
    letters = min(longest, int((width // 2 - 12) / _TEXT))
    left = math.ceil(letters * _TEXT) + 12
    room = width - left - _VALUE_WIDTH
    most = max((row.value for row in rows), default=0.0) or 1.0
    height = len(rows) * (_ROW + _GAP) + _GAP
    parts = [_open(width, height, title)]
    for number, row in enumerate(rows):
        y = _GAP + number * (_ROW + _GAP)
        length = max(1.0, row.value / most * room)
        middle = y + _ROW / 2 + 4
        parts.append(
            f"<g><title>{escape(row.hint or f'{row.label}: {row.text}')}</title>"
            f'<text class="label" x="{left - 8}" y="{middle:g}" text-anchor="end">'
            f"{escape(_cut(row.label, letters))}</text>"
            f'<rect class="{row.css}" x="{left}" y="{y}" width="{length:.1f}" height="{_ROW}" '
            'rx="2"/>'
            f'<text class="value" x="{left + length + 6:.1f}" y="{middle:g}">'
            f"{escape(row.text)}</text></g>"
        )
    return "".join([*parts, "</svg>"])


def curves(lines: Sequence[CurveLine], title: str, *, level: float | None = None) -> str:
    """Step curves over trials; `level` is drawn as a dashed line across."""
    trials = max((len(line.median) for line in lines), default=1)
    most = max((max(line.high, default=0.0) for line in lines), default=0.0)
    step, top = _scale(max(most, level or 0.0))
    parts = [_open(_PLOT_WIDTH, _PLOT_HEIGHT, title)]
    right, bottom = _PLOT_WIDTH - _RIGHT, _PLOT_HEIGHT - _BOTTOM

    def x(trial: float) -> float:
        return _LEFT + trial / max(trials, 1) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - value / top * (bottom - _TOP)

    for tick in range(round(top / step) + 1):
        at = y(tick * step)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
            f"{tick * step:g}</text>"
        )
    parts.append(
        f'<text class="tick" x="{_LEFT}" y="{bottom + 16}">0</text>'
        f'<text class="tick" x="{right}" y="{bottom + 16}" text-anchor="end">'
        f"{trials} trials</text>"
    )
    for number, line in enumerate(lines):
        if line.low != line.high:
            edge = [*_steps(line.high, x, y), *reversed(_steps(line.low, x, y))]
            parts.append(f'<polygon class="band {css_class(number)}" points="{" ".join(edge)}"/>')
    for number, line in enumerate(lines):
        end = line.label
        if line.median:
            end += f": {line.median[-1]:.1f} GFLOP/s"
        points = " ".join(_steps(line.median, x, y))
        parts.append(
            f'<g><title>{escape(end)}</title><polyline class="curve {css_class(number)}" '
            f'points="{points}"/></g>'
        )
    if level is not None:
        parts.append(
            f"<g><title>in the model: {level:.1f} GFLOP/s</title>"
            f'<line class="level" x1="{_LEFT}" y1="{y(level):.1f}" x2="{right}" '
            f'y2="{y(level):.1f}"/></g>'
        )
    return "".join([*parts, "</svg>"])


def css_class(number: int) -> str:
    """The class in the style sheet of the curve with that number in its chart."""
    return f"c{number % 6}"


def _steps(values: Sequence[float], x: _Axis, y: _Axis) -> list[str]:
    """Points of a curve that keeps each value for one trial."""
    points = []
    for trial, value in enumerate(values):
        points += [f"{x(trial):.1f},{y(value):.1f}", f"{x(trial + 1):.1f},{y(value):.1f}"]
    return points


def _scale(most: float) -> tuple[float, float]:
    """A round step, and the first multiple of it that is not below `most`: four or five steps."""
    if most < sys.float_info.min:
        return 1.0, 1.0
    rough = most / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= rough)
    return step, math.ceil(most / step - 1e-9) * step


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">'
    )


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: max(1, letters - 1)] + "\u2026"

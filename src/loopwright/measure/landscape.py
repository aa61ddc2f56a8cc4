"""Recorded landscapes: every config of a small space with its time.

A file is gzipped JSON: what was measured, the knobs with their recorded values, for each knob a
column of value indices, and the column of times, null where the config failed.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from loopwright import jsonio
from loopwright.errors import ConfigError, RecordsError
from loopwright.outcome import Failed, FailureKind, FailureStage, Outcome, Timed
from loopwright.sched.extent import IntArray
from loopwright.space.config import Config
from loopwright.space.knobs import AnnotateKnob, ChoiceKnob, Knob, ReorderKnob, SplitKnob, narrowed
from loopwright.space.restricted import RestrictedSpace
from loopwright.space.space import Space

FORMAT = 1
Attr: TypeAlias = int | float | str | bool | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a landscape was measured on; enough to recreate the task."""

    operator: str
    attrs: Mapping[str, Attr]
    template: str
    version: int
    workload: str
    target: str
    device: str
    threads: int
    flops: int


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """Measured configs: `points` int64 [N, K] of `space`, with `ns` float64 [N] per call.

    `ns` is infinite where the config failed; `failures` has the kind of failure by row.
    """

    name: str
    origin: Origin
    space: RestrictedSpace
    ns: npt.NDArray[np.float64]
    failures: Mapping[int, FailureKind]

    def __len__(self) -> int:
        return len(self.ns)

    @property
    def best_ns(self) -> float:
        """The fastest time."""
        return float(self.ns.min())

    @property
    def flops(self) -> int:
        """Arithmetic operations of one call."""
        return self.origin.flops

    def outcome(self, row: int, *, checked: bool = False) -> Outcome:
        """The outcome recorded for the config of `row`."""
        ns = float(self.ns[row])
        if math.isinf(ns):
            kind = self.failures.get(row, FailureKind.CRASH)
            return Failed(FailureStage.RUN, kind, "as it was recorded")
        return Timed(ns=(ns,), best_ns=ns, checked=checked)


def landscape(
    name: str, origin: Origin, space: Space, trials: Sequence[tuple[Config, Outcome]]
) -> Landscape:
    """The landscape of `trials`, configs of `space`, without infrastructure failures.

    Raises: ConfigError when a config is not of `space` or comes twice; RecordsError without trials.
    """
    kept = [(c, o) for c, o in trials if isinstance(o, Timed) or o.blames_candidate]
    if not kept:
        raise RecordsError(f"landscape {name}: it has no trials; measure some first")
    points = np.stack([space.encode(config) for config, _ in kept])
    knobs = [
        narrowed(knob, [knob.values[i] for i in np.unique(points[:, column])])
        for column, knob in enumerate(space.knobs)
    ]
    small = Space(knobs)
    points = np.stack([small.encode(config) for config, _ in kept])
    ns = np.array([o.best_ns if isinstance(o, Timed) else math.inf for _, o in kept])
    failures = {i: o.kind for i, (_, o) in enumerate(kept) if isinstance(o, Failed)}
    return Landscape(name, origin, RestrictedSpace(small, points), ns, failures)


class _Split(msgspec.Struct, tag="split", forbid_unknown_fields=True):
    name: str
    extent: int
    parts: int
    values: tuple[tuple[int, ...], ...]


class _Choice(msgspec.Struct, tag="choice", forbid_unknown_fields=True):
    name: str
    values: tuple[bool | int | str, ...]


class _Reorder(msgspec.Struct, tag="reorder", forbid_unknown_fields=True):
    name: str
    axes: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


class _Annotate(msgspec.Struct, tag="annotate", forbid_unknown_fields=True):
    name: str
    loops: tuple[str, ...]
    options: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    name: str
    origin: Origin
    knobs: tuple[_Split | _Choice | _Reorder | _Annotate, ...]
    columns: tuple[tuple[int, ...], ...]
    ns: tuple[float | None, ...]
    failures: tuple[tuple[int, FailureKind], ...]


def save(scape: Landscape, path: Path) -> None:
    """Write `scape` to `path`; equal landscapes give equal bytes."""
    file = _File(
        v=FORMAT,
        name=scape.name,
        origin=scape.origin,
        knobs=tuple(_to_wire(knob) for knob in scape.space.knobs),
        columns=tuple(tuple(column) for column in scape.space.points.T.tolist()),
        ns=tuple(round(ns, 1) if math.isfinite(ns) else None for ns in scape.ns.tolist()),
        failures=tuple(sorted(scape.failures.items(), key=lambda pair: pair[0])),
    )
    path.write_bytes(gzip.compress(jsonio.dumps(file).encode(), mtime=0))


def load(path: Path) -> Landscape:
    """The landscape in the file `path`.

    Raises: RecordsError when the file is not one, or not of this format.
    """
    try:
        file = jsonio.loads(gzip.decompress(path.read_bytes()), _File)
        return _from_file(file)
    except (OSError, EOFError, ValueError, zlib.error, ConfigError) as error:
        raise RecordsError(
            f"{path} is not a landscape of format {FORMAT}: {error}; record it anew with "
            "tools/record_landscape.py"
        ) from error


def _from_file(file: _File) -> Landscape:
    space = Space([_from_wire(knob) for knob in file.knobs])
    points: IntArray = np.array(file.columns, dtype=np.int64).T
    ns = np.array([math.inf if ns is None else ns for ns in file.ns])
    if file.v != FORMAT or points.shape != (len(ns), len(space.knobs)):
        raise ValueError(f"format {file.v} with points {points.shape} and {len(ns)} times")
    if (points < 0).any() or (points >= space.radices).any():
        raise ValueError("a point has a value that its knob does not")
    return Landscape(
        file.name, file.origin, RestrictedSpace(space, points), ns, dict(file.failures)
    )


def _to_wire(knob: Knob) -> _Split | _Choice | _Reorder | _Annotate:
    match knob:
        case SplitKnob():
            return _Split(knob.name, knob.extent, knob.parts, knob.values)
        case ChoiceKnob():
            return _Choice(knob.name, knob.values)
        case ReorderKnob():
            return _Reorder(knob.name, knob.axes, knob.values)
        case AnnotateKnob():
            return _Annotate(knob.name, knob.loops, knob.options, knob.values)


def _from_wire(knob: _Split | _Choice | _Reorder | _Annotate) -> Knob:
    match knob:
        case _Split():
            return SplitKnob(knob.name, knob.extent, knob.parts, "listed", candidates=knob.values)
        case _Choice():
            return ChoiceKnob(knob.name, knob.values)
        case _Reorder():
            return ReorderKnob(knob.name, knob.axes, knob.values)
        case _Annotate():
            return AnnotateKnob(knob.name, knob.loops, knob.options, knob.values)

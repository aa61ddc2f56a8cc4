"""A record: one trial, with everything needed to use it, compare it and repeat it.

In a file it is one JSON object per line. `v` is the format; a file of another format is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import msgspec

from loopwright import jsonio
from loopwright.errors import LoopwrightError, RecordsError
from loopwright.ops.attributes import AttrValue
from loopwright.outcome import Failed, FailureKind, FailureStage, Outcome, Provenance, Timed
from loopwright.space.config import Config, JsonValue
from loopwright.templates.task import Task

FORMAT = 1


@dataclass(frozen=True, slots=True)
class TaskKey:
    """What records are filed under; times are compared only within one key.

    `workload` is the key of the tensor expression, `target` of the instruction set, `device` the
    fingerprint of the machine.
    """

    workload: str
    template: str
    version: int
    target: str
    device: str
    threads: int


def task_key(task: Task, device: str) -> TaskKey:
    """The key that trials of `task` on the machine `device` are filed under."""
    return TaskKey(
        workload=task.workload_key,
        template=task.template.name,
        version=task.template.version,
        target=task.target.key,
        device=device,
        threads=task.threads,
    )


@dataclass(frozen=True, slots=True)
class Record:
    """One trial. `operator`, `attrs` and `flops` describe the workload to a person and to reports.

    `trial` counts the trials of this task in its tuning run from 0; `at_s` is seconds since 1970
    UTC; `software` names the versions that made the code.
    """

    key: TaskKey
    operator: str
    attrs: tuple[tuple[str, AttrValue], ...]
    flops: int
    config: Config
    outcome: Outcome
    policy: str
    seed: int
    trial: int
    at_s: float
    software: str

    @property
    def provenance(self) -> Provenance | None:
        """The lease and the device that it was measured under; None if not recorded."""
        return self.outcome.where

    @property
    def best_ns(self) -> float | None:
        """Nanoseconds per call, None for a trial that failed."""
        return self.outcome.best_ns if isinstance(self.outcome, Timed) else None

    @property
    def gflops(self) -> float | None:
        """Arithmetic operations per nanosecond, None for a trial that failed."""
        return self.flops / self.outcome.best_ns if isinstance(self.outcome, Timed) else None

    @property
    def digest(self) -> str:
        """A name for this trial: equal records have equal digests."""
        return jsonio.digest(_to_wire(self))


class _TimedWire(msgspec.Struct, tag="timed", tag_field="outcome", forbid_unknown_fields=True):
    ns: tuple[float, ...]
    best_ns: float
    checked: bool
    build_s: float
    run_s: float


class _FailedWire(msgspec.Struct, tag="failed", tag_field="outcome", forbid_unknown_fields=True):
    stage: FailureStage
    kind: FailureKind
    detail: str


_WireValue: TypeAlias = int | float | str | bool | tuple[int, ...]
_WireConfig: TypeAlias = dict[str, bool | int | str | list[int | str]]


class _Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    v: int
    key: TaskKey
    operator: str
    attrs: dict[str, _WireValue]
    flops: int
    config: _WireConfig
    result: _TimedWire | _FailedWire
    policy: str
    seed: int
    trial: int
    at_s: float
    software: str
    provenance: Provenance | None = None  # not in lines of older versions


class _Version(msgspec.Struct):
    """The part of a line that every format has."""

    v: int


def to_line(record: Record) -> str:
    """`record` as one line of JSON, without a newline."""
    return jsonio.line(_to_wire(record))


def from_line(line: str | bytes) -> Record:
    """The record that `line` holds.

    Raises: RecordsError that says which field is wrong, or that the format is another one.
    """
    try:
        version = jsonio.loads(line, _Version).v
        if version != FORMAT:
            raise RecordsError(
                f"record format {version}, this Loopwright reads format {FORMAT}; "
                "export it with the version that wrote it"
            )
        return _from_wire(jsonio.loads(line, _Wire))
    except (ValueError, LoopwrightError) as error:
        raise RecordsError(str(error)) from error


def _to_wire(record: Record) -> _Wire:
    outcome = record.outcome
    if isinstance(outcome, Timed):
        result: _TimedWire | _FailedWire = _TimedWire(
            outcome.ns, outcome.best_ns, outcome.checked, outcome.build_s, outcome.run_s
        )
    else:
        result = _FailedWire(outcome.stage, outcome.kind, outcome.detail)
    return _Wire(
        v=FORMAT,
        key=record.key,
        operator=record.operator,
        attrs=dict(record.attrs),
        flops=record.flops,
        config=cast("_WireConfig", record.config.to_json()),
        result=result,
        policy=record.policy,
        seed=record.seed,
        trial=record.trial,
        at_s=record.at_s,
        software=record.software,
        provenance=record.provenance,
    )


def _from_wire(wire: _Wire) -> Record:
    result = wire.result
    if isinstance(result, _TimedWire):
        if not 0 < result.best_ns < float("inf"):
            raise RecordsError(f"best_ns is {result.best_ns}, which is no time")
        outcome: Outcome = Timed(
            result.ns,
            result.best_ns,
            result.checked,
            result.build_s,
            result.run_s,
            wire.provenance,
        )
    else:
        outcome = Failed(result.stage, result.kind, result.detail, wire.provenance)
    return Record(
        key=wire.key,
        operator=wire.operator,
        attrs=tuple(wire.attrs.items()),
        flops=wire.flops,
        config=Config.from_json(cast("Mapping[str, JsonValue]", wire.config)),  # which checks it
        outcome=outcome,
        policy=wire.policy,
        seed=wire.seed,
        trial=wire.trial,
        at_s=wire.at_s,
        software=wire.software,
    )

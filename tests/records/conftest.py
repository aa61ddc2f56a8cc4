from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.records.record import Record, TaskKey
from loopwright.records.store import SqlStore
from loopwright.space.config import Config


class MakeRecord(Protocol):
    def __call__(self, trial: int = 0, ns: float | None = 1000.0, **key: str | int) -> Record: ...


@pytest.fixture
def make_record() -> MakeRecord:
    def make(trial: int = 0, ns: float | None = 1000.0, **key: str | int) -> Record:
        base = TaskKey("0123456789abcdef", "conv2d", 1, "x86-64-avx2-00000000", "here", 1)
        failed = Failed(FailureStage.RUN, FailureKind.CRASH, "signal 11")
        return Record(
            key=dataclasses.replace(base, **key),  # type: ignore[arg-type]  # fields by name
            operator="conv2d",
            attrs=(("weight", (64, 64, 3, 3)), ("data", (1, 64, 56, 56)), ("relu", True)),
            flops=2_000_000,
            config=Config.of({"tile_w": (4, 14), "unroll": True, "order": ("oc", "ow")}),
            outcome=failed if ns is None else Timed((ns, ns + 1), ns, checked=True),
            policy="model",
            seed=7,
            trial=trial,
            at_s=1e9 + trial,
            software="loopwright 0.1.0",
        )

    return make


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'r.db'}"


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with SqlStore(url) as opened:
        yield opened


@pytest.fixture
def read_all() -> Callable[[str], list[Record]]:
    def read(url: str) -> list[Record]:
        with SqlStore(url) as opened:
            return list(opened.query())

    return read

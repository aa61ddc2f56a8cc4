from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from loopwright.cli.main import main
from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.records.record import Record, TaskKey
from loopwright.records.store import SqlStore
from loopwright.space.config import Config


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str


class Run(Protocol):
    def __call__(self, *arguments: str) -> Result: ...


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command line in an empty folder, with nothing of the user's environment."""
    monkeypatch.chdir(tmp_path)
    names = ("CACHE_DIR", "RECORDS", "TRACE", "TRACEBACK", "TRACKER", "TOKEN", "CA", "CERT", "SIGN")
    for name in names:
        monkeypatch.delenv(f"LOOPWRIGHT_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(list(arguments))
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def records_url(tmp_path: Path) -> str:
    """Records of two policies and two seeds on one convolution."""
    key = TaskKey("0123456789abcdef", "conv2d", 1, "x86-64-avx2-00000000", "here", 1)
    rng = np.random.default_rng(0)
    attrs = (
        ("data", (1, 8, 10, 10)),
        ("weight", (16, 8, 3, 3)),
        ("strides", (1, 1)),
        ("padding", (1, 1, 1, 1)),
        ("dilation", (1, 1)),
        ("groups", 1),
        ("bias", True),
        ("relu", False),
    )
    records = []
    for policy, gain in (("model", 0.9), ("random", 0.5)):
        for seed in (1, 2):
            for trial in range(40):
                ns = float(1e4 * (1 - gain * trial / 40) * (1 + rng.random()))
                failed = Failed(FailureStage.RUN, FailureKind.CRASH, "signal 11")
                records.append(
                    Record(
                        key=key,
                        operator="conv2d",
                        attrs=attrs,
                        flops=230_400,
                        config=Config.of({"tile": (trial + 1, seed)}),
                        outcome=failed if trial % 9 == 0 else Timed((ns,), ns, checked=True),
                        policy=policy,
                        seed=seed,
                        trial=trial,
                        at_s=1e9 + trial,
                        software="loopwright 0.1.0",
                    )
                )
    url = f"sqlite:///{tmp_path / 'some.db'}"
    with SqlStore(url) as store:
        store.append(records)
    return url

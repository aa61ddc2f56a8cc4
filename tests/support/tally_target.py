"""The target of `tally_device`: `tally`, or `tally cores=N`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import tally_device

from loopwright.errors import ConfigError
from loopwright.ir.dtype import DType
from loopwright.plugins import plugin


@dataclass(frozen=True, slots=True)
class TallyTarget:
    cores: int = 1
    kind: str = tally_device.KIND
    name: str = tally_device.KIND
    features: tuple[str, ...] = ()
    key: str = tally_device.TARGET_KEY
    registers: int = 1

    def lanes(self, dtype: DType) -> int:
        del dtype
        return 1

    def __str__(self) -> str:
        return f"{self.name} cores={self.cores}"


def parse(text: str) -> TallyTarget:
    """The target that a string describes."""
    kind, *options = text.split()
    for option in options:
        if not option.startswith("cores="):
            raise ConfigError(f"target {text!r}: option {option!r} is not cores=N")
    cores = [int(option.partition("=")[2]) for option in options] or [1]
    return TallyTarget(cores[-1], kind=kind, name=kind)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the device and its target be found, here and in processes started from here."""
    tally_device.install(folder, monkeypatch)
    points = folder / "tally_target-1.0.dist-info"
    points.mkdir()
    (points / "METADATA").write_text("Name: tally_target\nVersion: 1.0\n")
    (points / "entry_points.txt").write_text(
        "[loopwright.targets]\ntally = tally_target:parse\nbroken = tally_target:parse\n"
    )
    plugin.cache_clear()

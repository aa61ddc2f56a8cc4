"""Kernels that misbehave, and a place for what agents keep."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Behind tests/support, which has an `operators` of its own.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import measure_kernels as kernels

from loopwright.runtime.cpu.native import object_code


@pytest.fixture(scope="session")
def machine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="session")
def code(machine_dir: Path) -> bytes:
    return object_code(kernels.TEXT, machine_dir)

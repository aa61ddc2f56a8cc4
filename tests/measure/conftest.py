"""Kernels written by hand, good and hostile, and processes to run them in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Builder processes get this path too: the fake builds must be importable there.
sys.path.insert(0, str(Path(__file__).parent))

import measure_kernels as kernels
from measuring import Measuring

from loopwright.runtime.native import object_code


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def code(cache_dir: Path) -> bytes:
    return object_code(kernels.TEXT, cache_dir)


@pytest.fixture(scope="module")
def server(cache_dir: Path) -> Iterator[Measuring]:
    with Measuring(cache_dir) as running:
        yield running

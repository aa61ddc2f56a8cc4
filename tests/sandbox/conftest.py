"""Kernels written by hand, good and hostile, and processes to run them in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import measure_kernels as kernels
import pytest
from measuring import Measuring

from loopwright.runtime.cpu.native import object_code


@pytest.fixture(scope="session")
def code(cache_dir: Path) -> bytes:
    return object_code(kernels.TEXT, cache_dir)


@pytest.fixture(scope="module")
def server(cache_dir: Path) -> Iterator[Measuring]:
    with Measuring(cache_dir) as running:
        yield running

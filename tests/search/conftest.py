from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic import synthetic

from loopwright.measure.landscape import Landscape


@pytest.fixture(scope="session")
def scape() -> Landscape:
    return synthetic(0)

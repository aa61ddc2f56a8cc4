"""What tests of the fleet share: a fleet in this process, a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import postgres_server
import pytest
from fleet_lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A fleet without agents."""
    with Lab(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def _postgres() -> Iterator[postgres_server.Server]:
    why = postgres_server.why_not()
    if why is not None:
        pytest.skip(why)
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra postgres)")
    with postgres_server.running() as server:
        yield server


@pytest.fixture
def postgres(_postgres: postgres_server.Server) -> postgres_server.Server:
    """A server that runs, whatever a test before did to it."""
    _postgres.start()
    return _postgres

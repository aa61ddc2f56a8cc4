"""A PostgreSQL server for all tests of the fleet that want one."""

from __future__ import annotations

from collections.abc import Iterator

import postgres_server
import pytest


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

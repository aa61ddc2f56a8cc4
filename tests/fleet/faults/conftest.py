"""One fleet for all tests of faults; each gets it whole, whatever the one before did to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_tuner import Book
from fleet_faults import Network, Site


@pytest.fixture(scope="session")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cache")) as made:
        yield made


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    _site.mend()
    yield _site
    _site.go_on()


@pytest.fixture
def network(site: Site) -> Network:
    if site.network is None:
        pytest.skip(Network.missing())
    return site.network


@pytest.fixture
def records(tmp_path: Path) -> Book:
    return Book.at(tmp_path)

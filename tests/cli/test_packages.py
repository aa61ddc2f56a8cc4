from __future__ import annotations

import importlib.metadata
from types import ModuleType

import pytest

from loopwright.cli.packages import PACKAGES, Package, find

GONE = Package("gone", "nothing", "extra")


def fails(error: Exception) -> ModuleType:
    raise error


def test_a_package_that_is_there_has_a_version() -> None:
    found = find(Package("pytest", "testing", "dev"))
    assert (found.version, found.advice) == (pytest.__version__, "")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ModuleNotFoundError("gone"), "pip install 'loopwright[extra]'"),
        (
            OSError("libgomp.so.1: cannot open shared object file"),
            "its library libgomp.so.1 is missing; apt install libgomp1",
        ),
        (ImportError("bad magic\nmore"), "installed, but broken: bad magic"),
    ],
)
def test_a_package_that_does_not_work_says_what_to_do(error: Exception, advice: str) -> None:
    found = find(GONE, lambda _: fails(error))
    assert (found.version, found.advice) == (None, advice)


def test_each_package_is_installed_by_the_extra_it_names() -> None:
    extras = importlib.metadata.metadata("loopwright").get_all("Provides-Extra")
    assert {package.extra for package in PACKAGES} <= set(extras or ())

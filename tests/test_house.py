"""The structure of the package: no circles, no name twice, no long calls, nothing unused."""

from __future__ import annotations

import house
import pytest

# Public class names that stand in several packages, each with the reason.
SAME_NAME: dict[str, str] = {}
MAX_POSITIONAL = 6


@pytest.mark.xfail(strict=False, reason="being mended")
def test_no_files_import_each_other_in_a_circle() -> None:
    assert house.cycles(house.import_graph()) == []


@pytest.mark.xfail(strict=False, reason="being mended")
@pytest.mark.parametrize("folder", house.folders())
def test_no_folder_inside_a_package_imports_back(folder: str) -> None:
    assert house.cycles(house.within(folder)) == []


@pytest.mark.xfail(strict=False, reason="being mended")
def test_each_public_class_name_stands_once_or_has_a_reason() -> None:
    twice = {name for name, modules in house.public_classes().items() if len(modules) > 1}
    assert twice - SAME_NAME.keys() == set()
    assert SAME_NAME.keys() - twice == set(), "no longer there twice: take it out of the list"


@pytest.mark.xfail(strict=False, reason="being mended")
def test_no_call_passes_many_arguments_by_position() -> None:
    assert list(house.long_calls(MAX_POSITIONAL)) == []


def test_functions_stay_short_as_a_rule() -> None:
    lengths = house.function_lengths()
    assert lengths[len(lengths) // 2] <= 8
    assert lengths[int(len(lengths) * 0.99)] <= 40


def test_a_circle_is_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"}), "d": frozenset()}
    assert house.cycles({name: frozenset(v) for name, v in graph.items()}) == [("a", "b", "c")]

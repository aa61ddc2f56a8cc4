from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loopwright.cli.lower import parse_attributes

if TYPE_CHECKING:
    from conftest import Run

CONV = ("lower", "conv2d", "data=1x4x8x8", "weight=8x4x3x3", "padding=1,1,1,1")
ON = ("--target", "x86-64-avx2")


def test_the_kernel_of_the_default_config_is_shown(run: Run) -> None:
    shown = run(*CONV, *ON, "--check")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("kernel conv2d_")
    assert "data: float32[256]" in shown.out  # flat: what code is generated from


def test_watching_shows_the_loops_and_what_each_pass_changes(run: Run) -> None:
    shown = run(*CONV, *ON, "--watch").out
    loops, _, rest = shown.partition("skip_zero_products: ")
    assert "data: float32[1, 4, 8, 8]" in loops
    assert "+++ skip_zero_products" in rest
    assert any(line.startswith("-") and " else 0.0" in line for line in rest.splitlines())
    assert "partition_copies: " in rest
    assert "nothing changed" in rest
    assert "+++ flatten_storage" in rest


def test_a_config_is_given_as_records_have_it(run: Run) -> None:
    found = json.loads(run(*CONV, *ON, "-o", "json").out)
    again = json.loads(run(*CONV, *ON, "--config", json.dumps(found["config"]), "-o", "json").out)
    assert again["kernel"] == found["kernel"]
    names = [step["name"] for step in found["passes"]]
    assert names == ["skip_zero_products", "partition_copies", "cut_at_borders", "flatten_storage"]
    assert [step["changed"] for step in found["passes"]] == [
        bool(s["diff"]) for s in found["passes"]
    ]


def test_the_passes_are_traced_when_the_settings_say_where(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_TRACE", str(tmp_path / "trace"))
    shown = run(*CONV, *ON)
    (flat,) = (tmp_path / "trace" / "kernels").glob("*.flatten_storage.txt")
    assert flat.read_text() == shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("conv3d", "data=1x4x8x8"), "unknown operator 'conv3d'; use one of conv2d"),
        (("conv2d", "data"), "'data' is not NAME=VALUE"),
        (("conv2d", "data=1x4x8x8", "data=1x4x8x8"), "the attribute data is given twice"),
        (("conv2d", "data=1x4x8x8"), "conv2d: weight is missing"),
        ((*CONV[1:], "--config", "{"), "config"),
        ((*CONV[1:], "--config", "{}"), "knob"),
        ((*CONV[1:], "--target", "z80"), "z80"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    shown = run("lower", *arguments)
    assert (shown.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert said in shown.err


def test_values_of_attributes() -> None:
    given = ("data=1x64x56", "padding=1,-1", "groups=2", "bias=true", "relu=false", "dtype=int8")
    assert parse_attributes(given) == {
        "data": (1, 64, 56),
        "padding": (1, -1),
        "groups": 2,
        "bias": True,
        "relu": False,
        "dtype": "int8",
    }

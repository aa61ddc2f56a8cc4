from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Run


def test_a_plot_is_drawn_to_png_and_svg(run: Run, records_url: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", "--records", records_url, "--out", "curve.png", "-o", "json")
    data = json.loads(result.out)
    assert data["files"] == ["curve.png", "curve.svg"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "curve.svg").read_text()
    (panel,) = data["panels"]
    assert [line["label"] for line in panel["lines"]] == ["model", "random"]
    for line in panel["lines"]:
        assert len(line["median"]) == 40
        assert line["median"] == sorted(line["median"])


def test_the_same_records_draw_the_same_svg(run: Run, records_url: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run("plot", "--records", records_url, "--out", "a")
    run("plot", "--records", records_url, "--out", "b")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_peer_is_the_base_line(run: Run, records_url: str) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("onnxruntime")
    result = run("plot", "--records", records_url, "--compare", "onnxruntime", "-o", "json")
    ((name, gflops),) = json.loads(result.out)["panels"][0]["bases"]
    assert name == "onnxruntime"
    assert gflops > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "5"], "'5' is not among 0 to 0"),
        (["--compare", "mxnet"], "unknown peer 'mxnet'; use one of onnxruntime, torch"),
        (["--out", "none/curve"], "none/curve.png cannot be written: No such file"),
    ],
)
def test_an_option_that_cannot_work_is_one_line_and_exit_code_2(
    run: Run, records_url: str, arguments: list[str], words: str
) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", "--records", records_url, *arguments)
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1

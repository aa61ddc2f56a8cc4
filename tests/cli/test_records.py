from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Run


def test_records_go_out_and_come_in_again(run: Run, records_url: str) -> None:
    exported = run("records", "export", "r.jsonl", "--records", records_url, "-o", "json")
    assert json.loads(exported.out) == {"file": "r.jsonl", "records": 160}
    first = run("records", "import", "r.jsonl", "--records", "sqlite:///new.db", "-o", "json")
    assert (json.loads(first.out)["added"], json.loads(first.out)["known"]) == (160, 0)
    again = run("records", "import", "r.jsonl", "--records", "sqlite:///new.db")
    assert again.out == "0 records added to sqlite:///new.db, 160 were there already\n"


def test_the_best_of_each_task_is_shown(run: Run, records_url: str) -> None:
    shown = run("records", "best", "--records", records_url)
    assert "1 tasks, 160 records" in shown.out
    assert "conv2d 1x8x10x10 w 16x8x3x3 p1 bias" in shown.out
    found = json.loads(run("records", "best", "--records", records_url, "-o", "json").out)
    assert found["best"][0]["operator"] == "conv2d"
    other = run("records", "best", "--records", records_url, "--threads", "2", "-o", "json")
    assert json.loads(other.out)["best"] == []


def test_the_settings_say_where_records_are(
    run: Run, records_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_RECORDS", records_url)
    assert records_url in run("records", "best").out


def test_a_bad_line_is_named_and_the_good_ones_are_kept(
    run: Run, records_url: str, tmp_path: Path
) -> None:
    run("records", "export", "r.jsonl", "--records", records_url)
    file = tmp_path / "r.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{}", lines[1].replace('"v":1', '"v":2'), lines[2]]))
    result = run("records", "import", "r.jsonl", "--records", "sqlite:///new.db")
    assert result.code == 2
    assert result.out.startswith("2 records added")
    first, second = result.err.splitlines()
    assert first.startswith("loopwright: r.jsonl:2: ")
    assert second.startswith("loopwright: r.jsonl:3: record format 2, this Loopwright reads")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///none.db", "there is no file none.db; `loopwright tune` makes one"),
        ("none.db", "is not a URL; write sqlite:///none.db"),
        ("sqlite:///text.db", "is not a records database"),
    ],
)
def test_records_that_cannot_be_read_are_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, url: str, words: str
) -> None:
    (tmp_path / "text.db").write_text("words " * 200)
    result = run("records", "best", "--records", url)
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1

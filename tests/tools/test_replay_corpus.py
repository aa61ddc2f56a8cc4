"""The tool that shows that a refactoring changes nothing, on the smallest group of the corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import replay_corpus

GROUP = "dqn aarch64-neon"


def replay(command: str, baseline: Path, *more: str) -> int:
    words = [command, "--baseline", str(baseline), "--only", GROUP, "--jobs", "1", *more]
    return replay_corpus.main(words)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "corpus.json"
    assert replay("write", path) == 0
    return path


def test_the_same_source_makes_no_difference(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay("check", written) == 0
    assert capsys.readouterr().out.startswith("no difference: ")


def test_a_changed_text_a_new_one_and_one_that_is_gone_are_named(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "corpus.json"
    shutil.copy(written, changed)
    baseline = json.loads(changed.read_text())
    kept, altered, *_ = [id_ for id_ in baseline["digests"] if id_.endswith("/ used")]
    baseline["digests"][altered] = "0" * 12
    baseline["digests"][f"{GROUP} / gone"] = baseline["digests"].pop(kept)
    changed.write_text(json.dumps(baseline))
    assert replay("check", changed, "--against", "no-such-commit") != 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.strip() for line in lines if line.startswith("  ")]
    assert sorted(listed) == [f"changed: {altered}", f"gone: {GROUP} / gone", f"new: {kept}"]


def test_a_group_that_is_not_there_is_one_line(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay("check", written, "--only", "dqn vax") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is no group 'dqn vax'; there are bert_base ")
    assert error.count("\n") == 1

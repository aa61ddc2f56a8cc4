"""The search benchmark and recorded tasks, on a small landscape of made-up times."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import loopwright as lw
from loopwright.api.replay import origin_of, recorded_task
from loopwright.errors import RecordsError
from loopwright.learn.features import featurize
from loopwright.measure.landscape import Landscape, landscape, load, save
from loopwright.outcome import Outcome, Timed
from loopwright.space.config import Config

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "search.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("landscapes")
    save(made_up(), made / "matmul-64.json.gz")
    return made


def made_up() -> Landscape:
    task = lw.task("matmul", a=(64, 64), b=(64, 64), target="x86-64-avx2 cores=2")
    points = np.unique(task.space.sample(np.random.default_rng(0), 700), axis=0)
    work = featurize(task, points)
    weights = np.random.default_rng(1).random(work.shape[1])
    cost = work @ weights
    ns = 1e4 * (1.0 + (cost - cost.min()) / np.ptp(cost))
    trials: list[tuple[Config, Outcome]] = [
        (task.space.decode(point), Timed((t,), t))
        for point, t in zip(points, ns.tolist(), strict=True)
    ]
    return landscape("matmul-64", origin_of(task, "made-up"), task.space, trials)


def test_a_recorded_task_computes_what_was_recorded_over_its_configs(folder: Path) -> None:
    scape = load(folder / "matmul-64.json.gz")
    task = recorded_task(scape)

    assert task.space is scape.space
    assert task.flops == scape.flops
    assert featurize(task, scape.space.points).shape[0] == len(scape)


@pytest.mark.parametrize("change", [{"version": 999}, {"workload": "0" * 16}, {"template": "old"}])
def test_a_landscape_of_another_template_is_refused(
    folder: Path, change: dict[str, int | str]
) -> None:
    scape = load(folder / "matmul-64.json.gz")
    stale = replace(scape, origin=replace(scape.origin, **change))  # type: ignore[arg-type]  # by name

    with pytest.raises(RecordsError, match="record it anew"):
        recorded_task(stale)


def test_the_benchmark_compares_draws_and_prints_json(folder: Path, tmp_path: Path) -> None:
    options = ["--landscapes", str(folder), "--seeds", "1", "--trials", "128"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options, "--plot", "curves", "-o", "json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["policy"] for row in report["rows"]] == ["random", "genetic", "autotvm", "model"]
    assert all(1 <= row["needed"] <= 513 for row in report["rows"])
    assert {file.name for file in tmp_path.iterdir()} == {"curves.png", "curves.svg"}


def test_a_folder_without_landscapes_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--landscapes", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("error: 0 landscapes in")
    assert done.stderr.count("\n") == 1

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from loopwright.records.store import SqlStore

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {
    "features": ["--layers", "C3", "--candidates", "64", "--compared", "4", "--repeats", "3"],
    "throughput": ["--trials", "3", "--builds", "2"],
    "conv": ["--trials", "3", "--layers", "C11", "--peers", "", "--rounds", "1"],
    "matmul": ["--trials", "3", "--size", "64", "--peers", "", "--rounds", "1"],
    "models": ["--models", "dqn", "--compare", "", "--rounds", "1"],
    "odd_convs": ["--only", "gw8-7", "--compare", "", "--rounds", "1"],
    "fleet": ["--quick", "--only", "simulation"],
}


def run(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A benchmark, run in `folder`."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", [*SMALL, "readme_table"])
def test_each_benchmark_says_how_it_is_used(name: str, tmp_path: Path) -> None:
    done = run(name, "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout


@pytest.mark.parametrize(
    "name", ["features", "throughput", "matmul", "models", "odd_convs", "fleet"]
)
def test_each_benchmark_prints_one_json_object(name: str, tmp_path: Path) -> None:
    keep = ["--records", f"sqlite:///{tmp_path}/r.db"] if name == "matmul" else []
    done = run(name, *SMALL[name], *keep, "-o", "json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["benchmark"].startswith(name)
    assert report["command"].startswith(f"python benchmarks/{name}.py {SMALL[name][0]}")
    assert report["rows"]
    assert report["machine"]["fma_gflops"] > 0
    assert all(figure["value"] >= 0 for figure in report["figures"])


def test_a_second_run_makes_no_further_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/r.db"
    arguments = [*SMALL["conv"], "--records", url, "-o", "json"]
    first, second = (json.loads(run("conv", *arguments, folder=tmp_path).stdout) for _ in range(2))
    assert first["rows"][0]["trials"] == second["rows"][0]["trials"] == 3
    with SqlStore(url, create=False) as store:
        assert {record.trial for record in store.query()} == {0, 1, 2}


def test_without_a_rival_the_fleets_table_says_how_to_get_it(tmp_path: Path) -> None:
    done = run("fleet", *SMALL["fleet"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stdout
    assert "pip install apache-tvm" in " ".join(done.stdout.split())


def test_a_part_of_the_fleet_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = run("fleet", "--only", "load,weather", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no part 'weather'; there are simulation, ")
    assert done.stderr.count("\n") == 1


def test_a_layer_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = run("features", "--layers", "C99", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no layer 'C99'; there are C1, C2")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "dqn,resnet19"], "there is no model 'resnet19'; there are bert_base, dcgan"),
        (["--threads", "two"], "--threads 'two' is not a list of numbers, as 1,2"),
        (["--threads", "1,999"], "999 threads cannot be measured"),
        (["--threads", "1,2", "-o", "json"], "-o json prints one; add --save"),
        (["--compare", "mxnet"], "unknown peer 'mxnet'; use one of onnxruntime, openvino, torch"),
    ],
)
def test_what_models_cannot_do_is_said_before_anything_is_made(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = run("models", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


KILLED = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from harness import until_we_end
started = subprocess.Popen(until_we_end("sleep", "1000"))
print(started.pid, flush=True)
sys.stdin.read()
"""


def test_what_a_benchmark_started_ends_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(BENCHMARKS)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([child], [], [], 120)
    os.close(child)
    assert ended == [child]

"""A tuning process that is killed outright: what was measured stays, and the same call goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from loopwright.records.store import Query, SqlStore

TRIALS = 24
KILLED_AFTER = 6

SCRIPT = """
import sys
from loopwright.api.task import task_of
from loopwright.api.tune import TuneSettings, tune_many
from loopwright.records.store import SqlStore
from loopwright.search.result import Budget, TrialDone
from loopwright.target.parse import parse


def told(event):
    if isinstance(event, TrialDone):
        print(event.n, flush=True)


if __name__ == "__main__":
    task = task_of("matmul", {"a": (48, 48), "b": (48, 48)}, target=parse("cpu"), threads=1)
    with SqlStore(sys.argv[1]) as store:
        settings = TuneSettings(Budget(int(sys.argv[2])), policy="random", peak_gflops=100.0)
        tune_many([task], settings, store, on_event=told)
"""


def _start(tmp_path: Path, url: str) -> subprocess.Popen[str]:
    script = tmp_path / "tune_matmul.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), url, str(TRIALS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _configs(url: str) -> list[str]:
    with SqlStore(url) as store:
        return [record.config.key for record in store.query(Query())]


def test_a_killed_run_keeps_its_trials_and_the_same_call_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'r.db'}"
    with _start(tmp_path, url) as process:
        stdout = process.stdout
        if stdout is None:
            raise AssertionError
        for _ in range(KILLED_AFTER):
            stdout.readline()
        process.send_signal(signal.SIGKILL)
        told = KILLED_AFTER + len(stdout.read().split())
    kept = _configs(url)
    assert len(kept) >= told  # a trial is recorded before it is told
    with _start(tmp_path, url) as again:
        if again.stdout is None:
            raise AssertionError
        again.stdout.read()
        assert again.wait() == 0
    everything = _configs(url)
    assert everything[: len(kept)] == kept
    assert len(set(everything)) == TRIALS

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run in `folder`."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_template_of_ones_own_is_tuned_and_right(tmp_path: Path) -> None:
    printed = run("custom_template.py", tmp_path)
    assert "the best of 32" in printed
    assert "equal to NumPy" in printed


def test_the_quick_start_tunes_builds_and_calls(tmp_path: Path) -> None:
    printed = run("quickstart.py", tmp_path, "8")
    assert "after 8 trials" in printed
    assert "output (1, 64, 28, 28), equal to NumPy" in printed
    assert (tmp_path / "quickstart.db").exists()

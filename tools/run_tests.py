"""Run the tests in two halves side by side, for two cores; exit code 0 if both pass.

    python tools/run_tests.py [pytest's arguments]

One half starts processes and waits for them, the other computes. What each printed is shown when it
is done, as one piece. `python -m pytest` runs the same tests one after another.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = ("tests/fleet", "tests/measure", "tests/build", "tests/sandbox", "tests/cli")


def main(arguments: list[str]) -> int:
    """Run both halves; the larger of their exit codes."""
    rest = [f"--ignore={folder}" for folder in PROCESSES]
    halves = []
    for chosen in ([*PROCESSES, "-p", "no:cacheprovider"], ["tests", *rest]):
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed at the end of this process
        command = [sys.executable, "-m", "pytest", "-q", *chosen, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        halves.append((process, output))
    worst = 0
    for process, output in halves:
        worst = max(worst, abs(process.wait()))
        output.seek(0)
        sys.stdout.write(output.read())
        sys.stdout.flush()
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run the tests in two halves side by side, for two cores; exit code 0 if both pass.

    python tools/run_tests.py [pytest's arguments]
    python tools/run_tests.py --again [pytest's arguments]

One half starts processes and waits for them, the other computes. What each printed is shown when it
is done, as one piece; at the end one table says what was skipped, how often and why.
With --again only the files run in which the last run skipped a test: after installing what was
missing. `python -m pytest` runs the same tests one after another.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = ("tests/fleet", "tests/measure", "tests/build", "tests/sandbox", "tests/cli")
SKIPPED = ROOT / "out" / "skipped_tests.txt"
"""The files in which the last run skipped a test, a line each."""


def main(arguments: list[str]) -> int:
    """Run both halves; the larger of their exit codes."""
    again = "--again" in arguments
    halves = _skipped_halves() if again else _all_halves()
    arguments = [argument for argument in arguments if argument != "--again"]
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder) / f"{half}.xml" for half in range(len(halves))]
        worst = _run(
            [
                [*half, f"--junitxml={report}", *arguments]
                for half, report in zip(halves, reports, strict=True)
            ]
        )
        skips = [skip for report in reports if report.exists() for skip in skips_of(report)]
    SKIPPED.parent.mkdir(exist_ok=True)
    SKIPPED.write_text("".join(f"{file}\n" for file in sorted({file for file, _ in skips})))
    if skips:
        Console(width=140).print(table(skips))
    return worst


def _all_halves() -> list[list[str]]:
    rest = [f"--ignore={folder}" for folder in PROCESSES]
    return [[*PROCESSES, "-p", "no:cacheprovider"], ["tests", *rest]]


def _skipped_halves() -> list[list[str]]:
    files = SKIPPED.read_text().split() if SKIPPED.exists() else []
    processes = [file for file in files if file.startswith(PROCESSES)]
    rest = [file for file in files if file not in processes]
    if processes:
        processes += ["-p", "no:cacheprovider"]
    return [half for half in (processes, rest) if half]


def _run(halves: list[list[str]]) -> int:
    started = []
    for half in halves:
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed at the end of this process
        command = [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1", *half]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        started.append((process, output))
    worst = 0
    for process, output in started:
        worst = max(worst, abs(process.wait()))
        output.seek(0)
        sys.stdout.write(output.read())
        sys.stdout.flush()
    return worst


def skips_of(report: Path) -> list[tuple[str, str]]:
    """(file, why) for each test that the JUnit XML file `report` has as skipped."""
    return [
        (_file_of(case.get("classname") or case.get("name") or ""), skip.get("message") or "")
        for case in ElementTree.parse(report).iter("testcase")  # pytest wrote it
        for skip in case.iter("skipped")
    ]


def _file_of(dotted: str) -> str:
    """The file of a test whose module, perhaps with a class, is `dotted`."""
    path = Path(*dotted.split("."))
    while path.name and not (ROOT / path).with_suffix(".py").is_file():
        path = path.parent
    return str(path.with_suffix(".py")) if path.name else dotted


def table(skips: list[tuple[str, str]]) -> Table:
    """What was skipped: a row for each reason, the commonest first."""
    by_reason: dict[str, list[str]] = {}
    for file, why in skips:
        by_reason.setdefault(why, []).append(file)
    rows = Table("tests", "in", "why", title=f"{len(skips)} tests skipped", title_justify="left")
    for why, files in sorted(by_reason.items(), key=lambda row: -len(row[1])):
        folders = sorted({str(Path(file).parent) for file in files})
        rows.add_row(str(len(files)), ", ".join(folders), why)
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

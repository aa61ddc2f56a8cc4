"""Every figure of the fleet against its goal, and beside it what apache-tvm's fleet does.

    python benchmarks/fleet.py [--quick] [--only PART,...] [--tvm-python PATH] [--save] [-o json]

The parts are the files `fleet_*.py`, which can be run alone as well and then say more. With
`--tvm-python`, a Python that has apache-tvm, the same loads and faults are put to its tracker and
server in the same run (`fleet_tvm.py`). The exit code is 1 when a part could not be run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fleet_busy
import fleet_crowd
import fleet_hostile
import fleet_load
import fleet_sandbox
import fleet_session
import fleet_simulation
import fleet_start
import fleet_tune
import harness
from fleet_part import Beside, Part
from fleet_tvm import Tvm
from loopwright import jsonio
from loopwright.cli.common import console
from loopwright.errors import EnvironmentFailure, LoopwrightError, UnsupportedError

PARTS: dict[str, Callable[[bool], Part]] = {
    "simulation": fleet_simulation.measure,
    "hostile": fleet_hostile.measure,
    "start": fleet_start.measure,
    "session": fleet_session.measure,
    "load": fleet_load.measure,
    "sandbox": fleet_sandbox.measure,
    "busy": fleet_busy.measure,
    "crowd": fleet_crowd.measure,
    "tune": fleet_tune.measure,
}
ABSENT = (
    "apache-tvm was not measured. In an environment of its own: python -m venv tvm && "
    "tvm/bin/pip install apache-tvm apache-tvm-ffi==0.1.14.post0 tornado psutil cloudpickle; "
    "then --tvm-python tvm/bin/python"
)
_TVM_S = 900.0


def _ms(value: float | None, what: str = "") -> str:
    return "blocked for over 5 s" if value is None else f"{harness.show(value)} ms{what}"


def _crash(tvm: Tvm) -> str:
    if tvm.lost_at_crash is None:
        return "no C compiler here"
    return "1, at the first crash" if tvm.lost_at_crash else "0 at one crash"


_TVM: dict[str, Callable[[Tvm], str]] = {
    "devices lost to them": _crash,
    "ready again after one, p99": lambda tvm: "never" if tvm.lost_at_crash else "",
    "grants back after a restart": lambda tvm: (
        "not within 30 s, 1 device"
        if tvm.restart_s is None
        else f"{harness.show(tvm.restart_s)} s, 1 device"
    ),
    "acquire, 16 clients without a break, p50": lambda tvm: _ms(tvm.acquire_p50_ms),
    "acquire, 16 clients without a break, p99": lambda tvm: _ms(tvm.acquire_p99_ms),
    "lease cycles, 128 clients": lambda tvm: f"{harness.show(tvm.cycles_per_s)} 1/s, not kept",
    "memory, 10,000 devices": lambda tvm: f"{harness.show(tvm.devices_rss_mb)} MB",
    "list of 10,000 devices": lambda tvm: _ms(tvm.summary_ms, ", their number alone"),
    "session open": lambda tvm: _ms(tvm.open_p50_ms),
    "session open, 1,000 silent, p99": lambda tvm: _ms(tvm.silent_open_ms, ", 1 silent"),
    "hello, 1,000 silent, p99": lambda tvm: _ms(tvm.silent_hello_ms),
    "upload with MAC": lambda tvm: f"{harness.show(tvm.upload_mb_s)} MB/s, no MAC",
    "second upload of a blob": lambda tvm: (
        f"{harness.show(tvm.second_upload_bytes)} bytes of 16 Mi"
    ),
}


def _beside(name: str, tvm: Tvm) -> str:
    return _TVM[name](tvm) if name in _TVM else ""


def run_tvm(python: str, *, quick: bool) -> Tvm:
    """What apache-tvm does.

    Raises: EnvironmentFailure when that Python is not there, has no apache-tvm, or fails.
    """
    script = Path(__file__).with_name("fleet_tvm.py")
    command = [python, str(script), "--seconds", "2" if quick else "5"]
    harness.progress("apache-tvm: the same loads and faults")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TVM_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFailure(f"--tvm-python {python}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise EnvironmentFailure(f"--tvm-python {python}: {last}. {ABSENT}")
    return jsonio.loads(done.stdout.splitlines()[-1].encode(), Tvm)


def run_parts(names: Sequence[str], *, quick: bool) -> tuple[list[tuple[str, Part]], list[str]]:
    """What the parts found, and what kept others from being run."""
    found: list[tuple[str, Part]] = []
    failed: list[str] = []
    for name in names:
        try:
            found.append((name, PARTS[name](quick)))
        except LoopwrightError as error:
            failed.append(f"{name}: {error}")
    return found, failed


def chosen(only: str) -> tuple[str, ...]:
    """The parts that `only` names; all when it is empty.

    Raises: UnsupportedError for one that there is not.
    """
    names = tuple(filter(None, only.split(","))) or tuple(PARTS)
    for name in names:
        if name not in PARTS:
            raise UnsupportedError(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    return names


def _cells(row: Beside) -> tuple[str, ...]:
    figure = row.figure
    verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
    value = f"{harness.show(figure.value)} {figure.unit}".strip()
    goal = figure.goal.removeprefix("goal ")
    return (figure.name, value, goal, verdict, row.tvm)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = harness.parser(__doc__)
    options.add_argument("--quick", action="store_true", help="less of everything")
    options.add_argument("--only", default="", help=f"parts, of {', '.join(PARTS)}")
    options.add_argument("--tvm-python", help="a Python that has apache-tvm")
    options.add_argument("--save", action="store_true", help="keep it for the README's tables")
    given = options.parse_args(arguments)
    names = chosen(given.only)
    machine = harness.describe()
    found, failed = run_parts(names, quick=given.quick)
    tvm: Tvm | None = None
    if given.tvm_python:
        try:
            tvm = run_tvm(given.tvm_python, quick=given.quick)
        except EnvironmentFailure as error:
            failed.append(str(error))
    rows = [
        Beside(name, figure, "not measured" if tvm is None else _beside(figure.name, tvm))
        for name, part in found
        for figure in part.figures
    ]
    result = harness.report("fleet", machine, [row.figure for row in rows], rows)
    if given.save:
        harness.save(result)
    if given.output == "json":
        harness.emit(result, harness.rows_table([], []), given.output)
    else:
        beside = "apache-tvm" if tvm is None else f"apache-tvm {tvm.version}"
        cells = [_cells(row) for row in rows]
        columns = ("", ">", "goal", "", beside)
        screen = console()
        screen.print(harness.rows_table(columns, cells, title="a fleet"))
        screen.print(harness.machine_line(machine), markup=False)
        if tvm is None:
            screen.print(ABSENT, markup=False)
    for line in failed:
        harness.progress(f"not measured: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(harness.run(main))

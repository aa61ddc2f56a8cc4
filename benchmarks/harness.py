"""What the benchmarks share: options, what machine they ran on, goals, tables and JSON.

A benchmark makes a `Report` and hands it to `emit`, which prints it as a table or, with `-o
json`, as one JSON object. `benchmarks/results/*.json` are such objects; `readme_table.py` makes
the README's tables of them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rich.table import Table

from loopwright import jsonio
from loopwright.cli.common import console, table
from loopwright.errors import LoopwrightError, UnsupportedError
from loopwright.peers.peer import missing
from loopwright.records.device import fingerprint
from loopwright.runtime.cpu import machine
from loopwright.runtime.facts import facts
from loopwright.target.host import host
from loopwright.version import __version__

RowT = TypeVar("RowT")
_ROOT = Path(__file__).resolve().parent.parent
_SOFTWARE = ("numpy", "llvmlite", "lightgbm", "onnxruntime", "openvino", "torch")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what a benchmark ran.

    `fma_gflops` is the peak of one core at the start, `noise` how much slower the median of equal
    bursts was than the best, `load` the load average of the minute before: with noise above 0.05,
    look at ratios only.
    """

    model: str
    cores: int
    device: str
    target: str
    fma_gflops: float
    noise: float
    load: float
    software: dict[str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that the benchmark is about; `figure` makes it and compares it with its goal."""

    name: str
    value: float
    unit: str
    goal: str
    met: bool | None

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name}: {show(self.value)}{unit}  {self.goal} {verdict}".rstrip()


@dataclass(frozen=True, slots=True)
class Report(Generic[RowT]):
    """What a benchmark found. `rows` are of the benchmark's own kind."""

    benchmark: str
    command: str
    at: str
    machine: Machine
    figures: tuple[Figure, ...]
    rows: tuple[RowT, ...]


_UNTIL_PARENT_ENDS = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


def until_we_end(*command: str) -> list[str]:
    """`command`, which Linux ends by SIGTERM when this process ends, killed or not."""
    return [sys.executable, "-c", _UNTIL_PARENT_ENDS, str(os.getpid()), *command]


def figure(
    name: str,
    value: float,
    unit: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Figure:
    """The figure, with the goal in words and whether it is met; None without a goal."""
    if at_least is not None:
        return Figure(name, value, unit, f"goal >= {show(at_least)}", value >= at_least)
    if at_most is not None:
        return Figure(name, value, unit, f"goal <= {show(at_most)}", value <= at_most)
    return Figure(name, value, unit, "", None)


def report(
    benchmark: str, where: Machine, figures: Sequence[Figure], rows: Sequence[RowT]
) -> Report[RowT]:
    """The report of the command that runs now."""
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Report(benchmark, command(), at, where, tuple(figures), tuple(rows))


def describe() -> Machine:
    """This machine, measured now; takes half a second."""
    target = host()
    return Machine(
        model=facts().model,
        cores=target.cores,
        device=fingerprint(target),
        target=target.key,
        fma_gflops=machine.measure_fma_peak(),
        noise=machine.noise(),
        load=os.getloadavg()[0],
        software={
            "python": platform.python_version(),
            "loopwright": __version__,
            **{name: version for name in _SOFTWARE if (version := _version(name))},
        },
    )


def command() -> str:
    """The command line that runs now, without where its output goes."""
    script = Path(sys.argv[0])
    shown = f"{script.parent.name}/{script.name}" if script.parent.name else script.name
    return shlex.join(["python", shown, *_without_output(sys.argv[1:])])


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that has `-o`; `doc` is the docstring of the benchmark."""
    made = argparse.ArgumentParser(
        description=(doc or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how figures are written"
    )
    return made


def emit(result: Report[RowT], shown: Table, output: str) -> None:
    """Write the report to standard output: one JSON object, or the table `shown` and figures."""
    if output == "json":
        print(jsonio.pretty(result))
        return
    screen = console()
    screen.print(shown)
    for line in result.figures:
        screen.print(str(line), markup=False)
    screen.print(machine_line(result.machine), markup=False)


def machine_line(where: Machine) -> str:
    """The machine on one line."""
    software = ", ".join(f"{name} {version}" for name, version in where.software.items())
    return (
        f"{where.model}, {where.cores} cores, FMA peak {where.fma_gflops:.0f} GFLOP/s a core, "
        f"noise {where.noise:.1%}, load {where.load:.1f}; {software}"
    )


def progress(text: str) -> None:
    """Say on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[list[str]], int]) -> int:
    """The exit code of `main`; an error of ours is one line, as on the command line."""
    try:
        return main(sys.argv[1:])
    except LoopwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> Table:
    """A table as the commands draw them; a column whose name starts with `>` is aligned right."""
    return table(columns, rows, title=title)


def show(value: float) -> str:
    """A number for a person: three digits, none of them thrown away above 1000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def records_url(given: str | None) -> str:
    """Where a benchmark keeps its records: what was given, or a file in `out/`, which is made."""
    return given if given is not None else f"sqlite:///{out_folder()}/benchmarks.db"


def out_folder(name: str = "") -> Path:
    """The folder `out/`, or `name` in it, which is made: for what can be made again."""
    folder = _ROOT / "out" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save(result: Report[RowT]) -> Path:
    """Write the report to `benchmarks/results`, where the README's tables come from; the file."""
    file = _ROOT / "benchmarks" / "results" / f"{result.benchmark}.json"
    file.write_text(jsonio.pretty(result) + "\n")
    return file


def installed(names: str, among: Sequence[str]) -> tuple[str, ...]:
    """The peers that `names` (`onnxruntime,openvino`) says, without those not installed.

    Raises: UnsupportedError for one that is not among `among`.
    """
    kept = []
    for name in filter(None, names.split(",")):
        if name not in among:
            raise UnsupportedError(f"unknown peer {name!r}; use one of {', '.join(among)}")
        absent = missing(name)
        if absent:
            progress(f"without {name}: {', '.join(absent)} is not installed")
        else:
            kept.append(name)
    return tuple(kept)


def _without_output(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("-o", "--output"):
            skip = True
        elif not argument.startswith(("-o", "--output=")):
            kept.append(argument)
    return kept


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

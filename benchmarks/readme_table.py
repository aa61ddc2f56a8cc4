"""The README's result tables, made of `benchmarks/results/*.json`.

    python benchmarks/readme_table.py [--check]

Each file in `results` is what a benchmark printed with `-o json`. What stands between the markers
of README.md is replaced; with `--check` nothing is written, and exit code 1 says that it is stale.
Every table names the command that made it and the machine it ran on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import harness
from fleet_part import Beside
from harness import Figure, Machine
from loopwright import jsonio
from loopwright.errors import UserError
from loopwright.report.compare import OURS
from models import RATIO_NAME, ModelRow
from operators import OperatorRow

_NOTE = (
    "In brackets: a peer's kernel without layout changes, where it tells. The ratio is that of the "
    "smallest of the peers' times to our kernel's."
)
BEGIN, END = "<!-- result: begin -->", "<!-- result: end -->"
ROOT = Path(__file__).resolve().parent.parent


class Result(msgspec.Struct, frozen=True):
    """The part of a report that every benchmark has."""

    benchmark: str
    command: str
    at: str
    machine: Machine
    figures: tuple[Figure, ...]


class OperatorResult(Result, frozen=True):
    """A report of conv.py or matmul.py."""

    rows: tuple[OperatorRow, ...]


class ModelsResult(Result, frozen=True):
    """A report of models.py."""

    rows: tuple[ModelRow, ...]


class FleetResult(Result, frozen=True):
    """A report of fleet.py."""

    rows: tuple[Beside, ...]


def read(text: bytes, where: str) -> Result:
    """The report that `text` holds, with rows where the tables show them.

    Raises: UserError naming the file when it is no report.
    """
    try:
        plain = jsonio.loads(text, Result)
        if plain.benchmark.startswith(("conv", "matmul")):
            return jsonio.loads(text, OperatorResult)
        if plain.benchmark.startswith("models"):
            return jsonio.loads(text, ModelsResult)
        if plain.benchmark == "fleet":
            return jsonio.loads(text, FleetResult)
    except ValueError as error:
        raise UserError(f"{where} is no report of a benchmark: {error}; make it again") from error
    return plain


def render(results: Sequence[Result]) -> str:
    """Markdown: a table for each comparison with peers, then one of all other figures."""
    if not results:
        return "No figures yet."
    tables = [r for r in results if isinstance(r, OperatorResult)]
    others = [r for r in results if type(r) is Result]
    parts = [_models(result) for result in results if isinstance(result, ModelsResult)]
    parts += [_comparison(result) for result in tables]
    parts += [_fleet(result) for result in results if isinstance(result, FleetResult)]
    if others:
        parts.append(_figures(others))
    return "\n\n".join(parts)


def replaced(readme: str, text: str) -> str:
    """`readme` with `text` between the markers.

    Raises: UserError when they are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md: the markers {BEGIN} and {END} are not there; add them")
    return f"{before}{begin}\n{text}\n{end}{after}"


def _models(result: ModelsResult) -> str:
    peers = list(dict.fromkeys(n for row in result.rows for n in row.ns if n != OURS))
    columns = ["model", "threads", "loopwright, ms", *(f"{name}, ms" for name in peers)]
    columns += ["ratio to the best", "goal", "error", "memory, MB", "load, ms"]
    lines = [_row(columns), _row(["---"] + ["---:"] * (len(columns) - 1))]
    for row in result.rows:
        cells = [row.name, str(row.threads), f"{row.ns[OURS] / 1e6:.2f}"]
        cells += [f"{row.ns[name] / 1e6:.2f}" if name in row.ns else "-" for name in peers]
        ratio = "-" if row.ratio is None else f"**{row.ratio:.2f}**"
        error = "-" if row.error is None else f"{row.error:.0e}"
        memory = " / ".join(f"{n / 1e6:.0f}" for n in row.peak_bytes.values())
        load = " / ".join(f"{s * 1e3:.0f}" for s in row.load_s.values())
        lines.append(_row([*cells, ratio, f"{row.goal:.1f}", error, memory, load]))
    order = " / ".join(dict.fromkeys(name for row in result.rows for name in row.peak_bytes))
    wholes = [f for f in result.figures if not f.name.endswith(RATIO_NAME)]
    note = f"Memory at its peak and the time to load: {order}."
    return "\n".join([_source(result), "", *lines, "", note, "", *_list(wholes)])


def _comparison(result: OperatorResult) -> str:
    engines = list(dict.fromkeys(peer.peer for row in result.rows for peer in row.peers))
    columns = ["", "operator", "kernel, ms", "GFLOP/s", "of FMA peak", "of fed FMAs", "plain, ms"]
    columns += [f"{engine}, ms" for engine in engines]
    columns.append("ratio to the best")
    lines = [_row(columns), _row(["---"] * 2 + ["---:"] * (len(columns) - 2))]
    lines += [_row(_cells(row, engines)) for row in result.rows]
    return "\n".join([_source(result), "", *lines, "", _NOTE, "", *_list(result.figures)])


def _cells(row: OperatorRow, engines: Sequence[str]) -> list[str]:
    times = {peer.peer: peer for peer in row.peers}
    cells = [row.name, row.shape, f"{row.ns / 1e6:.3f}", f"{row.gflops:.0f}", f"{row.share:.0%}"]
    cells.append("" if row.fed_share is None else f"{row.fed_share:.0%}")
    cells.append(f"{row.plain_ns / 1e6:.3f}")
    for engine in engines:
        peer = times.get(engine)
        kernel = "" if peer is None or peer.kernel_ns is None else f" ({peer.kernel_ns / 1e6:.3f})"
        cells.append("-" if peer is None else f"{peer.ns / 1e6:.3f}{kernel}")
    cells.append("-" if row.ratio is None else f"**{row.ratio:.2f}**")
    return cells


def _fleet(result: FleetResult) -> str:
    lines = [_row(["a fleet", "value", "", "apache-tvm"]), _row(["---", "---:", "---", "---"])]
    for row in result.rows:
        value = f"{harness.show(row.figure.value)} {row.figure.unit}".rstrip()
        lines.append(_row([row.figure.name, value, _goal(row.figure), row.tvm]))
    return "\n".join([_source(result), "", *lines])


def _figures(results: Sequence[Result]) -> str:
    lines = [_row(["figure", "value", "", "command"]), _row(["---", "---:", "---", "---"])]
    for result in results:
        for figure in result.figures:
            value = f"{harness.show(figure.value)} {figure.unit}".rstrip()
            lines.append(_row([figure.name, value, _goal(figure), f"`{result.command}`"]))
    return "\n".join(lines)


def _source(result: Result) -> str:
    where = result.machine
    return (
        f"`{result.command}` on {where.model}, {where.cores} cores, FMA peak "
        f"{where.fma_gflops:.0f} GFLOP/s a core, {result.at[:10]}:"
    )


def _list(figures: Sequence[Figure]) -> list[str]:
    return [
        f"- {figure.name}: {harness.show(figure.value)} {figure.unit} {_goal(figure)}".rstrip()
        for figure in figures
    ]


def _goal(figure: Figure) -> str:
    if figure.met is None:
        return ""
    return f"({figure.goal}, {'met' if figure.met else 'missed'})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: list[str]) -> int:
    """Write the README, or compare; exit code 1 when `--check` finds it stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if stale")
    args = parser.parse_args(argv)
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    results = [read(file.read_bytes(), f"{file.parent.name}/{file.name}") for file in files]
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = replaced(old, render(results))
    if args.check:
        print("README.md is up to date" if new == old else "README.md is stale")
        return int(new != old)
    readme.write_text(new)
    print(f"README.md: {len(results)} results")
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))

"""Whether the tests would notice: small random mutants of core files, and the tests run on each.

    python tools/mutate.py [FILE...] [--mutants 40] [--seed 0] [--jobs 2] [-o json]

A mutant changes one thing in one file: a comparison turned, a constant one more or less, plus for
minus, `and` for `or`, a `not`, a loop that runs no time. The mutated sources lie in a copy, and the
tests of the file's own package run on it until the first fails; a run of over `LIMIT_S` counts as
failed too. A mutant that lives is shown as a diff, unless tools/mutants_that_live.toml says why it
computes the same. Exit code 1 where a file has less than `GOAL` of its other mutants killed.

The operators are those of cosmic-ray (https://cosmic-ray.readthedocs.io).
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from parso.tree import NodeOrLeaf
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "loopwright"
CHOSEN = (
    *("ir/simplify.py", "ir/linear.py", "sched/legal.py", "sched/nest.py", "lower/*.py"),
    *("graph/plan.py", "graph/passes/*.py", "space/*.py", "learn/features.py"),
    *("fleet/book/*.py", "fleet/security/*.py", "measure/check.py"),
)
"""The files that are mutated when none is named."""
TURNED = (
    *("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "GtE_LtE", "LtE_GtE", "Gt_Lt"),
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
)
CALCULATED = (
    *("Add_Sub", "Sub_Add", "Mul_Add", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"),
    *("Mul_FloorDiv", "BitAnd_BitOr", "BitOr_BitAnd", "LShift_RShift", "RShift_LShift"),
)
OPERATORS = (
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in TURNED),
    *(f"core/ReplaceBinaryOperator_{pair}" for pair in CALCULATED),
    *("core/ReplaceUnaryOperator_Delete_Not", "core/ReplaceUnaryOperator_USub_UAdd"),
    *("core/AddNot", "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd", "core/NumberReplacer"),
    *("core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue", "core/ZeroIterationForLoop"),
    *("core/ReplaceBreakWithContinue", "core/ReplaceContinueWithBreak"),
)
LIVE_KNOWN = ROOT / "tools" / "mutants_that_live.toml"
LIMIT_S = 60
GOAL = 0.9


@dataclass(frozen=True, slots=True, order=True)
class Mutant:
    """`file` (below src/loopwright) with the `occurrence`-th use of `operator` changed."""

    file: str
    line: int
    operator: str
    occurrence: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant. `diff` has the changed lines alone, `why` a known reason to live."""

    mutant: Mutant
    killed: bool
    diff: str
    why: str | None


def main(arguments: Sequence[str]) -> int:
    """Judge the files named, or the core files; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", help="below src/loopwright; the core files when none")
    parser.add_argument("--mutants", type=int, default=40, help="of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    verdicts: list[Verdict] = []
    for file in options.files or chosen_files():
        if not (PACKAGE / file).is_file():
            parser.error(f"there is no {file} below {PACKAGE}")
        console = Console(stderr=options.output == "json", highlight=False)
        for verdict in judge(file, options.mutants, options.seed, options.jobs):
            show(verdict, console)
            verdicts.append(verdict)
    if options.output == "json":
        print(json.dumps([as_json(verdict) for verdict in verdicts], indent=1))
    else:
        Console().print(table(verdicts))
    return int(any(share(verdicts, file) < GOAL for file in {v.mutant.file for v in verdicts}))


def chosen_files() -> list[str]:
    """The files of `CHOSEN`, heads of packages left out."""
    found = [path for pattern in CHOSEN for path in sorted(PACKAGE.glob(pattern))]
    return [str(path.relative_to(PACKAGE)) for path in found if path.name != "__init__.py"]


def judge(file: str, count: int, seed: int, jobs: int) -> Iterator[Verdict]:
    """The verdicts over `count` mutants of `file`, or over all if there are fewer, as they come.

    Raises: SystemExit when the tests fail on the file as it is.
    """
    mutants = sample(file, (PACKAGE / file).read_text(), count, seed)
    reasons = known_reasons()
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for job in range(jobs):
            shutil.copytree(PACKAGE, Path(folder) / str(job) / "loopwright")
            copies.put(Path(folder) / str(job))
        tests = tests_of(file)
        copy = copies.get()
        if not passes(copy, tests):
            raise SystemExit(f"{' '.join(tests)}: must pass on {file} as it is, within {LIMIT_S} s")
        copies.put(copy)

        def try_one(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                return verdict_on(mutant, copy, tests, reasons)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(try_one, mutants)


def verdict_on(
    mutant: Mutant, copy: Path, tests: Sequence[str], reasons: dict[tuple[str, str], str]
) -> Verdict:
    """Whether `tests` fail on `mutant`, written into the sources in `copy` for as long."""
    before = (PACKAGE / mutant.file).read_text()
    after = mutate_code(before, plugins.get_operator(mutant.operator)(), mutant.occurrence)
    path = copy / "loopwright" / mutant.file
    path.write_text(after)
    try:
        killed = not passes(copy, tests)
    finally:
        path.write_text(before)
    diff = changed_lines(before, after)
    return Verdict(mutant, killed, diff, reasons.get((mutant.file, diff)))


def tests_of(file: str) -> list[str]:
    """The tests of the package of `file`, those named after it first: they fail soonest."""
    folder = ROOT / "tests" / Path(file).parent
    while not folder.is_dir():
        folder = folder.parent
    own = sorted(folder.glob(f"test_{Path(file).stem}*.py"))
    return [str(path.relative_to(ROOT)) for path in (*own, folder)]


def passes(copy: Path, tests: Sequence[str]) -> bool:
    """Whether `tests` pass on the package in `copy`, within `LIMIT_S`."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    command += ["-o", f"pythonpath={copy} tests/support tools"]
    environment = {**os.environ, "PYTHONPATH": str(copy)}  # noqa: TID251  # of a process
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(LIMIT_S) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def sample(file: str, text: str, count: int, seed: int) -> list[Mutant]:
    """`count` mutants of different places in `text`, drawn by `seed`."""
    places: dict[tuple[int, int], list[Mutant]] = {}
    for place, mutant in all_mutants(file, text):
        places.setdefault(place, []).append(mutant)
    rng = np.random.default_rng([seed, *file.encode()])
    order = sorted(places)
    drawn = sorted(rng.permutation(len(order))[:count])
    return [places[order[i]][rng.integers(len(places[order[i]]))] for i in drawn]


def all_mutants(file: str, text: str) -> Iterator[tuple[tuple[int, int], Mutant]]:
    """(place, mutant) for all that the operators can change in `text`, annotations left out."""
    nodes = list(ast_nodes(get_ast(text)))
    for name in OPERATORS:
        operator = plugins.get_operator(name)()
        occurrence = -1
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                occurrence += 1
                if not in_annotation(node):
                    yield start, Mutant(file, start[0], name, occurrence)


def in_annotation(node: NodeOrLeaf) -> bool:
    """Whether `node` stands in an annotation, a type alias or a decorator: no run evaluates it."""
    child, parent = node, node.parent
    while parent is not None:
        if parent.type == "tfpdef" or parent.type == "decorator":
            return True
        if parent.type == "annassign" and (child is parent.children[1] or _is_alias(parent)):
            return True
        if parent.type == "funcdef" and child is getattr(parent, "annotation", None):
            return True
        child, parent = parent, parent.parent
    return False


def _is_alias(annotated: NodeOrLeaf) -> bool:
    return bool(annotated.get_code().lstrip(": ").startswith("TypeAlias"))


def changed_lines(before: str, after: str) -> str:
    """The lines that differ, with - and + in front."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(
        f"{line[0]} {line[1:].strip()}"
        for line in lines
        if line[0] in "+-" and not line.startswith(("---", "+++"))
    )


def known_reasons() -> dict[tuple[str, str], str]:
    """Why a mutant may live, by its file and its changed lines."""
    if not LIVE_KNOWN.exists():
        return {}
    rows = tomllib.loads(LIVE_KNOWN.read_text()).get("mutant", [])
    return {(row["file"], row["diff"].strip()): row["why"] for row in rows}


def share(verdicts: Sequence[Verdict], file: str) -> float:
    """The killed, of the mutants of `file` without a known reason to live."""
    judged = [v.killed for v in verdicts if v.mutant.file == file and (v.killed or v.why is None)]
    return sum(judged) / len(judged) if judged else 1.0


def show(verdict: Verdict, console: Console) -> None:
    """Print a mutant that lives for no known reason."""
    if not verdict.killed and verdict.why is None:
        mutant = verdict.mutant
        console.print(f"{mutant.file}:{mutant.line}\n{verdict.diff}\n", markup=False)


def table(verdicts: Sequence[Verdict]) -> Table:
    """How many mutants of each file were killed."""
    rows = Table("file", "mutants", "killed", "live, and why is known", "live", "share killed")
    for file in dict.fromkeys(verdict.mutant.file for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.mutant.file == file]
        killed = sum(verdict.killed for verdict in own)
        known = sum(not verdict.killed and verdict.why is not None for verdict in own)
        counts = (len(own), killed, known, len(own) - killed - known)
        rows.add_row(file, *map(str, counts), f"{share(own, file):.0%}")
    return rows


def as_json(verdict: Verdict) -> dict[str, object]:
    """`verdict` for -o json."""
    mutant, known = verdict.mutant, ("killed", "diff", "why")
    return asdict(mutant) | {name: getattr(verdict, name) for name in known}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

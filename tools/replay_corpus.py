"""Show that a refactoring changes no kernel and no search: `no difference`, or what differs.

    python tools/replay_corpus.py check [--against COMMIT]
    python tools/replay_corpus.py diff ID... [--against COMMIT]
    python tools/replay_corpus.py write

`check` makes the corpus (what is in it, `tools/corpus.py` says) and compares it with the digests in
`tools/corpus.json`; of the first that differ it shows how their texts changed, which it makes again
at the commit that wrote the digests. A change that is meant is taken in with `write`.
"""

from __future__ import annotations

import argparse
import difflib
import enum
import itertools
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import corpus
import loopwright
from loopwright import jsonio
from loopwright.errors import ConfigError, EnvironmentFailure, LoopwrightError, RecordsError

BASELINE = corpus.ROOT / "tools" / "corpus.json"
_SHARED = ("lightgbm", "numpy")
"""What may change the records of a search beside the package itself."""
_DIFFS = 3
_DIFF_LINES = 60


@dataclass(frozen=True, slots=True)
class Baseline:
    """The digests by id, and the versions of libraries they were made with."""

    digests: Mapping[str, str]
    versions: Mapping[str, str]


class Kind(enum.Enum):
    """How an entry differs from the baseline."""

    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry that differs."""

    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.id}"


def digests(groups: Sequence[str], jobs: int) -> dict[str, str]:
    """The digest of every entry of `groups` by its id, made by `jobs` processes."""
    if jobs == 1:
        return dict(itertools.chain.from_iterable(map(_digests, groups)))
    context = multiprocessing.get_context("spawn")  # lightgbm's threads do not survive a fork
    with ProcessPoolExecutor(min(jobs, len(groups)), mp_context=context) as pool:
        return dict(itertools.chain.from_iterable(pool.map(_digests, groups)))


def _digests(group: str) -> list[tuple[str, str]]:
    return [(entry.id, entry.digest) for entry in corpus.entries(group)]


def texts(ids: Sequence[str]) -> dict[str, str]:
    """The texts of entries; those that there are not are left out."""
    wanted, known = set(ids), corpus.groups()
    groups = [g for g in dict.fromkeys(i.partition(" / ")[0] for i in ids) if g in known]
    found = itertools.chain.from_iterable(corpus.entries(group) for group in groups)
    return {entry.id: entry.text for entry in found if entry.id in wanted}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Difference, ...]:
    """What differs between two sets of digests: what changed or is new, then what is gone."""
    found = []
    for id_, digest in now.items():
        if id_ not in before:
            found.append(Difference(Kind.NEW, id_))
        elif before[id_] != digest:
            found.append(Difference(Kind.CHANGED, id_))
    found += [Difference(Kind.GONE, id_) for id_ in before if id_ not in now]
    return tuple(found)


def load(path: Path) -> Baseline:
    """The baseline in a file. Raises: RecordsError when there is none."""
    try:
        return jsonio.loads(path.read_bytes(), Baseline)
    except (OSError, ValueError) as error:
        raise RecordsError(f"{path} is not a baseline: {error}; make one with `write`") from error


def versions() -> dict[str, str]:
    """The installed versions of what searches depend on."""
    return {name: metadata.version(name) for name in _SHARED}


def texts_at(commit: str, ids: Sequence[str]) -> dict[str, str]:
    """The texts of entries as they were at a commit, made by its own source and tools.

    Raises: EnvironmentFailure when they cannot be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        archive = Path(folder) / "tree.tar"
        _output(["git", "-C", str(corpus.ROOT), "archive", "-o", str(archive), commit])
        with tarfile.open(archive) as tar:
            tar.extractall(tree, filter="data")
        script = tree / "tools" / "replay_corpus.py"
        python = ["env", f"PYTHONPATH={tree / 'src'}", sys.executable]
        return jsonio.loads(_output([*python, str(script), "texts", *ids]), dict[str, str])


def commit_of(path: Path) -> str:
    """The last commit that changed a file. Raises: EnvironmentFailure when there is none."""
    command = ["git", "-C", str(corpus.ROOT), "log", "-1", "--format=%H", "--", str(path)]
    found = _output(command).strip()
    if not found:
        raise EnvironmentFailure(f"no commit has {path}; say which to compare with by --against")
    return found


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailure(f"{' '.join(command[:6])}: {done.stderr.strip()[-400:]}")
    return done.stdout


def show_diffs(ids: Sequence[str], commit: str, most_lines: int | None) -> None:
    """Print how the texts of entries changed since a commit."""
    before, now = texts_at(commit, ids), texts(ids)
    for id_ in ids:
        print(f"\n{id_}, since {commit[:12]}")
        old, new = (side.get(id_, "").splitlines() for side in (before, now))
        lines = list(difflib.unified_diff(old, new, "before", "now", lineterm=""))
        print("\n".join(lines[:most_lines]) if lines else "no difference")
        if most_lines is not None and len(lines) > most_lines:
            print(f"... {len(lines) - most_lines} more lines; python {sys.argv[0]} diff '{id_}'")


def check(args: argparse.Namespace) -> int:
    """Exit code 0 when the corpus is as it was, else 1."""
    groups = _groups(args.only)
    baseline = load(args.baseline)
    before = {i: d for i, d in baseline.digests.items() if i.partition(" / ")[0] in groups}
    now = digests(groups, args.jobs)
    found = differences(before, now)
    if not found:
        print(f"no difference: {_counted(now)}")
        return 0
    print(f"{len(found)} of {_counted(now)} differ")
    for difference in found[: args.shown]:
        print(f"  {difference}")
    if len(found) > args.shown:
        print(f"  ... and {len(found) - args.shown} more; see --shown")
    if baseline.versions != versions():
        print(f"the baseline was made with {baseline.versions}, this with {versions()}")
    changed = [d.id for d in found if d.kind is Kind.CHANGED][:_DIFFS]
    if changed:
        show_diffs(changed, args.against or commit_of(args.baseline), _DIFF_LINES)
    return 1


def write(args: argparse.Namespace) -> int:
    """Write the digests of the corpus as it is now."""
    made = digests(_groups(args.only), args.jobs)
    baseline = Baseline(made, versions())
    args.baseline.write_text(jsonio.pretty(baseline) + "\n", encoding="utf-8")
    print(f"{args.baseline}: {_counted(made)}")
    return 0


def diff(args: argparse.Namespace) -> int:
    """Print how the texts of entries changed, in full."""
    show_diffs(args.ids, args.against or commit_of(args.baseline), None)
    return 0


def write_texts(args: argparse.Namespace) -> int:
    """Print the texts of entries as a JSON object."""
    print(jsonio.line(texts(args.ids)))
    return 0


def _groups(only: Sequence[str]) -> tuple[str, ...]:
    """The groups that are asked for; all when none is."""
    known = corpus.groups()
    for name in only:
        if name not in known:
            raise ConfigError(f"there is no group {name!r}; there are {', '.join(known)}")
    return tuple(only) or known


def _counted(ids: Iterable[str]) -> str:
    """How many entries there are, by what they are."""
    kinds = Counter(
        "searches" if i.startswith("search ") else "plans" if i.endswith(" / plan") else "kernels"
        for i in ids
    )
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ("kernels", "plans", "searches"))


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--baseline", type=Path, default=BASELINE, metavar="FILE", help="the file of digests"
    )
    making = argparse.ArgumentParser(add_help=False)
    making.add_argument(
        "--only", action="append", default=[], metavar="GROUP", help="this group; may be repeated"
    )
    cores = len(os.sched_getaffinity(0))
    making.add_argument("--jobs", type=int, default=cores, help="processes that make the corpus")
    against = argparse.ArgumentParser(add_help=False)
    against.add_argument(
        "--against",
        metavar="COMMIT",
        help="whose texts to compare with; by default the last commit that changed the baseline",
    )
    one = commands.add_parser(
        "check", parents=[shared, making, against], help="compare with the digests"
    )
    one.add_argument("--shown", type=int, default=20, help="how many differing ids are listed")
    one.set_defaults(run=check)
    one = commands.add_parser("write", parents=[shared, making], help="write the digests anew")
    one.set_defaults(run=write)
    one = commands.add_parser("diff", parents=[shared, against], help="show how entries changed")
    one.add_argument("ids", nargs="+", metavar="ID", help="an entry, as `check` lists it")
    one.set_defaults(run=diff)
    one = commands.add_parser("texts", help="print entries of this tree as JSON")
    one.add_argument("ids", nargs="+", metavar="ID", help="an entry, as `check` lists it")
    one.set_defaults(run=write_texts)
    return made


def require_own_tree() -> None:
    """Nothing, if the package that is imported is the one beside this tool.

    Raises: EnvironmentFailure.
    """
    source = Path(str(loopwright.__file__)).resolve()
    if not source.is_relative_to(corpus.ROOT):
        raise EnvironmentFailure(
            f"loopwright comes from {source.parent}, not from {corpus.ROOT}; set PYTHONPATH to "
            f"{corpus.ROOT / 'src'}"
        )


def main(argv: Sequence[str]) -> int:
    """Exit code 0 when nothing differs, 1 when something does, 2 when that cannot be said."""
    args = parser().parse_args(argv)
    try:
        require_own_tree()
        code: int = args.run(args)
    except LoopwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

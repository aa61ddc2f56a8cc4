"""Measure every config of a narrowed space on this machine and write it as a landscape.

    python tools/record_landscape.py C9 [--limit 2000] [--out landscapes]

Each trial goes to a database beside the output first; run it again to go on after an interruption.
Keep the machine quiet meanwhile: what is recorded is what every search is compared on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from loopwright.api.replay import origin_of
from loopwright.api.task import task_of
from loopwright.api.tune import ORACLE, software
from loopwright.build.compile import compile_config
from loopwright.errors import LoopwrightError
from loopwright.fleet.local import LocalRunner
from loopwright.measure.check import Checker
from loopwright.measure.landscape import Attr, landscape, save
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import Query, SqlStore
from loopwright.search.journal import Journal
from loopwright.search.result import Budget, Event, TrialDone
from loopwright.search.tuner import TuneOptions, tune_tasks
from loopwright.search.unguided import RandomPolicy
from loopwright.space.knobs import KnobValue, narrowed
from loopwright.space.restricted import RestrictedSpace
from loopwright.space.space import Space
from loopwright.target.parse import parse
from loopwright.templates.task import Task

_PADDED = {"padding": (1, 1, 1, 1)}
TASKS: Mapping[str, tuple[str, Mapping[str, Attr]]] = {
    "C2": ("conv2d", {"data": (1, 64, 56, 56), "weight": (64, 64, 3, 3), **_PADDED}),
    "C6": ("conv2d", {"data": (1, 128, 28, 28), "weight": (128, 128, 3, 3), **_PADDED}),
    "C9": ("conv2d", {"data": (1, 256, 14, 14), "weight": (256, 256, 3, 3), **_PADDED}),
    "C12": ("conv2d", {"data": (1, 512, 7, 7), "weight": (512, 512, 3, 3), **_PADDED}),
    "matmul-512": ("matmul", {"a": (512, 512), "b": (512, 512)}),
}
_FIXED = ("pad", "lanes")
"""Knobs held at their first value: what they do is known, and the others keep more of theirs."""
_SEED = 2018  # of the narrowing and of the order of measuring; a landscape can be made again


def main(argv: list[str]) -> int:
    """Measure and write; exit code 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--limit", type=int, default=2000, help="configs to measure at most")
    parser.add_argument("--out", type=Path, default=Path("landscapes"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    operator, attrs = TASKS[args.name]
    full = task_of(operator, attrs, target=parse("cpu"), threads=1)
    small = narrow(full.space, args.limit, np.random.default_rng(_SEED))
    points = small.enumerate()
    task = replace(full, space=RestrictedSpace(small, points))
    with SqlStore(f"sqlite:///{args.out / args.name}.db") as store:
        measure(task, store, len(points))
        key = task_key(task, fingerprint(task.target))
        first = first_of_each(list(store.query(Query.of(key))), task)
    scape = landscape(
        args.name,
        origin_of(task, fingerprint(task.target)),
        small,
        [(record.config, record.outcome) for record in first],
    )
    path = args.out / f"{args.name}.json.gz"
    save(scape, path)
    gflops = scape.flops / scape.best_ns
    failed = len(scape.failures)
    sys.stdout.write(f"{path}: {len(scape)} configs, best {gflops:.1f} GFLOP/s, {failed} failed\n")
    return 0


def measure(task: Task, store: SqlStore, total: int) -> None:
    """Bring every config of `task` into `store`; those that are there are not measured again.

    Nothing is abandoned: the time of a first, cold call is not the time of the config.
    """
    journal = Journal(store, fingerprint(task.target), "random", _SEED, software())
    checker = Checker(ORACLE, _SEED)
    with LocalRunner(compile_config, threads=task.threads, checker=checker) as runner:
        tune_tasks(
            [task],
            runner,
            lambda of, rng: RandomPolicy(of.space, rng),
            budget=Budget(total),
            journal=journal,
            on_event=lambda event: tell(event, total),
            seed=_SEED,
            options=TuneOptions(abandon=None),
        )


def narrow(space: Space, limit: int, rng: np.random.Generator) -> Space:
    """`space` with values of the largest knobs dropped at random until `limit` points are left."""
    held = [narrowed(k, k.values[:1]) if k.name in _FIXED else k for k in space.knobs]
    space = Space(held, space.constraints)
    while True:
        share = space.estimate_valid(rng)
        if share * space.cardinality <= limit and space.cardinality <= 1 << 20:
            return space
        largest = int(np.argmax(space.radices))
        knob = space.knobs[largest]
        values: list[KnobValue] = list(knob.values)
        del values[int(rng.integers(len(values)))]
        knobs = list(space.knobs)
        knobs[largest] = narrowed(knob, values)
        space = Space(knobs, space.constraints)


def first_of_each(records: list[Record], task: Task) -> list[Record]:
    """The first record of each config of the task, as a search would meet it."""
    found: dict[str, Record] = {}
    for record in records:
        point = task.space.encode(record.config)
        if task.space.valid(point[None, :])[0]:
            found.setdefault(record.config.key, record)
    return list(found.values())


def tell(event: Event, total: int) -> None:
    """Say how far it is, now and then."""
    if isinstance(event, TrialDone) and event.n % 50 == 0 and not event.recheck:
        best = 0.0 if event.best is None else event.best.gflops
        rate = event.n / max(event.elapsed_s, 1e-9)
        line = f"\r{event.n}/{total} best {best:.1f} GFLOP/s, {rate:.1f} trials/s "
        sys.stderr.write(line)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LoopwrightError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)

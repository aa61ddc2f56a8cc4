"""Make the records that come with the package: the best of each task of the bundled models.

Of tasks that may lay their arguments out in several ways, the best of each is shipped.

    python tools/ship_records.py --records sqlite:///out/ship.db [--models resnet18,...]
                                 [--threads 1,2]

Records of tasks that none of the models has are left out when all of them are asked for; what is
shipped already for this target stays unless it is beaten.
"""

from __future__ import annotations

import argparse
import sys

from loopwright.deploy.choose import ModelOptions, tasks
from loopwright.deploy.compile import import_graph
from loopwright.frontends.onnx.bundled import bundled
from loopwright.graph.fuse import fuse
from loopwright.records import shipped
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import Query, SqlStore
from loopwright.target.host import host
from loopwright.templates.task import Task

_MANY = 64


def main(argv: list[str]) -> int:
    """Write the file for this machine's target; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", required=True, help="where the records are")
    parser.add_argument("--models", default=",".join(bundled()))
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args(argv)
    target = host()
    path = shipped.path_of(target)
    kept: dict[tuple[object, ...], Record] = {}
    models = args.models.split(",")
    wanted = _tasks(models, [int(n) for n in args.threads.split(",")])
    if set(models) != set(bundled()):
        others = shipped.ShippedRecords(target).best(Query())
        kept = {(r.key, r.config): r for r in others if Query.of(r.key) not in wanted}
    with SqlStore(args.records, create=False) as store:
        for query, task in wanted.items():
            found = [
                *store.best(query),
                *(store.fastest(query, _MANY) if task.blockings > 1 else ()),
            ]
            found += shipped.ShippedRecords(target).best(query)
            for record in sorted(found, key=lambda record: record.best_ns or 0.0):
                if task.space.contains(record.config):
                    kept.setdefault((query, task.blocking(record.config)), record)
    count = shipped.write(kept.values(), path)
    sys.stdout.write(f"{count} records, {path.stat().st_size / 1024:.0f} KiB: {path}\n")
    return 0


def _tasks(models: list[str], threads: list[int]) -> dict[Query, Task]:
    """The tasks of bundled models, by what asks for their records."""
    found: dict[Query, Task] = {}
    for model in models:
        fused = fuse(import_graph(model, hollow=True))
        for count in threads:
            options = ModelOptions(host(), count)
            for kernel in fused.kernels:
                if kernel.operator == "fused":
                    continue
                for task in tasks(kernel, options):
                    found[Query.of(task_key(task, fingerprint(task.target)))] = task
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

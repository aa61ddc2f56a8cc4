"""Make the records that come with the package: the best of each task of the bundled models.

    python tools/ship_records.py --records sqlite:///out/ship.db [--models resnet18,...]
                                 [--threads 1,2]

Records of tasks that no bundled model has are left out; what is shipped already for this target
stays unless it is beaten.
"""

from __future__ import annotations

import argparse
import sys

from loopwright.api.choose import Options, tasks
from loopwright.api.compile import import_graph
from loopwright.graph.fuse import fuse
from loopwright.graph.models import bundled
from loopwright.records import shipped
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import Query, SqlStore
from loopwright.target import host


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
    before = shipped.ShippedRecords(target).best(Query())
    with SqlStore(args.records, create=False) as store:
        wanted = _queries(args.models.split(","), [int(n) for n in args.threads.split(",")])
        for record in (*before, *(r for query in wanted for r in store.best(query))):
            key = (record.key.workload, record.key.template, record.key.version, record.key.threads)
            best = kept.get(key)
            if best is None or (record.best_ns or 0.0) < (best.best_ns or 0.0):
                kept[key] = record
    count = shipped.write(kept.values(), path)
    sys.stdout.write(f"{count} records, {path.stat().st_size / 1024:.0f} KiB: {path}\n")
    return 0


def _queries(models: list[str], threads: list[int]) -> list[Query]:
    found: dict[Query, None] = {}
    for model in models:
        fused = fuse(import_graph(model, hollow=True))
        for count in threads:
            options = Options(host(), count)
            for kernel in fused.kernels:
                if kernel.operator == "fused":
                    continue
                for task in tasks(kernel, options):
                    found[Query.of(task_key(task, fingerprint(task.target)))] = None
    return list(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The record to use for a task, or why there is none."""

from __future__ import annotations

from dataclasses import replace

from loopwright.errors import RecordsError
from loopwright.records.record import Record, TaskKey
from loopwright.records.store import Query, RecordStore


def lookup(store: RecordStore, key: TaskKey, *, what: str, where: str) -> Record:
    """The fastest checked record under `key`.

    Args:
        what: the task, for the error.
        where: the records, for the error.

    Raises: RecordsError that says what was found instead: records of another device, of another
        template version, for another number of threads, or only failures.
    """
    found = store.best(Query.of(key))
    if found:
        return found[0]
    raise RecordsError(f"{where} has no usable record for {what}: {_reason(store, key)}")


def _reason(store: RecordStore, key: TaskKey) -> str:
    """What the records have that is closest to `key`, and what to do."""
    every = Query.of(key)
    if any(True for _ in store.query(every)):
        return "no trial passed so far; tune it with more trials"
    here = replace(every, device=None)
    others = sorted({record.key.device for record in store.best(here)})
    if others:
        return f"only records of another device ({', '.join(others)}); tune it on {key.device}"
    threads = sorted({r.key.threads for r in store.best(replace(every, threads=None))})
    if threads:
        shown = ", ".join(map(str, threads))
        return f"tuned for {shown} threads, not for {key.threads}; tune it for {key.threads}"
    versions = sorted({r.key.version for r in store.best(replace(here, version=None))})
    if versions:
        shown = ", ".join(map(str, versions))
        return (
            f"its records are of version {shown} of the template {key.template}, which is now at "
            f"{key.version}; tune it again"
        )
    targets = sorted({r.key.target for r in store.best(replace(here, target=None))})
    if targets:
        return f"only records for the target {', '.join(targets)}, not {key.target}; tune it here"
    return "it was never tuned; run `loopwright tune` first"

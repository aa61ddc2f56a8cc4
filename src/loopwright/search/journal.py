"""How a tuning run stores its trials and finds those of earlier runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from loopwright.outcome import Outcome
from loopwright.records.record import Record, task_key
from loopwright.records.store import Query
from loopwright.space.config import Config
from loopwright.templates.task import Task


class TrialStore(Protocol):
    """What a run needs of a `RecordStore`."""

    def append(self, records: Iterable[Record]) -> int:
        """Keep `records`."""
        ...

    def query(self, query: Query) -> Iterator[Record]:
        """The records of `query` in the order of insertion."""
        ...


@dataclass(frozen=True, slots=True)
class Journal:
    """A store, and the fields that all records of one run share.

    Args:
        device: the fingerprint of the machine that measures.
        software: the versions that make the code.
        now: seconds since 1970 UTC.
    """

    store: TrialStore
    device: str
    policy: str
    seed: int
    software: str
    now: Callable[[], float] = time.time

    def write(self, task: Task, trial: int, config: Config, outcome: Outcome) -> None:
        """Store one trial; it is in the store when this returns."""
        record = Record(
            key=task_key(task, self.device),
            operator=task.operator,
            attrs=task.attrs,
            flops=task.flops,
            config=config,
            outcome=outcome,
            policy=self.policy,
            seed=self.seed,
            trial=trial,
            at_s=self.now(),
            software=self.software,
        )
        self.store.append([record])

    def earlier(self, task: Task) -> list[Record]:
        """Every trial of `task` on this device, by any policy and seed, in the order they came."""
        return list(self.store.query(Query.of(task_key(task, self.device))))

    def own(self, record: Record) -> bool:
        """Whether `record` belongs to this run, or to one by the same command."""
        return record.policy == self.policy and record.seed == self.seed

"""How each kernel of a model is computed: the best on record, or what is good untuned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from loopwright.graph.fuse import FusedKernel
from loopwright.graph.layouts import Chosen, Layouts, alignment
from loopwright.ir.stmt import LoopKind
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import Query
from loopwright.sched.nest import nest
from loopwright.space.config import Config
from loopwright.target.union import Target
from loopwright.templates.apply import good_config, scheduled
from loopwright.templates.registry import templates_for
from loopwright.templates.task import Task, make

TUNED, TRANSFERRED, DEFAULT, COPY = "tuned", "transferred", "default", "copy"
_UNEVEN = 1.25
"""How much longer than evenly shared work a kernel with records of other threads may take."""
_MANY = 64
"""Records among which other layouts are looked for."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What may be chosen. `threads` is how many the kernels run on.

    With `exact`, none rounds more than what it computes: 3x3 convolutions do not use Winograd's
    algorithm.
    """

    target: Target
    threads: int = 1
    exact: bool = False


def exact_option(exact: bool, winograd: bool | None) -> bool:  # noqa: FBT001  # what a caller gave
    """What `exact` and the older keyword `winograd`, which is deprecated, ask for together."""
    if winograd is not None:
        warnings.warn(
            "winograd=... is deprecated; use exact=True instead of winograd=False",
            DeprecationWarning,
            stacklevel=3,
        )
    return exact or winograd is False


class BestRecords(Protocol):
    """A source of the fastest programs."""

    def best(self, query: Query) -> tuple[Record, ...]:
        """For each key within `query`, its fastest record that was compared with the oracle."""
        ...

    def fastest(self, query: Query, count: int) -> tuple[Record, ...]:
        """The `count` fastest records within `query` that were compared with the oracle."""
        ...


@dataclass(slots=True)
class Chooser:
    """Chooses for kernels; asked again for the same kernel, it answers the same.

    Of several ways to compute a kernel that have records, the fastest on this device is taken;
    records of another device of the same instruction set, or for another number of threads, are
    used where there are none (`transferred`), the latter if they share the work evenly enough.
    """

    options: ModelOptions
    stores: Sequence[BestRecords] = ()
    refused: frozenset[tuple[str, Config]] = frozenset()
    """Keys of tasks with configs that may not be used: they are too inexact."""
    use_records: bool = True
    pinned: Mapping[str, Chosen] = field(default_factory=dict)
    """How kernels are computed for which that is settled, by name."""
    _known: dict[tuple[str, Layouts], Chosen] = field(default_factory=dict, init=False)

    def __call__(self, kernel: FusedKernel, layouts: Layouts) -> Chosen:
        """How `kernel` is computed, given the layouts that are fixed already."""
        settled = self.pinned.get(kernel.name)
        if settled is not None and settled.task.layouts == layouts:
            return settled
        key = (kernel.workload.key, layouts)
        if key not in self._known:
            self._known[key] = self._choose(tasks(kernel, self.options, layouts))
        return self._known[key]

    def alternatives(self, kernel: FusedKernel) -> tuple[Chosen, ...]:
        """The way to compute `kernel`, and others that were measured with other layouts.

        Each is the fastest with its layouts.
        """
        first = self(kernel, ())
        if kernel.name in self.pinned or first.origin != TUNED:
            return (first,)
        found = {first.task.blocking(first.config): first}
        for task in tasks(kernel, self.options):
            if task.blockings > 1:
                for other in self._measured(task):
                    blocking = task.blocking(other.config)
                    known = found.get(blocking)
                    if known is None or (other.expected_ns or 0.0) < (known.expected_ns or 0.0):
                        found[blocking] = other
        return tuple(found.values())

    def _measured(self, task: Task) -> list[Chosen]:
        """What was measured on this device and is fast, the fastest first."""
        query = Query.of(task_key(task, fingerprint(task.target)))
        records = [record for store in self.stores for record in store.fastest(query, _MANY)]
        return [
            Chosen(task, record.config, TUNED, record.best_ns, record.key.device)
            for record in sorted(records, key=lambda record: record.best_ns or 0.0)
            if (task.key, record.config) not in self.refused and task.space.contains(record.config)
        ]

    def _choose(self, candidates: Sequence[Task]) -> Chosen:
        found = [chosen for task in candidates if (chosen := self._recorded(task)) is not None]
        own = [chosen for chosen in found if chosen.origin == TUNED]
        best = min(own or found, key=lambda c: c.expected_ns or 0.0, default=None)
        if best is not None:
            return best
        for task in candidates[:-1]:
            config = good_config(task)
            if (task.key, config) not in self.refused:
                return Chosen(task, config, DEFAULT)
        return Chosen(candidates[-1], good_config(candidates[-1]), DEFAULT)

    def _recorded(self, task: Task) -> Chosen | None:
        """The best record of a task: of this device, else of another with its instructions."""
        if not self.use_records:
            return None
        key = task_key(task, fingerprint(task.target))
        own = Query.of(key)
        elsewhere = replace(own, device=None)
        anyhow = replace(elsewhere, threads=None)
        for query, origin in ((own, TUNED), (elsewhere, TRANSFERRED), (anyhow, TRANSFERRED)):
            records: list[Record] = []
            for store in self.stores:
                records += store.best(query)
            records.sort(key=lambda record: record.best_ns or 0.0)
            for record in records:
                allowed = (task.key, record.config) not in self.refused
                if not allowed or not task.space.contains(record.config):
                    continue
                same_threads = record.key.threads == task.threads
                if same_threads or _shares_evenly(task, record.config):
                    return Chosen(task, record.config, origin, record.best_ns, record.key.device)
        return None


def _shares_evenly(task: Task, config: Config) -> bool:
    """Whether the parallel loop of the output has iterations for all threads, and few to spare.

    What was tuned on one thread may have any number, one among them.
    """
    output = nest(scheduled(task, config)).stages[-1]
    extents = [int(loop.extent) for loop in output.loops if loop.kind is LoopKind.PARALLEL]
    if not extents:
        return False
    rounds = -(-extents[0] // task.threads)
    return rounds * task.threads / extents[0] <= _UNEVEN


def tasks(kernel: FusedKernel, options: ModelOptions, layouts: Layouts = ()) -> tuple[Task, ...]:
    """The tasks that compute a kernel, the one that is usually fastest first."""
    templates = templates_for(kernel.operator, kernel.workload, options.target)
    return tuple(
        make(
            kernel.workload,
            template,
            options.target,
            threads=options.threads,
            operator=kernel.operator,
            attrs=kernel.attrs,
            layouts=layouts,
            alignment=alignment(options.target),
        )
        for template in templates
        if template.answers(exact=options.exact, constant_weight=kernel.has_constant_weight)
    )

"""A tiny task over a synthetic landscape, and policies run on it without a tuner."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from synthetic import synthetic_features

from loopwright import te
from loopwright.learn.dataset import Floats
from loopwright.measure.landscape import Landscape
from loopwright.sched.schedule import Schedule
from loopwright.search.policy import Policy, Trial
from loopwright.space.space import Space
from loopwright.target.parse import parse
from loopwright.target.union import Target
from loopwright.te.workload import Workload, workload
from loopwright.templates.task import Task
from loopwright.templates.template import Configuration, Template


def _space(_: Workload, __: Target) -> Space:
    return Space(())


def _schedule(_: Schedule, __: Configuration) -> None:
    """Replayed only."""


TEMPLATE = Template("synthetic", 1, _space, _schedule)


def task(scape: Landscape, name: str = "double", extent: int = 8) -> Task:
    """A task whose space is that of `scape`; what it computes is never run."""
    a = te.placeholder((extent,), name="a")
    doubled = te.compute((extent,), lambda i: a[i] + a[i], name=name)
    work = workload([doubled], [a, doubled], name=name)
    return Task(name, (), work, TEMPLATE, parse("x86-64-avx2"), 1, scape.space)


def featurizer(space: Space) -> Callable[[np.ndarray], np.ndarray]:
    return functools.partial(synthetic_features, space)


def best_so_far(policy: Policy, scape: Landscape, trials: int, slots: int = 3) -> Floats:
    """The best time after each of up to `trials`, with `slots` configs in flight."""
    space = scape.space
    rows = {key: row for row, key in enumerate(space.keys(space.points).tolist())}
    flying = policy.ask(slots)
    seen: set[str] = set()
    times: list[float] = []
    while flying and len(times) < trials:
        config = flying.pop(0)
        assert config.key not in seen, "proposed twice"
        seen.add(config.key)
        row = rows[int(space.keys(space.encode(config)[None, :])[0])]
        times.append(float(scape.ns[row]))
        policy.tell([Trial(config, scape.outcome(row))])
        flying += policy.ask(1)
    return np.minimum.accumulate(np.array(times))

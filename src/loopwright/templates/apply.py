"""Calls a template's functions that need a config; nothing else does."""

from __future__ import annotations

import numpy as np

from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.templates.task import Task
from loopwright.templates.template import Configuration, errors_named


def scheduled(task: Task, config: Configuration) -> Schedule:
    """The schedule that the template of `task` makes of a config, or of a batch of configs.

    Raises: ScheduleError for an illegal step; TemplateError when the function branches on the size
        of a batch, or raises anything else. Both name the template.
    """
    template = task.template
    with errors_named(template.name):
        rewrite = template.rewrite
        schedule = Schedule(task.workload if rewrite is None else rewrite(task.workload, config))
        for name, layout in task.layouts:
            schedule.set_layout(name, layout.order)
        template.schedule(schedule, config)
    return schedule


def good_config(task: Task) -> Config:
    """A config to use without tuning: the template's own, or the first of a seeded sample.

    Raises: TemplateError naming the template when it raises.
    """
    if task.template.default is not None:
        with errors_named(task.template.name):
            return task.template.default(task.workload, task.target)
    return task.space.decode(task.space.sample(np.random.default_rng(0), 1)[0])

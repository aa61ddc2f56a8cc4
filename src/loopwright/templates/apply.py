"""A template's schedule function is called here, and nowhere else."""

from __future__ import annotations

from loopwright.sched.schedule import Schedule
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

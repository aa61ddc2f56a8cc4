"""The one place where a template's schedule function is called."""

from __future__ import annotations

from loopwright.errors import LoopwrightError, TemplateError, UserError
from loopwright.sched.schedule import Schedule
from loopwright.templates.task import Task
from loopwright.templates.template import Configuration


def scheduled(task: Task, config: Configuration) -> Schedule:
    """The schedule that the template of `task` makes of a config, or of a batch of configs.

    Raises: ScheduleError for an illegal step; TemplateError when the function branches on the size
        of a batch, or raises anything else. Both name the template.
    """
    schedule = Schedule(task.workload)
    name = f"template {task.template.name}"
    try:
        task.template.schedule(schedule, config)
    except UserError as error:
        raise type(error)(f"{name}: {error}") from error
    except LoopwrightError:
        raise
    except Exception as error:  # a template is a user's code: name it and go on
        kind = type(error).__name__
        raise TemplateError(f"{name}: {kind}: {error} (scheduling {config})") from error
    return schedule

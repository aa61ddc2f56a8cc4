"""From a config to object code: schedule, lower, generate, assemble.

Runs in builder processes only: an error inside LLVM ends the process.
"""

from __future__ import annotations

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.llvm import emit
from loopwright.codegen.object_code import assemble
from loopwright.lower.pipeline import finish, lower
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.target import Target
from loopwright.templates.apply import scheduled
from loopwright.templates.task import Task


def compile_schedule(schedule: Schedule, target: Target, name: str | None = None) -> Artifact:
    """The object code of a schedule. Raises: ScheduleError when it has no meaning as loops."""
    kernel = finish(lower(schedule, name))
    params = tuple(
        Param(t.name, t.dtype, t.shape, schedule.layout(t.name)) for t in schedule.workload.args
    )
    return assemble(emit(kernel, params, target), target)


def compile_config(task: Task, config: Config) -> Artifact:
    """The object code of one config of a task."""
    return compile_schedule(scheduled(task, config), task.target)

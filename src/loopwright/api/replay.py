"""Recorded landscapes as tasks: what was measured, restored from its file."""

from __future__ import annotations

from dataclasses import replace

from loopwright.api.task import task_of
from loopwright.errors import RecordsError
from loopwright.measure.landscape import Landscape, Origin
from loopwright.target.parse import parse
from loopwright.templates.task import Task


def origin_of(task: Task, device: str) -> Origin:
    """What a landscape of `task` says about where it comes from."""
    return Origin(
        operator=task.operator,
        attrs=dict(task.attrs),
        template=task.template.name,
        version=task.template.version,
        workload=task.workload.key,
        target=str(task.target),
        device=device,
        threads=task.threads,
        flops=task.flops,
    )


def recorded_task(landscape: Landscape) -> Task:
    """The task that `landscape` was measured of; its space is the recorded configs.

    Raises: RecordsError when the workload or the template has changed since.
    """
    origin = landscape.origin
    target = parse(origin.target)
    task = task_of(origin.operator, origin.attrs, target=target, threads=origin.threads)
    now = (task.workload.key, task.template.name, task.template.version)
    then = (origin.workload, origin.template, origin.version)
    if now != then:
        raise RecordsError(
            f"landscape {landscape.name} was recorded of {then}, which is {now} by now; record it "
            f"anew with tools/record_landscape.py {landscape.name}"
        )
    return replace(task, space=landscape.space)

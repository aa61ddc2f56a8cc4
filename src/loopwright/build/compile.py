"""From a config to object code: schedule, lower, generate, assemble.

Runs in builder processes only: an error inside LLVM ends the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from loopwright import weights
from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.backends import backend
from loopwright.lower.pipeline import Watch, apply_passes, lower
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.target.union import Target
from loopwright.templates.apply import scheduled
from loopwright.templates.task import Task
from loopwright.trace import open_tracer


def compile_schedule(
    schedule: Schedule,
    target: Target,
    name: str | None = None,
    *,
    any_address: bool = False,
    alignment: int = 64,
    in_place: Mapping[str, str] | None = None,
    language: str | None = None,
    watch: Watch | None = None,
) -> Artifact:
    """The object code of a schedule; with `any_address` it takes plain inputs at any address.

    Args:
        alignment: of the memory of arguments that are not constants, in bytes.
        in_place: inputs whose memory is an output's, by name.
        language: what the source is written in; None: the usual one of the target.
        watch: called for each pass over the kernel.

    Raises: ScheduleError when it has no meaning as loops; ConfigError for a language that the
        target has not.
    """
    writer = backend(target.kind, language)
    kernel = apply_passes(lower(schedule, name, in_place), target.kind, watch)
    params = _params(schedule, alignment, any_address=any_address)
    return writer.artifact(kernel, params, target)


def _params(schedule: Schedule, alignment: int, *, any_address: bool) -> tuple[Param, ...]:
    """How each argument of a schedule lies in memory."""
    loose = schedule.workload.inputs if any_address else ()
    transforms = dict(schedule.workload.transforms)
    params = []
    for tensor in schedule.workload.args:
        layout = schedule.layout(tensor.name)
        fixed = tensor.name in schedule.workload.constants
        at = 64 if fixed else alignment
        transform = transforms.get(tensor.name, "")
        shape = weights.plain_shape(transform, tensor.shape)
        param = Param(tensor.name, tensor.dtype, shape, layout, at, transform)
        if layout.is_plain and tensor in loose:
            param = replace(param, alignment=tensor.dtype.nbytes)
        params.append(param)
    return tuple(params)


def kernel_name(task: Task, config: Config) -> str:
    """A unique entry name: kernels of one model are linked together."""
    text = f"{task.key} {task.target.key} {task.alignment} {config}"
    if task.in_place:
        text += f" {task.in_place}"
    return f"{task.workload.name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def compile_config(
    task: Task, config: Config, language: str | None = None, *, trace: Path | None = None
) -> Artifact:
    """The object code of one config of a task; `language` as for `compile_schedule`.

    Args:
        trace: the folder to record the passes in; see `trace.open_tracer`.
    """
    with closing(open_tracer(trace)) as tracer:
        return compile_schedule(
            scheduled(task, config),
            task.target,
            kernel_name(task, config),
            any_address=task.template.any_address,
            alignment=task.alignment,
            in_place=dict(task.in_place),
            language=language,
            watch=tracer.ran if tracer.enabled else None,
        )


def source_text(task: Task, config: Config, language: str | None = None) -> str:
    """The source that `compile_config` assembles, in its language."""
    writer = backend(task.target.kind, language)
    schedule = scheduled(task, config)
    lowered = lower(schedule, kernel_name(task, config), dict(task.in_place))
    kernel = apply_passes(lowered, task.target.kind)
    params = _params(schedule, task.alignment, any_address=task.template.any_address)
    return writer.text(kernel, params, task.target)

"""Which template an operator is tuned with: a table by target architecture family and operator."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.ops import registry as ops
from loopwright.target.union import Target
from loopwright.te.workload import Workload
from loopwright.templates import derived, task
from loopwright.templates.cpu import conv2d_direct, conv2d_winograd, depthwise, matmul, separable
from loopwright.templates.template import Template

CPU: dict[str, Template] = {
    "conv2d": conv2d_direct.TEMPLATE,
    "depthwise_conv2d": depthwise.TEMPLATE,
    "separable_conv2d": separable.TEMPLATE,
    "dense": matmul.TEMPLATE,
    "matmul": matmul.TEMPLATE,
    "batch_matmul": matmul.TEMPLATE,
}


def template_for(operator: str, workload: Workload) -> Template:
    """The handcrafted template of an operator, or the derived one, which fits every workload."""
    template = CPU.get(operator)
    if template is None or not workload.outputs[0].dtype.is_float:
        return derived.TEMPLATE
    return template


def task_for(
    operator: str,
    attrs: Mapping[str, object],
    target: Target,
    *,
    threads: int = 1,
    template: Template | None = None,
) -> task.Task:
    """The task of an operator asked for by name.

    Raises: UnsupportedError for an unknown operator; ShapeError for attributes that do not fit.
    """
    workload = ops.build(operator, **attrs)
    chosen = template if template is not None else template_for(operator, workload)
    known = ops.attributes(operator, **attrs)
    return task.make(workload, chosen, target, threads=threads, operator=operator, attrs=known)


def by_name(name: str) -> Template | None:
    """The template of that name, or None."""
    known = {t.name: t for t in (*CPU.values(), conv2d_winograd.TEMPLATE, derived.TEMPLATE)}
    return known.get(name)

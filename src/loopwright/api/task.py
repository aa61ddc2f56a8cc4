"""Tasks by name: an operator with its attributes, or a workload of your own."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.errors import ConfigError
from loopwright.ops import registry
from loopwright.ops.attributes import AttrValue
from loopwright.target.parse import parse
from loopwright.target.union import Target
from loopwright.te.workload import Workload
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make
from loopwright.templates.template import Template


def task(
    operator: str | Workload,
    *,
    template: Template | None = None,
    target: str | Target = "cpu",
    threads: int = 1,
    **attrs: AttrValue,
) -> Task:
    """The task of computing `operator` on `target`.

        lw.task("conv2d", data=(1, 64, 56, 56), weight=(64, 64, 3, 3), padding=(1, 1, 1, 1))

    Args:
        operator: the name of an operator, or a workload made with `lw.te`.
        template: how to schedule it; the operator's own template when None, or one derived from the
            expression where there is none.
        threads: how many threads a kernel runs on.
        attrs: the operator's attributes; none for a workload.

    Raises: UnsupportedError for an operator that does not exist, ShapeError for attributes that do
        not fit, ConfigError for a target that does not exist.
    """
    return task_of(operator, attrs, target=parse(target), threads=threads, template=template)


def task_of(
    operator: str | Workload,
    attrs: Mapping[str, AttrValue],
    *,
    target: Target,
    threads: int,
    template: Template | None = None,
) -> Task:
    """`task`, with the attributes as a mapping."""
    if threads < 1:
        raise ConfigError(f"threads={threads}: a kernel runs on at least 1")
    described: tuple[tuple[str, AttrValue], ...] = ()
    if isinstance(operator, Workload):
        if attrs:
            raise ConfigError(f"a workload takes no attributes; {operator.name} got {[*attrs]}")
        name, workload = operator.name, operator
    else:
        name, described = operator, registry.attributes(operator, **attrs)
        workload = registry.build(operator, **dict(described))
    chosen = template_for(name, workload, target) if template is None else template
    return make(workload, chosen, target, threads=threads, operator=name, attrs=described)

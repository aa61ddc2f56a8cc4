"""Tasks: a workload to tune with one template for one target."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from loopwright.layout import Layout
from loopwright.ops.attributes import AttrValue
from loopwright.space.config import Config
from loopwright.space.knobs import KnobValue
from loopwright.space.space import Space
from loopwright.target.union import Target
from loopwright.te.workload import Workload
from loopwright.templates.template import Template, errors_named


@dataclass(frozen=True, slots=True)
class Task:
    """What tuning works on. `operator` and `attrs` say how the workload was asked for.

    `threads` is how many threads the kernel is measured with. `layouts` fixes those of some
    arguments; the template decides on the others. `alignment` is that of the memory of arguments
    that are not constants, in bytes. `in_place` names inputs that share the memory of an output:
    such a kernel runs only in a model.
    """

    operator: str
    attrs: tuple[tuple[str, AttrValue], ...]
    workload: Workload
    template: Template
    target: Target
    threads: int
    space: Space = field(compare=False, repr=False)
    layouts: tuple[tuple[str, Layout], ...] = ()
    alignment: int = 64
    in_place: tuple[tuple[str, str], ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the space, whose constraints are closures: it is declared again."""
        parts = (self.workload, self.template, self.target, self.threads, self.operator, self.attrs)
        return _remade, (*parts, self.layouts, self.alignment, self.in_place)

    @property
    def key(self) -> str:
        """What records are filed under, besides target and threads."""
        return f"{self.workload_key}:{self.template.name}@{self.template.version}"

    @property
    def workload_key(self) -> str:
        """The key of the workload, and of the layouts where some are given."""
        if not self.layouts:
            return self.workload.key
        text = " ".join(f"{name}:{layout}" for name, layout in self.layouts)
        return f"{self.workload.key}+{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def blocking(self, config: Config) -> tuple[KnobValue, ...]:
        """The part of `config` that decides how arguments lie in memory."""
        names = config.names()
        return tuple(config[name] for name in self.template.blocking if name in names)

    @property
    def blockings(self) -> int:
        """How many ways the space has to lay out arguments."""
        varied = (k for k in self.space.knobs if k.name in self.template.blocking)
        return math.prod(len(knob.values) for knob in varied)

    @property
    def flops(self) -> int:
        """Arithmetic operations of one call."""
        return self.workload.flops

    @property
    def name(self) -> str:
        """One line for a person: the operator and its attributes."""
        return task_name(self.operator, self.attrs)


def task_name(operator: str, attrs: Iterable[tuple[str, AttrValue]]) -> str:
    """The name of a task of an operator with its attributes."""
    shown = " ".join(f"{k}={_show(v)}" for k, v in attrs if v != "")
    return f"{operator} {shown}".strip()


def make(
    workload: Workload,
    template: Template,
    target: Target,
    *,
    threads: int = 1,
    operator: str | None = None,
    attrs: tuple[tuple[str, AttrValue], ...] = (),
    layouts: tuple[tuple[str, Layout], ...] = (),
    alignment: int = 64,
) -> Task:
    """The task of computing `workload` with `template`; its space is declared here, once.

    Raises: TemplateError when the template is not for this workload, or raises.
    """
    with errors_named(template.name):
        space = template.space(workload, target)
    name = operator or workload.name
    return Task(
        operator=name,
        attrs=attrs,
        workload=workload,
        template=template,
        target=target,
        threads=threads,
        space=space,
        layouts=layouts,
        alignment=alignment,
    )


def _remade(
    workload: Workload,
    template: Template,
    target: Target,
    threads: int,
    operator: str,
    attrs: tuple[tuple[str, AttrValue], ...],
    layouts: tuple[tuple[str, Layout], ...],
    alignment: int,
    in_place: tuple[tuple[str, str], ...],
) -> Task:
    made = make(
        workload,
        template,
        target,
        threads=threads,
        operator=operator,
        attrs=attrs,
        layouts=layouts,
        alignment=alignment,
    )
    return replace(made, in_place=in_place)


def _show(value: AttrValue) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

"""Tasks: a workload to be tuned with one template for one target."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopwright.ops.attrs import AttrValue
from loopwright.space.space import Space
from loopwright.target import Target
from loopwright.te.workload import Workload
from loopwright.templates.template import Template, errors_named


@dataclass(frozen=True, slots=True)
class Task:
    """What tuning works on. `operator` and `attrs` say how the workload was asked for.

    `threads` is how many threads the kernel is measured with.
    """

    operator: str
    attrs: tuple[tuple[str, AttrValue], ...]
    workload: Workload
    template: Template
    target: Target
    threads: int
    space: Space = field(compare=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the space, whose constraints are closures: it is declared again."""
        parts = (self.workload, self.template, self.target, self.threads, self.operator, self.attrs)
        return _remade, parts

    @property
    def key(self) -> str:
        """What records are filed under, beside target and threads."""
        return f"{self.workload.key}:{self.template.name}@{self.template.version}"

    @property
    def flops(self) -> int:
        """Arithmetic operations of one call."""
        return self.workload.flops

    @property
    def name(self) -> str:
        """One line for a person: the operator and its attributes."""
        shown = " ".join(f"{k}={_show(v)}" for k, v in self.attrs)
        return f"{self.operator} {shown}".strip()


def make(
    workload: Workload,
    template: Template,
    target: Target,
    *,
    threads: int = 1,
    operator: str | None = None,
    attrs: tuple[tuple[str, AttrValue], ...] = (),
) -> Task:
    """The task of computing `workload` with `template`; its space is declared here, once.

    Raises: TemplateError when the template is not for this workload, or raises.
    """
    with errors_named(template.name):
        space = template.space(workload, target)
    return Task(operator or workload.name, attrs, workload, template, target, threads, space)


def _remade(
    workload: Workload,
    template: Template,
    target: Target,
    threads: int,
    operator: str,
    attrs: tuple[tuple[str, AttrValue], ...],
) -> Task:
    return make(workload, template, target, threads=threads, operator=operator, attrs=attrs)


def _show(value: AttrValue) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

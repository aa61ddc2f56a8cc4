"""Which templates an operator can be computed with: a table by kind of target and operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from loopwright.errors import ConfigError, UnsupportedError
from loopwright.layout import Layout
from loopwright.plugins import plugin, plugin_names
from loopwright.target.union import Target
from loopwright.te.workload import Workload
from loopwright.templates import derived
from loopwright.templates.cpu import relayout as cpu_relayout
from loopwright.templates.cpu import table as cpu
from loopwright.templates.template import Template

GROUP = "loopwright.templates"
"""Entry points of other packages, by kind of target: a mapping from operators to templates."""


class RelayoutMaker(Protocol):
    """Makes the template that copies into a layout (`packs`) or out of it."""

    def __call__(self, layout: Layout, *, packs: bool) -> Template:
        """The template; the other side is row-major."""
        ...


@dataclass(frozen=True, slots=True)
class KindTemplates:
    """The templates of one kind of target: by operator, and for layout changes."""

    operators: Mapping[str, tuple[Template, ...]]
    relayout: RelayoutMaker | None = None


KINDS: Mapping[str, KindTemplates] = {
    "cpu": KindTemplates(cpu.TEMPLATES, cpu_relayout.template),
}


def templates_for(operator: str, workload: Workload, target: Target) -> tuple[Template, ...]:
    """The templates that compute `workload`, the usually fastest first.

    The derived template, which fits every workload, if there is none for the operator.

    Raises: ConfigError for a kind of target that has no row.
    """
    rows = _templates_of(target).operators.get(operator, ())
    fitting = tuple(template for template in rows if template.fits(workload))
    return fitting or (derived.TEMPLATE,)


def template_for(operator: str, workload: Workload, target: Target) -> Template:
    """The template for `workload` when nothing is known about its inputs."""
    return next(
        template
        for template in templates_for(operator, workload, target)
        if template.answers(exact=False, constant_weight=False)
    )


def relayout_template(target: Target, layout: Layout, *, packs: bool) -> Template:
    """The template that copies into `layout` (`packs`) or out of it.

    Raises: UnsupportedError for a kind of target that has none.
    """
    make = _templates_of(target).relayout
    if make is None:
        raise UnsupportedError(
            f"arguments of kernels for {target.kind!r} targets must be row-major: no template of "
            f"that kind copies into {layout}"
        )
    return make(layout, packs=packs)


def _templates_of(target: Target) -> KindTemplates:
    """The row for the kind of `target`. Raises: ConfigError naming the known kinds."""
    if target.kind in KINDS:
        return KINDS[target.kind]
    rows = plugin(GROUP, target.kind)
    if not isinstance(rows, Mapping):
        known = ", ".join([*KINDS, *plugin_names(GROUP)])
        raise ConfigError(
            f"there are no templates for targets of kind {target.kind!r} ({target.name}); "
            f"there are for {known}"
        )
    return KindTemplates(rows)

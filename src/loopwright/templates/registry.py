"""Which template an operator is tuned with: a table by target architecture family and operator."""

from __future__ import annotations

from loopwright.te.workload import Workload
from loopwright.templates import derived
from loopwright.templates.cpu import conv2d_direct, depthwise, matmul
from loopwright.templates.template import Template

CPU: dict[str, Template] = {
    "conv2d": conv2d_direct.TEMPLATE,
    "depthwise_conv2d": depthwise.TEMPLATE,
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


def by_name(name: str) -> Template | None:
    """The template of that name, or None."""
    known = {t.name: t for t in (*CPU.values(), derived.TEMPLATE)}
    return known.get(name)

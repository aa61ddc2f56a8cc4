"""The templates of CPUs, by operator."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.templates.cpu import (
    conv2d_columns,
    conv2d_direct,
    conv2d_grouped,
    conv2d_winograd,
    depthwise,
    generic,
    matmul,
    separable,
)
from loopwright.templates.template import Template

TEMPLATES: Mapping[str, tuple[Template, ...]] = {
    "conv2d": (
        conv2d_winograd.TEMPLATE,
        conv2d_columns.TEMPLATE,
        conv2d_grouped.TEMPLATE,
        conv2d_direct.TEMPLATE,
    ),
    "depthwise_conv2d": (conv2d_columns.TEMPLATE, depthwise.TEMPLATE),
    "separable_conv2d": (separable.TEMPLATE,),
    "dense": (matmul.TEMPLATE,),
    "matmul": (matmul.TEMPLATE,),
    "batch_matmul": (matmul.TEMPLATE,),
    "fused": (generic.TEMPLATE,),
}
"""Of several that fit, the usually fastest one is first."""

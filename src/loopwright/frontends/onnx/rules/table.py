"""The rule of each ONNX operator, by its name in the default domain."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.frontends.onnx.rules import (
    constants,
    contracting,
    elementwise,
    moving,
    quantized,
    recurrent,
    reducing,
    resizing,
    sums,
)
from loopwright.frontends.onnx.rules.call import Rule

RULES: Mapping[str, Rule] = {
    **constants.RULES,
    **contracting.RULES,
    **elementwise.RULES,
    **moving.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **reducing.RULES,
    **resizing.RULES,
    **sums.RULES,
}

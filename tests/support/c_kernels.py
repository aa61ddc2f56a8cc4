"""Kernels to object code by way of C, many in one file: a compiler starts slowly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.clike.compiler import artifact_of, compile_c, find_compiler
from loopwright.codegen.clike.dialects import C11
from loopwright.codegen.clike.emit import emit
from loopwright.errors import EnvironmentFailure
from loopwright.ir.kernel import Kernel
from loopwright.target.union import Target


def _missing() -> str:
    try:
        find_compiler()
    except EnvironmentFailure as error:
        return str(error)
    return ""


MISSING = _missing()
needs_c_compiler = pytest.mark.skipif(bool(MISSING), reason=MISSING)
QUICK = ("-O0",)
"""What the text means does not depend on the optimizer, and this compiles fastest."""


def compiled(
    kernels: Sequence[tuple[Kernel, tuple[Param, ...]]],
    target: Target,
    flags: Sequence[str] = QUICK,
) -> list[Artifact]:
    """The artifacts of kernels, which share one object; their names must differ."""
    sources = [emit(kernel, params, target, C11) for kernel, params in kernels]
    declared = dict.fromkeys(line for source in sources for line in source.declarations)
    text = "\n".join([C11.head, *declared, *(source.functions for source in sources)])
    code = compile_c(text, target, flags)
    return [
        artifact_of(source, code, params, kernel.n_outputs, target)
        for source, (kernel, params) in zip(sources, kernels, strict=True)
    ]

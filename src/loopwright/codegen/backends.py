"""Which back end generates code for a kind of target, and in which language."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.clike.compiler import CBackend
from loopwright.codegen.llvm.object_code import LlvmBackend
from loopwright.errors import ConfigError
from loopwright.ir.kernel import Kernel
from loopwright.plugins import plugin, plugin_names
from loopwright.target.union import Target

GROUP = "loopwright.backends"
"""Entry points of other packages' back ends, each named for the kind of target it is for."""


@runtime_checkable
class Backend(Protocol):
    """Generates code from finished kernels: one-dimensional buffers, verified."""

    @property
    def language(self) -> str:
        """The language that the code is written in before it is assembled."""

    def text(self, kernel: Kernel, params: tuple[Param, ...], target: Target) -> str:
        """The source of `kernel`, whose parameters `params` describe in order."""

    def artifact(self, kernel: Kernel, params: tuple[Param, ...], target: Target) -> Artifact:
        """What a device loads, built from that source."""


_BACKENDS: dict[str, tuple[Backend, ...]] = {"cpu": (LlvmBackend(), CBackend())}
"""The back ends of each kind of target; the first is used where no language is named."""


def backend(kind: str, language: str | None = None) -> Backend:
    """The back end that writes `language` for targets of `kind`; the kind's usual one when None.

    Raises: ConfigError for a kind that has no back end, or a language that the kind does not have.
    """
    rows = _BACKENDS.get(kind)
    if rows is None:
        rows = (_from_plugin(kind),)
    for row in rows:
        if language in (None, row.language):
            return row
    known = ", ".join(row.language for row in rows)
    raise ConfigError(
        f"there is no code generation in {language!r} for {kind} targets; "
        f"name one of these languages: {known}"
    )


def _from_plugin(kind: str) -> Backend:
    found = plugin(GROUP, kind)
    if found is None:
        known = ", ".join(sorted({*_BACKENDS, *plugin_names(GROUP)}))
        raise ConfigError(
            f"there is no code generation for targets of kind {kind!r}; "
            f"there is for {known}, and for what entry points in {GROUP} bring"
        )
    if not isinstance(found, Backend):
        raise ConfigError(
            f"the entry point {kind!r} of {GROUP} is not a back end: "
            "it lacks one of language, text, artifact"
        )
    return found

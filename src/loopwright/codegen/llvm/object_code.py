"""LLVM text to object code, through llvmlite's binding; no optimisation pass runs.

LLVM reports some errors by aborting the process, so this runs where a crash can be survived.
"""

from __future__ import annotations

import functools

import llvmlite.binding as llvm

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.llvm.emit import LlvmSource, emit
from loopwright.errors import CodegenError
from loopwright.ir.kernel import Kernel
from loopwright.target.cpu import CpuTarget
from loopwright.target.union import Target, require_cpu

OPT_LEVEL = 2
_NO_SINKING = "-disable-machine-sink"


def object_bytes(
    text: str, target: CpuTarget, opt: int = OPT_LEVEL, *, sinking: bool = True
) -> bytes:
    """The relocatable object that LLVM makes from `text`; `opt` is the code generator's 0..3.

    With `sinking`, LLVM may move a computation towards its use, behind branches.

    Raises: CodegenError when LLVM cannot read or verify the text.
    """
    _set_sinking(allowed=sinking)
    machine = target_machine(target.triple, target.features, opt)
    context = llvm.create_context()
    try:
        module = llvm.parse_assembly(text, context=context)
        module.verify()
    except RuntimeError as error:
        raise CodegenError(
            f"LLVM refused the generated text: {' '.join(str(error).split())}"
        ) from error
    return bytes(machine.emit_object(module))


@functools.cache
def target_machine(triple: str, features: tuple[str, ...], opt: int) -> llvm.TargetMachine:
    """LLVM's code generator for a triple and features, position independent."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    enabled = ",".join(f"+{name}" for name in features)
    return llvm.Target.from_triple(triple).create_target_machine(
        features=enabled, opt=opt, reloc="pic", codemodel="small"
    )


def _set_sinking(*, allowed: bool) -> None:
    """Set LLVM's machine sinking, a process-wide option; the last setting holds."""
    llvm.set_option("", f"{_NO_SINKING}={str(not allowed).lower()}")


def assemble(source: LlvmSource, target: CpuTarget, opt: int = OPT_LEVEL) -> Artifact:
    """The artifact of `source`: object code with what is needed to call it.

    Multiply-adds of a tile would sink past branches around a part of it and keep their factors in
    registers until then, which spills accumulators: a tile with branches stays as written.
    """
    return Artifact(
        code=object_bytes(source.text, target, opt, sinking=not source.branching),
        entry=source.entry,
        params=source.params,
        n_outputs=source.n_outputs,
        workspace_shared=source.workspace_shared,
        workspace_per_thread=source.workspace_per_thread,
        target_key=target.key,
        requires=target.features,
    )


class LlvmBackend:
    """Kernels through LLVM text."""

    language = "llvm"

    def text(self, kernel: Kernel, params: tuple[Param, ...], target: Target) -> str:
        """The LLVM module of `kernel`. Raises: CodegenError for what cannot be expressed."""
        return emit(kernel, params, require_cpu(target, "LLVM")).text

    def artifact(self, kernel: Kernel, params: tuple[Param, ...], target: Target) -> Artifact:
        """The object code of `kernel`. Raises: CodegenError as `text`, or if LLVM refuses it."""
        cpu = require_cpu(target, "LLVM")
        return assemble(emit(kernel, params, cpu), cpu)

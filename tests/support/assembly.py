"""What LLVM makes of text, as assembly: to see which instructions a kernel becomes."""

from __future__ import annotations

import llvmlite.binding as llvm

from loopwright.codegen.llvm.object_code import OPT_LEVEL, target_machine
from loopwright.target.union import Target


def assembly(text: str, target: Target, *, sinking: bool = True) -> str:
    """The assembly of `text` for `target`, its computations moved behind branches or not."""
    llvm.set_option("", f"-disable-machine-sink={str(not sinking).lower()}")
    machine = target_machine(target.triple, target.features, OPT_LEVEL)
    module = llvm.parse_assembly(text, context=llvm.create_context())
    return str(machine.emit_assembly(module))

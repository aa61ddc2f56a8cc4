"""Lowering: from a schedule to the kernel that code is generated from.

`pipeline.lower` makes the loops of a nest; `pipeline.apply_passes` brings them into the form that
code generation takes: one-dimensional buffers, verified, with what else the passes of that kind of
target establish. Passes are pure functions from kernel to kernel, in the order of their table.
It may not know how instructions are chosen, which is the subject of `codegen`.
"""

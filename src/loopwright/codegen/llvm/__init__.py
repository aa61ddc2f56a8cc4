"""Kernels as LLVM text, and object code made from it by llvmlite.

The text is written in its final form: unrolled, vectorized, registers as SSA values, addresses
hoisted; LLVM only selects instructions. Hands over an `Artifact` for a CPU; `driver` writes the
function that runs all kernels of a model, `probes` what measures a machine. LLVM may abort, so
it runs only in builder processes; nothing here knows schedules or how code is loaded.
"""

"""Kernels as source text of C and of languages like it.

One emitter walks the same finished kernels that the LLVM back end takes; a dialect is a table of
how types, pointers, functions and vectors are written. Hands over the text, and for CPUs an
`Artifact`: object code made by a C compiler found on the machine. Arithmetic, contraction
and storage are decided in `codegen`, for all languages alike; nothing here knows LLVM, schedules or
how code is loaded and run.
"""

"""This machine's CPU as a device: linking, the native runtime, threads, models, what it can do.

Hands over `CpuDevice`, whose modules are called with NumPy arrays, `Model` for whole models, and
what is known of the machine. `native`, `pool` and `timing` are what the sandbox uses too; they know
no artifact.
"""

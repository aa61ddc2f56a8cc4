"""This machine's CPU as a device: linking, the native runtime, threads, models, peak rates.

Hands over `CpuDevice`, whose modules are called with NumPy arrays, `Model` for whole models, and
facts about the machine. The sandbox also uses `native`, `pool` and `timing`, which do not know
artifacts.
"""

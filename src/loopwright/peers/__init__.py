"""Other libraries on the same operators and models, timed in turns with ours.

Hands over `Comparison` and `ContenderTiming`: `compare` is for single operators, `peer` a library
in a process of its own, `serve` what that process runs, `wire` what both say. A peer's adapter
(`onnxruntime`, `torch`, `models`) is imported in its own process only.

It knows operators by name and attributes, and calls of ours as plain functions: no tasks, no
records, no search.
"""

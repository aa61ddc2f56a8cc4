"""Tensor expressions: what is computed, not how.

It hands over tensors with an expression for each element, workloads (tensors in ABI order with a
stable key), the language to write them in (`language`, which is `loopwright.te`), and their value
in NumPy, the oracle that generated code is compared with. It may not know loops, schedules, targets
or operators by name.
"""

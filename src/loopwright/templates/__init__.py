"""How a workload is computed fast, up to the knobs that tuning chooses.

Hands over `Template` (a space, and a schedule for each config of it), `Task` (a workload with a
template and a target), and the table that says which templates an operator has on a kind of target
(`registry`). `derived` fits every workload on every target; `relayout` is about changes of layout.

It knows schedules and spaces, and neither loops, code, devices nor records.
"""

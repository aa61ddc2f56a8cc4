"""Templates: how to compute a workload fast, up to the knobs that tuning chooses.

Hands over `Template` (a space, and a schedule for each config of it), `Task` (a workload with a
template and a target), and the table that says which templates an operator has on a kind of target
(`registry`). `derived` fits every workload on every target; `relayout` copies between layouts.

It knows schedules and spaces, and neither loops, code, devices nor records.
"""

"""Search spaces: named, finite choices and their combinations.

Hands over knobs, constraints, `Space` (knobs and constraints, without listing the points), `Config`
and `ConfigBatch` (one point, and many as arrays), and sampling. Points are arrays of numbers here;
only `decode` makes configs of them.

It does not know what a knob means, nor schedules, workloads or targets.
"""

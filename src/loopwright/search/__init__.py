"""Which configs to measure next, and the loop that tunes.

Hands over the policies (`policies`: random, grid, genetic, model, autotvm), the tuner that shares a
budget among tasks (`tuner`, `allocator`), the journal by which a run goes on, and results.

A policy sees a space and outcomes, and nothing of devices or stores; the tuner measures by whatever
runner it is given.
"""

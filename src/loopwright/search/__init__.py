"""Which configs to measure next, and the loop that tunes.

Hands over the policies (`policies`: random, grid, genetic, model, autotvm), the tuner that shares a
budget among tasks (`tuner`, `allocator`), the journal from which a run resumes, and results.

A policy sees a space and outcomes, but no devices or stores; the tuner measures with any runner it
is given.
"""

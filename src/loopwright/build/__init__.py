"""Building candidates: a task and a config become an artifact, in processes that may crash.

Hands over `Builders`, which give a future `Built` for each candidate, on our own processes or on
external executors (Dask, Ray), and `compile_config`, which is what they run. It does not know where
a candidate is run or with what result.
"""

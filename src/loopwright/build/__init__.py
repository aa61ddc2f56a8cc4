"""Building candidates: a task and a config become an artifact, in processes that may die of it.

Hands over `Builders`, which give a future `Built` for each candidate, on processes of our own or on
executors of others (Dask, Ray), and `compile_config`, which is what they run. Where a candidate is
run and what comes of that is not known here.
"""

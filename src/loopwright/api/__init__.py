"""What `import loopwright` offers for one operator: task, tune, build, replay.

Hands over `task`, `tune`, `build` with `Program`, and landscapes as tasks (`replay`). Here runners,
stores and devices are chosen and put together; the packages below take them as arguments.

It knows no graphs: whole models are made in `deploy`.
"""

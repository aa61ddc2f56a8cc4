"""Models and kernels for programs without Python: C libraries with a header, and C sources.

Hands over `export_c` and what the command `export` needs. It takes models as they are in `.lw`
files, and neither tunes nor chooses anything.
"""

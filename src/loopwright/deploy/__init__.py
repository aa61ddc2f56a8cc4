"""Whole models: their kernels tuned, chosen, put together, checked and written.

Hands over `compile` and `optimize`, the tasks of a model (`model`), and PyTorch's back end. In
here `choose` says how each kernel is computed, `make` and `assemble` make the model, and `finish`
decides what ships.

Models are for CPUs; another kind of target is refused with one line.
"""

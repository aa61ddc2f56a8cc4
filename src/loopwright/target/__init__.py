"""Targets: what kernels are made for, as pure data.

Hands over `Target` (`union`), the protocol of all kinds; the CPUs (`cpu`), those with a name
(`presets`), this machine (`host`), and what reads target strings (`parse`). A kernel is filed under
the features that it uses (`key`), not under all that a machine has.

It knows nothing of operators, templates, code generation or devices. Other packages bring kinds of
targets by entry points of the group `loopwright.targets`.
"""

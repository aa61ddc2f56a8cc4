"""Kernels on devices: loaded, called and timed.

Hands over the `Device` protocol, the table of devices by kind of target, those of this package
(`cpu`, `null`), and files of tuned models. It runs what artifacts and model files say; how they
were made, searched for or measured in a sandbox is not known here.
"""

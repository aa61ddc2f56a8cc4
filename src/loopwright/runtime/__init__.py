"""Running kernels on devices: loading, calling and timing them.

Hands over the `Device` protocol, the table of devices by kind of target, those of this package
(`cpu`, `null`), and files of tuned models. It runs artifacts and model files; it does not know how
they were made, searched for or measured in a sandbox.
"""

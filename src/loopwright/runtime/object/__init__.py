"""A loader of relocatable objects: read, laid out, relocated and made executable.

Takes the bytes of ELF objects for x86-64 and AArch64, hands over the addresses of their symbols. It
knows nothing of kernels, devices or who wrote the objects.
"""

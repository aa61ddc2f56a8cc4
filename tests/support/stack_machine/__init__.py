"""A kind of device that Loopwright does not have: a stack machine that runs a text format.

`docs/new_device.md` goes through these files; together they are all that a new kind takes.
"""

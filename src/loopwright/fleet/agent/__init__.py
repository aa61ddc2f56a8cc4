"""The agent of a host: keeps its devices, tells a tracker how they are, serves clients' sessions.

What touches a device is its driver (`driver`): that of processors runs candidates in confined
processes, started by a warden (`cpu`, `processes`, `keeper`, `wardens`), other packages bring
others. Each device has one part for each concern: its lease (`standing`), its health (`probing`),
its session (`serving`, `session`), and the runs of that (`running`); `device` joins them and
`agent` has all devices. It hands over `agent.Agent`, and the command of a process of its own.

It needs NumPy and msgspec alone and starts at once: it imports no compiler, no runtime and nothing
of a tracker or a client, and starts short-lived processes for what needs these.
"""

"""The client's side of a fleet: leases kept renewed, sessions on devices, runners to tune with.

Hands over: `api` (for programs), `aio` (for callers with an event loop), `runner.FleetRunner` and
`embedded`, a fleet within this process. It outlives its tracker: what was not answered is asked
again. It may not know how the tracker decides, nor how a device runs what it is sent.
"""

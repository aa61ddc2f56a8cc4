"""The commands about a fleet: the tracker, devices, leases, tokens, certificates, and watching it.

`connect` finds the tracker and asks it one question, `query` asks for views and carries out
commands, `text` and `summary` word what came back. They know the client's side of the fleet; only
`tracker serve`, `ca` and `device serve` start or make something on this machine.
"""

"""Simulated fleets: to test the rules of the lease book, and to load real trackers.

`simulate` runs a lease book amid simulated agents, clients, faults and a store, in virtual time and
from one seed, and a `checker` notes each rule that is broken. `load` times the events of large
books. `devices` is the other kind: an agent that speaks the real protocol and only makes up what a
run does.

Nothing that serves a real fleet may import it; it knows the book's events and effects, and
`devices` the wire and the agent's sessions.
"""

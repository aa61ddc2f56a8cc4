"""The tracker: a LeaseBook, a store and connections around them, in one event loop.

Hands over: `server.Tracker` (serves any link), `serve.serve` (a process of its own) and what HTTP
shows of it. Sessions of agents and clients know of it only what their protocols say. It may not
know kernels, modules or results: no data of a session goes through it.
"""

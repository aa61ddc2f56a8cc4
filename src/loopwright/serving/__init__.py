"""Serving HTTP, for any server of Loopwright: a tracker today, others later.

It has the places that may be bound and their TLS contexts, a server in the running event loop, the
application with its pages and error answers, the check of who asks, event streams, and the text
format of metrics. A server hands in its routes, and what these parts need as values and small
protocols (`app.Site`, `callers.Gate`, `streams.Log`, `problems.Known`).

It is below the fleet, so it cannot know of trackers, devices, leases or stores; the
fleet's own protocol uses its loopback rule and its TLS contexts, so that there is one of each.
What needs FastAPI or uvicorn (`app`, `bodies`, `callers`, `problems`, `server`) is imported only
once something is served.
"""

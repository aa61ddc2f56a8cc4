"""Serving HTTP, whoever serves: a tracker today, other servers of ours later.

It has the places that may be bound and their TLS contexts, a server in the running event loop, the
application with its error answers, the check of who asks, event streams, pages whose own scripts
alone may run, and the text format of metrics. A server hands in its routes and what these parts
need as values and small protocols (`callers.Gate`, `streams.Log`, `problems.Answers`).

It stands below the fleet, and so it may know nothing of trackers, devices, leases or stores. The
fleet's own protocol uses its loopback rule and its TLS contexts, so that there is one of each. What
needs FastAPI or uvicorn (`app`, `bodies`, `callers`, `pages`, `problems`, `uvicorn_parts`) is
imported only once something is served.
"""

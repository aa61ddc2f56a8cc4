"""Who may do what in a fleet, and how each side of a connection proves who it is.

It makes and checks tokens, join codes and tickets, runs the handshake of each kind of connection,
derives keys, authenticates frames where there is no TLS, issues certificates, and signs code. It
hands over principals, tickets and credentials.

It speaks through the messages and links of `fleet.wire`, and knows nothing of the tracker, the
agent, the lease book or the stores: it asks a `Directory` who exists.
"""

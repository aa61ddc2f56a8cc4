"""What a tracker keeps durably: leases, epochs, credentials, the log.

Hands over: `TrackerStore`, in memory, SQLite or PostgreSQL (`sql.open_store`); changes become
durable in batches, one tracker at a time writes. It may not know connections, nor decide
anything.
"""

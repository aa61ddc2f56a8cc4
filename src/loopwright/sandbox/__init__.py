"""The process in which a candidate runs, and the privileges that it gives up first.

A warden forks a measuring process for each session, which forks a child for each candidate: object
code is called between guard pages, and other code runs on a device that the child opens. Takes a
`RunRequest`, hands over a `RunReply`. It is small and starts quickly: it knows no compiler part,
artifact, search or fleet.
"""

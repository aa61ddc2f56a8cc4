"""How the parts of a fleet talk: frames, messages, links, listeners, addresses.

Hands over: `Link` and `Listener`, which carry the messages of `messages` with limits on all that a
stranger could exhaust, and `faults`, the closed list of what can be wrong with what comes.
It may not know who may say what (`security`), nor what a message brings about.
"""

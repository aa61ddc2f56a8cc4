"""Measuring candidates: built, run, checked against the oracle, reported as an `Outcome`.

Hands over the `Runner` protocol, the `Pipeline` that every runner of devices is, the oracle gate,
and the runner that replays recorded measurements. It does not know where devices are (the fleet
does) or what is searched for.
"""

"""Rewritings of graphs that compute the same with less; `pipeline` lists them in order.

Each pass is a function `Graph -> Graph`. It changes the nodes that it knows a better form of and
leaves every other node as it is.
"""

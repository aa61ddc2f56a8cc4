"""Whole models as graphs of operators on tensors of fixed shapes.

Hands over `Graph` (`ir`), made simpler by `passes`; `fuse` says which nodes are one kernel,
`selection` and `layouts` how each is computed and how every value lies in memory, `plan` where.
`evaluate` is the oracle: what a graph computes, in NumPy.

It asks `ops` what an operator means and what may be fused, and knows neither file formats nor
records, devices or code generation.
"""

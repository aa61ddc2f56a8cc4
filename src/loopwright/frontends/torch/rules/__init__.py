"""What each ATen operator is in operators of graphs: one table a family, name -> small function.

A handler reads one call (`call.TorchCall`) and makes nodes with `call.NodeMaker`.
"""

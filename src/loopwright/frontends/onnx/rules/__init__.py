"""What each ONNX operator is in operators of graphs: one table a family, name -> small function.

A rule sees one node (`call.OnnxCall`), emits nodes, and returns the names of its results.
"""

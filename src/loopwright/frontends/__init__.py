"""Models from elsewhere as graphs: ONNX files, and PyTorch modules as `torch.export` writes them.

A frontend reads a foreign form and hands over a `graph.ir.Graph`. It knows the operators of `ops`
and the graph's IR and builder, and nothing else of `graph`: no pass, no fusion, no layout.
"""

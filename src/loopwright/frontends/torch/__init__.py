"""PyTorch modules as graphs, by way of `torch.export`.

`importer` goes through the exported calls, and each ATen operator has a handler in `rules`. Only
the importer imports `torch`.
"""

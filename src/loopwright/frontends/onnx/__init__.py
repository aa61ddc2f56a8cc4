"""ONNX models as graphs, and the bundled ones by name.

`file` says what is wrong with a file, `importer` goes through its nodes, and each operator has a
rule in `rules`. Whatever depends on no input becomes a constant on the way.
"""

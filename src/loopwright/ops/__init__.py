"""The operators: one table, `registry.OPS`, with a row (`opdef.OpDef`) each.

A row says what an operator means as a tensor expression, how its elements depend on those it reads,
what may be fused with it and how, and what it is called in ONNX and in PyTorch. There is a file for
each family of rows. `registry` hands over what a node of a graph computes (`define`) and the
workload of an operator asked for by name (`build`); `epilogue` is the one place that knows how the
steps after a contraction are written.

It knows tensor expressions, and neither graphs nor schedules nor targets.
"""

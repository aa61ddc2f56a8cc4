"""Code generation: from finished kernels to code, in several languages.

Takes loop IR that `lower` has finished and a target, and hands over an `Artifact`: the code in the
form that a device loads, with what a caller must know of it. `backends` is the table of which back
end writes which language for which target kind. All languages share what is here: where buffers are
(`storage`), what folds and what is contracted (`operations`), functions as polynomials
(`functions`), indices and conditions. Nothing here knows schedules or templates, or runs code.
"""

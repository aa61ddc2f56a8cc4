"""The loop IR: dtypes, expressions, statements and kernels, and analyses of them.

It hands over the nodes, their text, and generic walks over them; linear forms and bounds of index
expressions; simplification; a verifier of what every kernel must satisfy; and an interpreter that
says what a kernel computes. Tensor expressions use its expressions, code generation its kernels.
It may not know where kernels come from or what they run on: no schedules, no targets.
"""

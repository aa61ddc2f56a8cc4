"""The kernel: a function over buffers, and its text.

kernel conv(data: float32[3136], weight: float32[64]) -> (out: float32[3136]):
parallel oc in 0..4:
alloc acc: float32[16] in register
for k in 0..64:
vectorized x in 0..16:
acc[x] = acc[x] + data[k*16 + x] * weight[oc]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from loopwright.ir.expr import Buffer
from loopwright.ir.printer import declare, show_stmt
from loopwright.ir.stmt import Stmt


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A function over buffers.

    `params` are the buffers in ABI order, inputs first; the last `n_outputs` of them are written.
    """

    name: str
    params: tuple[Buffer, ...]
    n_outputs: int
    body: Stmt

    def with_body(self, body: Stmt) -> Kernel:
        """The same kernel with another body; itself if the body is the same."""
        return self if body is self.body else replace(self, body=body)

    def __str__(self) -> str:
        """The signature and the loop nest; ends in a newline."""
        split = len(self.params) - self.n_outputs
        inputs = ", ".join(map(declare, self.params[:split]))
        outputs = ", ".join(map(declare, self.params[split:]))
        return f"kernel {self.name}({inputs}) -> ({outputs}):\n{show_stmt(self.body, 1)}\n"

"""Workloads: a tensor expression to compute, with its arguments in ABI order and a stable key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loopwright.errors import ShapeError
from loopwright.ir import walk
from loopwright.ir.expr import Binary, Call, Expr, Load, Op, Reduce
from loopwright.ir.printer import show
from loopwright.te.tensor import Compute, Placeholder, Tensor

_ARITHMETIC = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX})


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """What to compute: `args` in ABI order, inputs first, then the `n_outputs` outputs.

    `constants` names the inputs that do not change between calls (weights), which may be packed
    once. `transforms` names, for each input taken in another form than the caller's, its transform
    in `loopwright.weights`.
    """

    name: str
    args: tuple[Tensor, ...]
    n_outputs: int
    constants: frozenset[str]
    stages: tuple[Tensor, ...]  # computed tensors; each comes after what it reads
    text: str
    key: str
    flops: int
    transforms: tuple[tuple[str, str], ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments that are read."""
        return self.args[: len(self.args) - self.n_outputs]

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The arguments that are written."""
        return self.args[len(self.args) - self.n_outputs :]

    def tensor(self, name: str) -> Tensor:
        """The argument or stage called `name`; KeyError if there is none."""
        for tensor in (*self.inputs, *self.stages):
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Workload({self.name} {self.key})"


def workload(
    outputs: Tensor | Sequence[Tensor],
    args: Sequence[Tensor] | None = None,
    *,
    name: str = "workload",
    constants: Iterable[str] = (),
    transforms: Mapping[str, str] | None = None,
) -> Workload:
    """The workload that computes `outputs`; `args` are inputs, then outputs (found when None).

    Raises: ShapeError when an input is missing from `args`, an output is an input, or two tensors
        share a name.
    """
    results = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    _refuse_outputs(name, results)
    order = _topological(results)
    stages = tuple(t for t in order if isinstance(t.op, Compute))
    found = tuple(t for t in order if isinstance(t.op, Placeholder))
    if args is None:
        ordered = (*found, *results)
    else:
        ordered = tuple(args)
        inputs = ordered[: len(ordered) - len(results)]
        if tuple(map(id, ordered[len(inputs) :])) != tuple(map(id, results)):
            raise ShapeError(f"{name}: args must end with the outputs {_names(results)}")
        missing = [t for t in found if not any(t is a for a in inputs)]
        if missing:
            raise ShapeError(f"{name}: the inputs {_names(missing)} are read but are not in args")
    _refuse_clashes(name, (*ordered, *stages))
    weights = frozenset(constants)
    unknown = weights - {t.name for t in ordered[: len(ordered) - len(results)]}
    if unknown:
        raise ShapeError(f"{name}: constants {sorted(unknown)} are not inputs")
    text = _text(ordered, len(results), stages, weights)
    return Workload(
        name=name,
        args=ordered,
        n_outputs=len(results),
        constants=weights,
        stages=stages,
        text=text,
        key=hashlib.sha256(text.encode()).hexdigest()[:16],
        flops=sum(_flops(t) for t in stages),
        transforms=tuple(sorted((transforms or {}).items())),
    )


def _topological(outputs: Sequence[Tensor]) -> list[Tensor]:
    """All tensors the outputs need, each after what it reads, in a stable order."""
    order: list[Tensor] = []
    seen: set[int] = set()
    pending: list[tuple[Tensor, bool]] = [(t, False) for t in reversed(outputs)]
    while pending:
        tensor, ready = pending.pop()
        if ready:
            order.append(tensor)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            pending.append((tensor, True))
            pending.extend((t, False) for t in reversed(tensor.inputs))
    return order


def _refuse_outputs(name: str, outputs: Sequence[Tensor]) -> None:
    if not outputs:
        raise ShapeError(f"{name}: a workload computes at least one output")
    for place, tensor in enumerate(outputs):
        if isinstance(tensor.op, Placeholder):
            raise ShapeError(f"{name}: the output {tensor.name} is an input; compute a copy of it")
        if any(tensor is other for other in outputs[:place]):
            raise ShapeError(f"{name}: the output {tensor.name} is given twice")


def _refuse_clashes(name: str, tensors: Sequence[Tensor]) -> None:
    by_name: dict[str, Tensor] = {}
    for tensor in tensors:
        if by_name.setdefault(tensor.name, tensor) is not tensor:
            raise ShapeError(
                f"{name}: two tensors are called {tensor.name!r}; give each its own name"
            )


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(t.name for t in tensors)


def _text(
    args: Sequence[Tensor], n_outputs: int, stages: Sequence[Tensor], constants: frozenset[str]
) -> str:
    """Canonical text: two workloads are the same when their texts are."""
    lines = []
    for tensor in args[: len(args) - n_outputs]:
        const = "const " if tensor.name in constants else ""
        lines.append(f"{const}{tensor.name}: {tensor.dtype}{list(tensor.shape)}")
    for tensor in stages:
        axes = ", ".join(v.name for v in tensor.axis)
        ranges = "".join(f" {a.var.name}<{a.extent}" for a in tensor.reduce_axis)
        body = tensor.op.body if isinstance(tensor.op, Compute) else None
        if body is not None:
            kind = f"{tensor.dtype}{list(tensor.shape)}"
            lines.append(f"{tensor.name}: {kind} at ({axes}){ranges} = {show(body)}")
    lines.append("return " + ", ".join(t.name for t in args[len(args) - n_outputs :]))
    return "\n".join(lines)


def _flops(tensor: Tensor) -> int:
    """Arithmetic operations of one stage; index arithmetic and comparisons are not counted."""
    if not isinstance(tensor.op, Compute):
        return 0
    points = tensor.buffer.size
    body = tensor.op.body
    per_point = _operations(body.body if isinstance(body, Reduce) else body)
    if isinstance(body, Reduce):
        for axis in body.axes:
            points *= axis.extent
        per_point += 1
    return points * per_point


def _operations(body: Expr) -> int:
    count = 0
    pending: list[Expr] = [body]
    while pending:
        expr = pending.pop()
        if isinstance(expr, Load):
            continue
        if isinstance(expr, Call) or (isinstance(expr, Binary) and expr.op in _ARITHMETIC):
            count += 0 if expr.dtype.is_int and not _reads(expr) else 1
        pending.extend(walk.exprs(expr))
    return count


def _reads(expr: Expr) -> bool:
    pending: list[Expr] = [expr]
    while pending:
        current = pending.pop()
        if isinstance(current, Load):
            return True
        pending.extend(walk.exprs(current))
    return False

"""The one table of operators: a row each, and what can be asked for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ops import (
    convolution,
    elementwise,
    move,
    normalize,
    pool,
    product,
    reduction,
    resize,
    scatter,
)
from loopwright.ops.attributes import AttrValue, NodeAttrs, checked
from loopwright.ops.opdef import Inputs, OpDef, Outputs, TaskForm
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload

_FAMILIES = (
    elementwise,
    convolution,
    product,
    pool,
    reduction,
    normalize,
    move,
    resize,
    scatter,
)
OPS: Mapping[str, OpDef] = {op.name: op for family in _FAMILIES for op in family.OPS}
FORMS: Mapping[str, TaskForm] = {form.name: form for op in OPS.values() for form in op.forms}
"""The contractions that can be asked for by name."""


def op_def(op: str) -> OpDef:
    """The operator called `op`. Raises: UnsupportedError when there is none."""
    if op not in OPS:
        raise UnsupportedError(f"the operator {op!r} is not supported")
    return OPS[op]


def define(
    op: str, attrs: NodeAttrs, inputs: Sequence[Tensor | None], prefix: str
) -> tuple[Tensor, ...]:
    """The outputs of `op` on `inputs`, whose stages are named `prefix`, `prefix.pad`, and so on.

    Raises: UnsupportedError for an operator that does not exist; ShapeError for attributes that it
        does not have, and for inputs that do not fit.
    """
    row = op_def(op)
    unknown = sorted(set(attrs) - row.attrs)
    if unknown:
        takes = ", ".join(sorted(row.attrs)) or "none"
        raise ShapeError(f"{op}: unknown attribute {unknown[0]!r}; it takes {takes}")
    if not row.least <= len(inputs) <= row.most:
        wanted = row.least if row.least == row.most else f"{row.least} to {row.most}"
        raise ShapeError(f"{op} takes {wanted} inputs, got {len(inputs)}")
    if any(tensor is None for tensor in inputs[: row.least]):
        raise ShapeError(f"{op}: one of its first {row.least} inputs is left out")
    return _named(row, attrs, inputs, prefix)


def _named(row: OpDef, attrs: NodeAttrs, inputs: Inputs, prefix: str) -> Outputs:
    """What `row` defines; refusals say which operator and inputs they are about."""
    try:
        return row.define(inputs, attrs, prefix)
    except ShapeError as error:
        shown = ", ".join("none" if t is None else f"{t.dtype}{list(t.shape)}" for t in inputs)
        raise ShapeError(f"{row.name} of {shown}: {error}") from error


def attributes(name: str, **attrs: object) -> tuple[tuple[str, AttrValue], ...]:
    """All attributes of a form, checked, defaults filled in, in declared order.

    Raises: UnsupportedError naming the forms there are; ShapeError for an attribute that is wrong.
    """
    return tuple(checked(name, _form(name).attrs, attrs).items())


def build(name: str, **attrs: object) -> Workload:
    """The workload of a form: `build("conv2d", data=(1, 64, 56, 56), weight=(64, 64, 3, 3))`.

    Raises: UnsupportedError naming the forms there are; ShapeError for an attribute that is wrong.
    """
    return _form(name).build(dict(attributes(name, **attrs)))


def _form(name: str) -> TaskForm:
    if name not in FORMS:
        raise UnsupportedError(f"unknown operator {name!r}; use one of {', '.join(FORMS)}")
    return FORMS[name]

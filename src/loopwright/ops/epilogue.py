"""What a contraction does to each element of its result before it is stored: steps in order.

A step is an operator of `ops.elementwise` with its attributes, and a value: an `Epilogue`. In
record files, on the command line and in the attributes that are given, the steps are a text:

    epilogue="add,clip(0,6)"      # after the bias: add an input, then clamp

`parse` reads it and `text_of` writes it; nothing else knows how steps are spelled. Steps are
applied after the bias and before `relu`. Some read an input of their own, which the operator takes
after its bias, in the order of the steps: of the output's shape (residual, residual1, ...), or a
constant with one number a channel (shift, scale and slope, then shift1, ...).

All steps become one expression, so that the result is stored once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loopwright.errors import ShapeError
from loopwright.ir.expr import Expr, const
from loopwright.ops.attributes import Attr, Attrs, NodeAttr, NodeAttrs, number
from loopwright.ops.elementwise import OPS
from loopwright.ops.opdef import EpilogueForm, OpDef, StepOperand
from loopwright.te.tensor import Tensor, compute, placeholder
from loopwright.te.workload import Workload, workload

ATTRS = (
    Attr("bias", bool, default=False),
    Attr("relu", bool, default=False),
    Attr("dtype", str, "float32"),
    Attr("epilogue", str, ""),
)
"""What every form of a contraction takes, whatever its shapes."""
_STEP = re.compile(r"\s*([a-z_]+)\s*(?:\(([^()]*)\))?\s*(,|$)")
_OPS: Mapping[str, OpDef] = {op.name: op for op in OPS}
_FORMS: Mapping[str, tuple[OpDef, EpilogueForm]] = {
    form.text: (op, form) for op in OPS for form in op.epilogues
}


@dataclass(frozen=True, slots=True)
class Epilogue:
    """One step: the operator `op` on the value so far, and on `operand` if it takes two.

    `attributes` are sorted by name. That of a NUMBER is called value.
    """

    op: str
    attributes: tuple[tuple[str, NodeAttr], ...] = ()
    operand: StepOperand = StepOperand.NOTHING


@dataclass(frozen=True, slots=True)
class Extra:
    """An input that a step reads: `per_channel` a constant vector, else of the output's shape."""

    name: str
    per_channel: bool


def step(op: str, attrs: NodeAttrs, operand: StepOperand = StepOperand.NOTHING) -> Epilogue | None:
    """The operator `op` with the attributes `attrs` as a step, defaults filled in.

    None if it cannot be one.
    """
    for form in _OPS[op].epilogues if op in _OPS else ():
        if form.operand is operand and _fits(form, attrs):
            numbers = {name: number(attrs, name, value) for name, value in form.numbers}
            return _made(op, form, numbers)
    return None


def _fits(form: EpilogueForm, attrs: NodeAttrs) -> bool:
    """Whether an operator with these attributes is written in this form."""
    fixed = all(attrs.get(name, form.fixed[0][1]) == value for name, value in form.fixed)
    known = {name for name, _ in (*form.numbers, *form.fixed)}
    return fixed and known >= set(attrs)


def parse(text: str) -> tuple[Epilogue, ...]:
    """The steps that `text` names; none for an empty one.

    Raises: ShapeError for a step that is not known or takes other numbers.
    """
    steps: list[Epilogue] = []
    place, more = 0, bool(text.strip())
    while more:
        match = _STEP.match(text, place)
        if match is None or (match.end() == place):
            raise ShapeError(f"epilogue {text!r}: cannot read {text[place:]!r}; {_known()}")
        name, numbers, end = match.groups()
        steps.append(_parsed(text, name, numbers))
        place, more = match.end(), end == ","
    return tuple(steps)


def _parsed(text: str, name: str, numbers: str | None) -> Epilogue:
    if name not in _FORMS:
        raise ShapeError(f"epilogue {text!r}: unknown step {name!r}; {_known()}")
    op, form = _FORMS[name]
    try:
        found = [float(part) for part in numbers.split(",")] if numbers else []
    except ValueError:
        raise ShapeError(
            f"epilogue {text!r}: ({numbers}) of {name} is not a list of numbers"
        ) from None
    if len(found) != len(form.numbers):
        raise ShapeError(
            f"epilogue {text!r}: {name} takes {len(form.numbers)} numbers, got {len(found)}"
        )
    named = dict(zip((n for n, _ in form.numbers), found, strict=True))
    return _made(op.name, form, named)


def _made(op: str, form: EpilogueForm, numbers: Mapping[str, float]) -> Epilogue:
    attributes: dict[str, NodeAttr] = {**dict(form.fixed), **numbers}
    return Epilogue(op, tuple(sorted(attributes.items())), form.operand)


def text_of(steps: Sequence[Epilogue]) -> str:
    """The text that `parse` reads `steps` from."""
    return ",".join(map(_text, steps))


def _text(step: Epilogue) -> str:
    form, attrs = _form(step), dict(step.attributes)
    numbers = ",".join(repr(attrs[name]) for name, _ in form.numbers)
    return f"{form.text}({numbers})" if numbers else form.text


def _form(step: Epilogue) -> EpilogueForm:
    """How `step` is written."""
    attrs = dict(step.attributes)
    for form in _OPS[step.op].epilogues if step.op in _OPS else ():
        if form.operand is step.operand and _fits(form, attrs):
            return form
    raise ShapeError(f"the operator {step.op!r} is not a step of an epilogue; {_known()}")


def _known() -> str:
    forms = [form for _, form in _FORMS.values()]
    forms.sort(key=lambda form: form.operand in (StepOperand.NOTHING, StepOperand.NUMBER))
    shown = [
        f"{form.text}({','.join('xyz'[: len(form.numbers)])})" if form.numbers else form.text
        for form in forms
    ]
    return f"the steps are {', '.join(shown)}"


def extras(steps: Sequence[Epilogue]) -> tuple[Extra | None, ...]:
    """The input that each step reads, or None."""
    return tuple(_extras(steps))


def _extras(steps: Sequence[Epilogue]) -> Iterator[Extra | None]:
    count: dict[str, int] = {}
    for form in map(_form, steps):
        seen = count.get(form.input, 0)
        count[form.input] = seen + 1
        per_channel = form.operand is StepOperand.CHANNELS
        yield Extra(f"{form.input}{seen or ''}", per_channel) if form.input else None


def apply(value: Expr, steps: Sequence[Epilogue], operands: Sequence[Expr | None]) -> Expr:
    """`value` after all steps; `operands` are the elements of their inputs, in value's dtype."""
    for each, operand in zip(steps, operands, strict=True):
        element = _OPS[each.op].element
        attrs = dict(each.attributes)
        if each.operand is StepOperand.NUMBER:
            operand = const(number(attrs, "value"), value.dtype)
        if element is not None:
            value = element([value] if operand is None else [value, operand], attrs)
    return value


@dataclass(frozen=True, slots=True)
class ContractionArgs:
    """The arguments of a contraction before its epilogue, and which of them are constants.

    `axes` are those of the output, `channel_dim` is the one that bias and scale go along.
    """

    inputs: tuple[Tensor, ...]
    constants: tuple[str, ...]
    axes: tuple[str, ...] = ("n", "o", "y", "x")
    channel_dim: int = 1


def finished(name: str, product: Tensor, attrs: Attrs, ending: ContractionArgs) -> Workload:
    """The workload `name`: `product` after bias, epilogue and relu, in the data's dtype.

    Raises: ShapeError for an epilogue that cannot be read.
    """
    dtype = str(attrs["dtype"])
    steps = parse(str(attrs["epilogue"]))
    if attrs["bias"] or attrs["relu"] or steps or product.dtype.name != dtype:
        output, added = _ended(product, attrs, steps, ending)
    else:
        output, added = product, []
    return workload(
        output,
        [*ending.inputs, *added, output],
        name=name,
        constants=[*ending.constants, *(tensor.name for tensor in added if tensor.ndim == 1)],
    )


def _ended(
    product: Tensor, attrs: Attrs, steps: Sequence[Epilogue], ending: ContractionArgs
) -> tuple[Tensor, list[Tensor]]:
    """The output, and the inputs that it reads besides `product`."""
    dtype, dim = str(attrs["dtype"]), ending.channel_dim
    extent = (product.shape[dim],)
    bias = placeholder(extent, dtype, "bias") if attrs["bias"] else None
    tensors = [
        None
        if extra is None
        else placeholder(extent if extra.per_channel else product.shape, dtype, extra.name)
        for extra in extras(steps)
    ]

    def element(tensor: Tensor | None, index: tuple[Expr, ...]) -> Expr | None:
        if tensor is None:
            return None
        return tensor[index if tensor.ndim > 1 else (index[dim],)].astype(product.dtype)

    def body(*index: Expr) -> Expr:
        value = product[index]
        added = element(bias, index)
        if added is not None:
            value = value + added
        value = apply(value, steps, [element(tensor, index) for tensor in tensors])
        if attrs["relu"]:
            value = apply(value, (Epilogue("relu"),), (None,))
        return value.astype(dtype)

    output = compute(product.shape, body, "out", ending.axes)
    return output, [tensor for tensor in (bias, *tensors) if tensor is not None]

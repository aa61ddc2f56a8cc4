"""What an operator does to each element of its result before it is stored: a list of small steps.

    epilogue="add,clip(0,6)"      # after the bias: add an input, then clamp

Steps are separated by commas and applied in order, after the bias and before `relu`. Some read an
input of their own, which the operator takes after its bias, in the order of the steps:

- `add`, `mul`: an input of the output's shape, called residual, residual1, ...
- `scale`, `prelu`: a constant with one number a channel: scale, scale1, ...; slope, slope1, ...

All steps become one expression, so that the result is stored once. A value used twice is one node,
which code generation computes once; nothing selects, so that no load hangs on a condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loopwright.errors import ShapeError
from loopwright.ir.expr import Expr, const
from loopwright.te import functions as te

Step = Callable[[Expr, tuple[float, ...]], Expr]

_STEP = re.compile(r"\s*([a-z_]+)\s*(?:\(([^()]*)\))?\s*(,|$)")


@dataclass(frozen=True, slots=True)
class Token:
    """One step: its name and the numbers it was given."""

    name: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({','.join(map(_show, self.numbers))})" if self.numbers else self.name


@dataclass(frozen=True, slots=True)
class Extra:
    """An input that a step reads: `per_channel` a constant vector, else of the output's shape."""

    name: str
    per_channel: bool


def parse(text: str) -> tuple[Token, ...]:
    """The steps that `text` names; none for an empty one.

    Raises: ShapeError for a step that is not known or takes other numbers.
    """
    tokens: list[Token] = []
    place, more = 0, bool(text.strip())
    while more:
        match = _STEP.match(text, place)
        if match is None or (match.end() == place):
            raise ShapeError(f"epilogue {text!r}: cannot read {text[place:]!r}; {_known()}")
        name, numbers, end = match.groups()
        tokens.append(_checked(text, name, numbers))
        place, more = match.end(), end == ","
    return tuple(tokens)


def text_of(tokens: Sequence[Token]) -> str:
    """The text that `parse` reads `tokens` from."""
    return ",".join(map(str, tokens))


def extras(tokens: Sequence[Token]) -> tuple[Extra | None, ...]:
    """The input that each step reads, or None."""
    count: dict[str, int] = {}
    found: list[Extra | None] = []
    for token in tokens:
        base = _INPUTS.get(token.name)
        if base is None:
            found.append(None)
            continue
        seen = count.get(base, 0)
        count[base] = seen + 1
        found.append(Extra(f"{base}{seen or ''}", base != "residual"))
    return tuple(found)


def apply(value: Expr, tokens: Sequence[Token], operands: Sequence[Expr | None]) -> Expr:
    """`value` after all steps; `operands` are the elements of their inputs, in value's dtype."""
    for token, operand in zip(tokens, operands, strict=True):
        if operand is None:
            value = _STEPS[token.name].apply(value, token.numbers)
        else:
            value = _WITH_INPUT[token.name](value, operand)
    return value


def _checked(text: str, name: str, numbers: str | None) -> Token:
    if name not in _STEPS and name not in _INPUTS:
        raise ShapeError(f"epilogue {text!r}: unknown step {name!r}; {_known()}")
    given = [part.strip() for part in numbers.split(",")] if numbers else []
    try:
        token = Token(name, tuple(float(part) for part in given))
    except ValueError:
        raise ShapeError(
            f"epilogue {text!r}: ({numbers}) of {name} is not a list of numbers"
        ) from None
    wanted = _STEPS[name].numbers if name in _STEPS else 0
    if len(token.numbers) != wanted:
        raise ShapeError(
            f"epilogue {text!r}: {name} takes {wanted} numbers, got {len(token.numbers)}"
        )
    return token


def _known() -> str:
    shown = [f"{n}({','.join('xyz'[: s.numbers])})" if s.numbers else n for n, s in _STEPS.items()]
    return f"the steps are {', '.join((*_INPUTS, *shown))}"


def _show(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _clip(x: Expr, numbers: tuple[float, ...]) -> Expr:
    low, high = numbers
    above = x if low == -math.inf else te.maximum(x, low)
    return above if high == math.inf else te.minimum(above, high)


def _hard_sigmoid(x: Expr, numbers: tuple[float, ...]) -> Expr:
    alpha, beta = numbers
    return _clip(x * alpha + beta, (0.0, 1.0))


def _gelu_tanh(x: Expr, _: tuple[float, ...]) -> Expr:
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * 0.5 * (te.tanh(inner) + 1.0)


def _elu(x: Expr, numbers: tuple[float, ...]) -> Expr:
    return te.maximum(x, 0.0) + (te.exp(te.minimum(x, 0.0)) - 1.0) * numbers[0]


def _softplus(x: Expr) -> Expr:
    return te.maximum(x, 0.0) + te.log(te.exp(-te.abs(x)) + 1.0)


def _leaky_relu(x: Expr, numbers: tuple[float, ...]) -> Expr:
    slope = numbers[0]
    return te.maximum(x, x * slope) if 0 <= slope <= 1 else _sloped(x, const(slope, x.dtype))


def _sloped(x: Expr, slope: Expr) -> Expr:
    return te.maximum(x, 0.0) + te.minimum(x, 0.0) * slope


@dataclass(frozen=True, slots=True)
class _Rule:
    """How many numbers a step takes, and what it makes of a value and them."""

    numbers: int
    apply: Step


_STEPS: Mapping[str, _Rule] = {
    "relu": _Rule(0, lambda x, _: te.maximum(x, 0.0)),
    "clip": _Rule(2, _clip),
    "leaky_relu": _Rule(1, _leaky_relu),
    "elu": _Rule(1, _elu),
    "sigmoid": _Rule(0, lambda x, _: te.sigmoid(x)),
    "hard_sigmoid": _Rule(2, _hard_sigmoid),
    "silu": _Rule(0, lambda x, _: x / (te.exp(-x) + 1.0)),
    "hard_swish": _Rule(0, lambda x, _: x * _hard_sigmoid(x, (1 / 6, 0.5))),
    "tanh": _Rule(0, lambda x, _: te.tanh(x)),
    "erf": _Rule(0, lambda x, _: te.erf(x)),
    "gelu": _Rule(0, lambda x, _: x * 0.5 * (te.erf(x * math.sqrt(0.5)) + 1.0)),
    "gelu_tanh": _Rule(0, _gelu_tanh),
    "softplus": _Rule(0, lambda x, _: _softplus(x)),
    "mish": _Rule(0, lambda x, _: x * te.tanh(_softplus(x))),
    "mulc": _Rule(1, lambda x, v: x * v[0]),
    "addc": _Rule(1, lambda x, v: x + v[0]),
}
_INPUTS: Mapping[str, str] = {
    "add": "residual",
    "mul": "residual",
    "scale": "scale",
    "prelu": "slope",
}
_WITH_INPUT: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda x, other: x + other,
    "mul": lambda x, other: x * other,
    "scale": lambda x, other: x * other,
    "prelu": _sloped,
}

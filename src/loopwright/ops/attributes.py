"""Attributes of operators: those that a node carries, and those that are given by name.

Given attributes are what record files hold: numbers, texts and lists of integers. An epilogue is a
text there, which `parse` turns into values once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ir import dtype as dt

NodeAttr: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...]
NodeAttrs: TypeAlias = Mapping[str, NodeAttr]
AttrValue: TypeAlias = int | float | str | bool | tuple[int, ...]
Attrs: TypeAlias = Mapping[str, AttrValue]


@dataclass(frozen=True, slots=True)
class Attr:
    """One declared attribute: `length` of a tuple (0: any), `default` None if it must be given."""

    name: str
    kind: type[bool] | type[int] | type[str] | type[tuple[int, ...]]
    default: AttrValue | None = None
    length: int = 0
    least: int = 0


def checked(op: str, declared: Sequence[Attr], given: Mapping[str, object]) -> dict[str, AttrValue]:
    """All attributes of `op`, defaults filled in, lists turned to tuples, in declared order.

    Raises: ShapeError naming operator, attribute and value for what does not fit.
    """
    known = [a.name for a in declared]
    for name in given:
        if name not in known:
            raise ShapeError(f"{op}: unknown attribute {name!r}; it takes {', '.join(known)}")
    result: dict[str, AttrValue] = {}
    for attr in declared:
        if attr.name in given:
            result[attr.name] = _value(op, attr, given[attr.name])
        elif attr.default is None:
            raise ShapeError(f"{op}: {attr.name} is missing; it takes {', '.join(known)}")
        else:
            result[attr.name] = attr.default
    return result


def _value(op: str, attr: Attr, value: object) -> AttrValue:
    if attr.kind is tuple:
        return _integers(op, attr, value)
    if attr.kind is bool and isinstance(value, bool):
        return value
    if attr.kind is int and isinstance(value, int) and not isinstance(value, bool):
        if value < attr.least:
            raise ShapeError(f"{op}: {attr.name}={value} is less than {attr.least}")
        return value
    if attr.kind is str and isinstance(value, str):
        return value
    raise ShapeError(f"{op}: {attr.name}={value!r} is not of type {attr.kind.__name__}")


def _integers(op: str, attr: Attr, value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list):
        raise ShapeError(f"{op}: {attr.name}={value!r} is not a tuple of integers")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int):
            raise ShapeError(
                f"{op}: {attr.name}={tuple(value)!r} holds {item!r}; every entry must be an "
                "integer (dynamic shapes are not supported: give the extent it will have)"
            )
        if item < attr.least:
            raise ShapeError(
                f"{op}: {attr.name}={tuple(value)} has an entry less than {attr.least}"
            )
    if attr.length and len(value) != attr.length:
        raise ShapeError(f"{op}: {attr.name}={tuple(value)} needs {attr.length} entries")
    return tuple(value)


def shape_of(value: AttrValue) -> tuple[int, ...]:
    """The attribute `value`, integers."""
    if not isinstance(value, tuple):
        raise ShapeError(f"{value!r} is not a tuple")
    return value


def float_dtype(op: str, name: AttrValue) -> dt.DType:
    """The floating dtype called `name`. Raises: UnsupportedError for any other."""
    dtype = dt.parse(str(name))
    if not dtype.is_float:
        raise UnsupportedError(
            f"{op}: dtype {dtype} is not supported; use float32, float64, float16 or bfloat16"
        )
    return dtype


def integer(attrs: NodeAttrs, name: str, default: int | None = None) -> int:
    """The attribute `name`, an integer. Raises: ShapeError when it is missing or something else."""
    value = attrs.get(name, default)
    if not isinstance(value, int):
        raise ShapeError(f"attribute {name} is {value!r}, not an integer")
    return value


def number(attrs: NodeAttrs, name: str, default: float | None = None) -> float:
    """The attribute `name`, a number. Raises: ShapeError when it is missing or something else."""
    value = attrs.get(name, default)
    if not isinstance(value, int | float):
        raise ShapeError(f"attribute {name} is {value!r}, not a number")
    return float(value)


def exact(attrs: NodeAttrs, name: str, default: float) -> float:
    """The attribute `name`, a number that stays an integer if it is one: int64 has more digits.

    Raises: ShapeError when it is something else.
    """
    value = attrs.get(name, default)
    return value if isinstance(value, int) else number(attrs, name, default)


def text(attrs: NodeAttrs, name: str, default: str | None = None) -> str:
    """The attribute `name`, a string. Raises: ShapeError when it is missing or something else."""
    value = attrs.get(name, default)
    if not isinstance(value, str):
        raise ShapeError(f"attribute {name} is {value!r}, not a string")
    return value


def integers(
    attrs: NodeAttrs, name: str, default: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """The attribute `name`, integers. Raises: ShapeError when it is missing or something else."""
    value = attrs.get(name, default)
    found = tuple(v for v in value if isinstance(v, int)) if isinstance(value, tuple) else None
    if found is None or not isinstance(value, tuple) or len(found) != len(value):
        raise ShapeError(f"attribute {name} is {value!r}, not a tuple of integers")
    return found


def numbers(
    attrs: NodeAttrs, name: str, default: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    """The attribute `name`, numbers. Raises: ShapeError when it is missing or something else."""
    value = attrs.get(name, default)
    if not isinstance(value, tuple):
        raise ShapeError(f"attribute {name} is {value!r}, not a tuple of numbers")
    return tuple(float(v) for v in value)

"""How an operator's attributes are declared and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ir import dtype as dt
from loopwright.te.workload import Workload

AttrValue: TypeAlias = int | float | str | bool | tuple[int, ...]
Attrs: TypeAlias = Mapping[str, AttrValue]


@dataclass(frozen=True, slots=True)
class Attr:
    """One attribute: `length` of a tuple (0: any), `default` None where it must be given."""

    name: str
    kind: type[bool] | type[int] | type[str] | type[tuple[int, ...]]
    default: AttrValue | None = None
    length: int = 0
    least: int = 0


@dataclass(frozen=True, slots=True)
class OpDef:
    """An operator: its attributes, and how a workload is made of them."""

    name: str
    attrs: tuple[Attr, ...]
    build: Callable[[Attrs], Workload]
    summary: str


def checked(op: OpDef, given: Mapping[str, object]) -> dict[str, AttrValue]:
    """All attributes of `op`, defaults filled in, lists turned to tuples, in declared order.

    Raises: ShapeError naming operator, attribute and value for what does not fit.
    """
    known = [a.name for a in op.attrs]
    for name in given:
        if name not in known:
            raise ShapeError(f"{op.name}: unknown attribute {name!r}; it takes {', '.join(known)}")
    result: dict[str, AttrValue] = {}
    for attr in op.attrs:
        if attr.name in given:
            result[attr.name] = _value(op.name, attr, given[attr.name])
        elif attr.default is None:
            raise ShapeError(f"{op.name}: {attr.name} is missing; it takes {', '.join(known)}")
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


def float_dtype(op: str, name: AttrValue) -> str:
    """The name of a floating dtype. Raises: UnsupportedError for any other."""
    dtype = dt.parse(str(name))
    if not dtype.is_float:
        raise UnsupportedError(
            f"{op}: dtype {dtype} is not supported; use float32, float64, float16 or bfloat16"
        )
    return dtype.name

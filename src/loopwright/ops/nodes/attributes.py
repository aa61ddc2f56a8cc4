"""Attributes of a graph's nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from loopwright.errors import ShapeError

NodeAttr: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...]
NodeAttrs: TypeAlias = Mapping[str, NodeAttr]


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
    if not isinstance(value, tuple):
        raise ShapeError(f"attribute {name} is {value!r}, not a tuple of integers")
    found = tuple(v for v in value if isinstance(v, int))
    if len(found) != len(value):
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

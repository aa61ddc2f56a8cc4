"""Configs: one point of a space by knob name, alone or as a batch that shares a structure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.errors import ConfigError
from loopwright.sched.extent import Size, SizeLike
from loopwright.space.knobs import KnobValue, Scalar

JsonValue: TypeAlias = Scalar | list[int] | list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Config:
    """Knob name -> value, sorted by name. Equal when the `key` is; `Config.of` makes one."""

    items: tuple[tuple[str, KnobValue], ...]
    key: str

    @staticmethod
    def of(values: Mapping[str, KnobValue]) -> Config:
        """The config that holds `values`; `key` is their canonical JSON."""
        items = tuple(sorted(values.items()))
        return Config(items, json.dumps(dict(items), separators=(",", ":"), ensure_ascii=False))

    @staticmethod
    def from_json(data: Mapping[str, JsonValue] | str) -> Config:
        """The config that `data`, a mapping from JSON or its text, describes.

        Raises: ConfigError when it is not a mapping from knob names to values.
        """
        if isinstance(data, str):
            return Config.from_json(_parse(data))
        if not isinstance(data, Mapping):
            raise ConfigError(f"config {data!s:.60} is not a JSON object of knobs")
        return Config.of({name: _value(name, value) for name, value in data.items()})

    def to_json(self) -> dict[str, JsonValue]:
        """Knob name -> value, with lists in place of tuples."""
        parsed: dict[str, JsonValue] = json.loads(self.key)
        return parsed

    def __getitem__(self, name: str) -> KnobValue:
        for known, value in self.items:
            if known == name:
                return value
        raise ConfigError(f"no knob {name!r} in this config; there are {', '.join(self.names())}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return " ".join(f"{name}={_show(value)}" for name, value in self.items)

    def names(self) -> tuple[str, ...]:
        """The knobs' names, sorted."""
        return tuple(name for name, _ in self.items)

    def sizes(self, name: str) -> tuple[SizeLike, ...]:
        """The sizes of split `name`, outermost first."""
        value = self[name]
        if isinstance(value, tuple) and all(isinstance(size, int) for size in value):
            return tuple(size for size in value if isinstance(size, int))
        raise _wrong_kind(name, value, "a split")

    def integer(self, name: str) -> int:
        """The number that choice `name` holds."""
        return _integer(name, self[name])

    def flag(self, name: str) -> bool:
        """The yes or no that choice `name` holds."""
        return _flag(name, self[name])

    def text(self, name: str) -> str:
        """The word that choice `name` holds."""
        return _text(name, self[name])

    def words(self, name: str) -> tuple[str, ...]:
        """The axis names or annotations of reorder or annotate knob `name`."""
        return _words(name, self[name])


@dataclass(frozen=True, slots=True, eq=False)
class ConfigBatch:
    """`n` configs of one structure, with the interface of one; a split's sizes are `Size` [n]."""

    n: int
    structure: Config
    splits: Mapping[str, tuple[Size, ...]]

    def __getitem__(self, name: str) -> KnobValue | tuple[Size, ...]:
        if name in self.splits:
            return self.splits[name]
        return self.structure[name]

    def __len__(self) -> int:
        return self.n

    def names(self) -> tuple[str, ...]:
        """The knobs' names, sorted."""
        return tuple(sorted((*self.splits, *self.structure.names())))

    def sizes(self, name: str) -> tuple[SizeLike, ...]:
        """The sizes of split `name`, outermost first, each [n]."""
        if name in self.splits:
            return self.splits[name]
        raise _wrong_kind(name, self.structure[name], "a split")

    def integer(self, name: str) -> int:
        """The number that choice `name` holds."""
        return self.structure.integer(name)

    def flag(self, name: str) -> bool:
        """The yes or no that choice `name` holds."""
        return self.structure.flag(name)

    def text(self, name: str) -> str:
        """The word that choice `name` holds."""
        return self.structure.text(name)

    def words(self, name: str) -> tuple[str, ...]:
        """The axis names or annotations of reorder or annotate knob `name`."""
        return self.structure.words(name)


def _parse(text: str) -> Mapping[str, JsonValue]:
    try:
        data: Mapping[str, JsonValue] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"config {text[:60]!r} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"config {text[:60]!r} is not a JSON object of knobs")
    return data


def _value(name: str, value: object) -> KnobValue:
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (list, tuple)):
        if all(isinstance(part, int) and not isinstance(part, bool) for part in value):
            return tuple(int(part) for part in value)
        if all(isinstance(part, str) for part in value):
            return tuple(str(part) for part in value)
    raise ConfigError(
        f"config: knob {name!r} holds {value!r}; a value is a number, a word, true or false, "
        "or a list of numbers or of words"
    )


def _show(value: KnobValue) -> str:
    if isinstance(value, tuple):
        return ("x" if value and isinstance(value[0], int) else ",").join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _integer(name: str, value: KnobValue) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong_kind(name, value, "a number")


def _flag(name: str, value: KnobValue) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong_kind(name, value, "true or false")


def _text(name: str, value: KnobValue) -> str:
    if isinstance(value, str):
        return value
    raise _wrong_kind(name, value, "a word")


def _words(name: str, value: KnobValue) -> tuple[str, ...]:
    if isinstance(value, tuple) and all(isinstance(word, str) for word in value):
        return tuple(word for word in value if isinstance(word, str))
    raise _wrong_kind(name, value, "a tuple of names")


def _wrong_kind(name: str, value: KnobValue, wanted: str) -> ConfigError:
    return ConfigError(
        f"knob {name!r} holds {value!r}, which is not {wanted}; read it as what it is"
    )

"""Label selectors: which devices a request is about, in the syntax of `kubectl`.

    selector = [term {"," term}]
    term     = key                        the label is there
             | "!" key                    the label is not there
             | key ("=" | "==") value     it is there and is this
             | key "!=" value             it is not there, or is another
             | key "in" "(" value {"," value} ")"
             | key "notin" "(" value {"," value} ")"

All terms must hold; the empty selector holds for every device. Keys and values are words of
letters, digits and `._/:@+-`; a value may also stand in double quotes, where a backslash takes
the next character as it is. Equal selectors are equal values: terms and their values are kept
sorted and once, so `str` of two spellings of one selector is the same text, and parses back.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from loopwright.errors import ConfigError

MAX_CHARS = 1024
MAX_TERMS = 32
MAX_VALUES = 64
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/:@+-]*")
_VALUE = re.compile(r"[A-Za-z0-9._/:@+-]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SPACE = " \t\r\n"


class Operator(enum.Enum):
    """What a term asks of a label."""

    EXISTS = "exists"
    MISSING = "missing"
    IN = "in"
    NOT_IN = "notin"


@dataclass(frozen=True, slots=True)
class SelectorTerm:
    """One condition; `values` are sorted, and empty for EXISTS and MISSING."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fulfil this condition."""
        value = labels.get(self.key)
        operator = self.operator
        if operator is Operator.IN:
            return value is not None and value in self.values
        if operator is Operator.NOT_IN:
            return value is None or value not in self.values
        return (value is not None) == (operator is Operator.EXISTS)

    def __str__(self) -> str:
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.MISSING:
                return f"!{self.key}"
            case Operator.IN | Operator.NOT_IN:
                if len(self.values) == 1:
                    sign = "=" if self.operator is Operator.IN else "!="
                    return f"{self.key}{sign}{_quoted(self.values[0])}"
                inside = ",".join(_quoted(value) for value in self.values)
                return f"{self.key} {self.operator.value} ({inside})"


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector; made by `parse`."""

    terms: tuple[SelectorTerm, ...]
    text: str = field(compare=False)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a device with these labels is meant."""
        return all(term.matches(labels) for term in self.terms)

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Selector:
    """The selector that `text` says.

    Raises: ConfigError that says what is wrong at which character.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"a selector of {len(text)} characters; at most {MAX_CHARS} are read")
    reader = _Reader(text)
    terms: dict[tuple[str, str, tuple[str, ...]], SelectorTerm] = {}
    reader.skip_space()
    while reader.at < len(text):
        term = _term(reader)
        terms[(term.key, term.operator.value, term.values)] = term
        if len(terms) > MAX_TERMS:
            raise reader.error(f"more than {MAX_TERMS} terms")
        if reader.at == len(text):
            break
        reader.expect(",", "a comma between terms")
        if reader.at == len(text):
            raise reader.error("a term is missing after the last comma")
    kept = tuple(terms[key] for key in sorted(terms))
    written = ", ".join(str(term) for term in kept)
    if len(written) > MAX_CHARS:
        raise ConfigError(f"a selector of {len(written)} characters; at most {MAX_CHARS} are read")
    return Selector(kept, written)


@dataclass(slots=True)
class _Reader:
    """A place in a text."""

    text: str
    at: int = 0

    def error(self, what: str) -> ConfigError:
        """What is wrong here."""
        rest = self.text[self.at : self.at + 20]
        where = f"at {rest!r}" if rest else "at the end"
        return ConfigError(f"selector {self.text!r}, character {self.at + 1}: {what}, {where}")

    def skip_space(self) -> None:
        """Go on to the next character that is no space."""
        while self.at < len(self.text) and self.text[self.at] in _SPACE:
            self.at += 1

    def take(self, sign: str) -> bool:
        """Whether `sign` is next; if so it, and space behind it, is read."""
        if not self.text.startswith(sign, self.at):
            return False
        self.at += len(sign)
        self.skip_space()
        return True

    def expect(self, sign: str, what: str) -> None:
        """Read `sign`, which must be next."""
        if not self.take(sign):
            raise self.error(f"expected {what}")

    def word(self, pattern: re.Pattern[str], what: str) -> str:
        """The word that is next."""
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self.error(f"expected {what}")
        self.at = found.end()
        self.skip_space()
        return found.group()

    def value(self) -> str:
        """The value that is next, quoted or not."""
        found = _QUOTED.match(self.text, self.at)
        if found is None:
            if self.text.startswith('"', self.at):
                raise self.error("a quote that is not closed")
            return self.word(_VALUE, "a value")
        self.at = found.end()
        self.skip_space()
        return _ESCAPED.sub(r"\1", found.group(1))


def _term(reader: _Reader) -> SelectorTerm:
    """The term that is next."""
    if reader.take("!"):
        return SelectorTerm(reader.word(_WORD, "a label's name after '!'"), Operator.MISSING)
    key = reader.word(_WORD, "a label's name")
    if reader.take("!="):
        return SelectorTerm(key, Operator.NOT_IN, (reader.value(),))
    if reader.take("==") or reader.take("="):
        return SelectorTerm(key, Operator.IN, (reader.value(),))
    start = reader.at
    for operator in (Operator.NOT_IN, Operator.IN):
        if reader.take(operator.value) and reader.take("("):
            return SelectorTerm(key, operator, _values(reader))
        reader.at = start
    return SelectorTerm(key, Operator.EXISTS)


def _values(reader: _Reader) -> tuple[str, ...]:
    """The values up to the closing parenthesis, sorted, each once."""
    values = {reader.value()}
    while reader.take(","):
        values.add(reader.value())
        if len(values) > MAX_VALUES:
            raise reader.error(f"more than {MAX_VALUES} values")
    reader.expect(")", "a comma or ')' after a value")
    return tuple(sorted(values))


def _quoted(value: str) -> str:
    """A value as it stands in a selector."""
    if _VALUE.fullmatch(value):
        return value
    inside = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inside}"'

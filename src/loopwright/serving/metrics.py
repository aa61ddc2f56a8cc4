"""The text format of metrics that Prometheus reads.

Series must be bounded: what a label may be is a closed list of words or the names of what is
served. Nothing that a user writes becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "loopwright_"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, its kind (`gauge` or `counter`), and what it says.

    `label` names what its values are broken down by; empty for one value.
    """

    name: str
    help: str
    kind: str = "gauge"
    label: str = ""

    def head(self) -> str:
        """The lines that describe it."""
        name = _PREFIX + self.name
        return f"# HELP {name} {self.help}\n# TYPE {name} {self.kind}\n"

    def sample(self, value: object) -> str:
        """The line of a metric without a label."""
        return f"{_PREFIX}{self.name} {_figure(value)}\n"

    def samples(self, values: Iterable[tuple[str, float]]) -> str:
        """A line for each word of the label."""
        start = f'{_PREFIX}{self.name}{{{self.label}="'
        return "".join(f'{start}{_escaped(word)}"}} {value:.15g}\n' for word, value in values)

    def text(self, value: object) -> str:
        """All lines of a metric that has `value`, by word if it is a mapping."""
        if self.label and isinstance(value, Mapping):
            return self.head() + self.samples(value.items())
        return self.head() + self.sample(value)


def _escaped(word: str) -> str:
    """A label's value; names have no such characters, but stay on this side."""
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _figure(value: object) -> int | float:
    """A figure; a sentence counts as 1, as in `read_only`."""
    if isinstance(value, bool | str):
        return int(bool(value))
    return value if isinstance(value, int | float) else 0

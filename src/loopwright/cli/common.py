"""What the commands share: options, output as text or JSON, and reading durations and shapes."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from loopwright.errors import ConfigError
from loopwright.settings import DEFAULT_RECORDS, Settings, from_environment

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from loopwright.ops.attributes import AttrValue

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | int | None"

_UNKNOWN_WIDTH, _FILE_WIDTH = 80, 200
_SHORT = {"strides": ("s", 1), "padding": ("p", 0), "dilation": ("d", 1)}
"""Attribute -> its letter in a description, and the value that is left out."""
_USUAL: Mapping[str, AttrValue] = {"groups": 1, "dtype": "float32"}
"""Attribute -> the value that is left out."""


class Output(enum.StrEnum):
    """How a command writes its result."""

    TEXT = "text"
    JSON = "json"


@dataclass(slots=True)
class CommandState:
    """What `main` hands to the commands, and gets back from the options before them."""

    settings: Settings = field(default_factory=from_environment)
    traceback: bool = False


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="text, or json for one JSON object.")
]
RecordsOption = Annotated[
    str | None,
    typer.Option(
        "--records",
        help="Where records are kept, as sqlite:///r.db [LOOPWRIGHT_RECORDS].",
    ),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="Threads that a kernel runs on.")
]
ModelArgument = Annotated[
    str, typer.Argument(help="An ONNX file, or the name of a bundled model such as resnet18.")
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape", "--shape", help="Fix the shape of an input, as input:1x3x224x224."
    ),
]
TargetOption = Annotated[
    str, typer.Option("--target", help="cpu (this machine), or a preset such as x86-64-avx2.")
]
TasksOption = Annotated[
    str | None,
    typer.Option(
        "--tasks", help="Which tasks, by the numbers that `loopwright tasks` shows: 0,2-5."
    ),
]
FleetOption = Annotated[
    str | None,
    typer.Option(
        "--fleet", help="Measure on a fleet: its tracker, as tls://lab:7070 [this machine]."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="Which devices of the fleet, as 'board=rpi4, cores=4'."),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where candidates are built, and learned from: processes, dask://HOST:PORT, "
        "ray://HOST:PORT.",
    ),
]
CompareOption = Annotated[
    list[str] | None,
    typer.Option(
        "--compare",
        help="A library to compare with: onnxruntime, openvino or torch, or several: a,b.",
    ),
]


def records_url(context: typer.Context, given: str | None) -> str:
    """The records to use: what the option says, else the settings."""
    return given or settings_of(context).records


def own_records(context: typer.Context) -> str | None:
    """The records of the settings, None where nobody set them."""
    url = settings_of(context).records
    return None if url == DEFAULT_RECORDS else url


def settings_of(
    context: typer.Context,
    token: str | None = None,
    ca: Path | None = None,
    sign: Path | None = None,
) -> Settings:
    """The settings that `main` read; what the options of a command say goes before them."""
    state = context.find_object(CommandState)
    found = (state or CommandState()).settings
    return replace(found, token=token or found.token, ca=ca or found.ca, sign=sign or found.sign)


def answer(output: Output, value: object, text: Callable[[], str]) -> None:
    """Write `value` as JSON, or as `text` words it."""
    if output is Output.JSON:
        print_json(value)
    else:
        typer.echo(text())


def print_json(value: object) -> None:
    """Write `value` to standard output as one JSON object."""
    from loopwright import jsonio

    typer.echo(jsonio.pretty(value))


def console(*, stderr: bool = False) -> Console:
    """The terminal, or the file or pipe in its place."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not made.is_terminal and made.width == _UNKNOWN_WIDTH:
        made.width = _FILE_WIDTH  # a file has no width: do not break lines
    return made


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> Table:
    """`rows` of text under `columns`; a column whose name starts with `>` is aligned right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        made.add_row(*row)
    return made


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90`, `90s`, `5m` or `1h30m`.

    Raises: ConfigError for anything else.
    """
    found = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip()
    )
    seconds = 0.0
    if found:
        parts = [float(part or 0) for part in found.groups()]
        seconds = parts[0] * 3600 + parts[1] * 60 + parts[2]
    if seconds <= 0:
        raise ConfigError(f"{text!r} is not a duration; write 90s, 5m or 1h30m")
    return seconds


def parse_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Input name -> shape, of texts such as `input:1x3x224x224`; `=` will do for the last colon.

    Raises: ConfigError for anything else.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        found = re.fullmatch(r"(.+)[:=]([1-9]\d*(?:[x,][1-9]\d*)*)", text)
        if not found:
            raise ConfigError(f"--input-shape {text!r} is not NAME:1x3x224x224")
        shapes[found[1]] = tuple(int(extent) for extent in re.split("[x,]", found[2]))
    return shapes


def select(text: str | None, count: int) -> tuple[int, ...]:
    """The indices that `text` (as `0,2-5`) picks of `count`; all of them without it.

    Raises: ConfigError for text that is not a selection, or that picks what is not there.
    """
    if text is None:
        return tuple(range(count))
    chosen: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if low > high or high >= count:
            raise ConfigError(f"--tasks {text!r}: {part!r} is not among 0 to {count - 1}")
        chosen.update(dict.fromkeys(range(low, high + 1)))
    return tuple(chosen)


def known_engines(
    names: Sequence[str] | None, among: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The peers called `names`, checked before anything else takes time.

    Args:
        among: those that are allowed; the peers for single operators when None.

    Raises: UnsupportedError for one that does not exist, EnvironmentFailure for one that is not
        installed.
    """
    from loopwright.peers.peer import OPERATOR_PEERS, require

    texts = [name.strip() for text in names or () for name in text.split(",")]
    wanted = [name for name in texts if name]
    for name in wanted:
        require(name, OPERATOR_PEERS if among is None else among)
    return tuple(dict.fromkeys(wanted))


def show_ns(ns: float) -> str:
    """A time for a person, three digits: 912 ns, 45.1 us, 3.2 ms, 1.1 s; `-` for NaN."""
    if math.isnan(ns):
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"


def describe(operator: str, attrs: Iterable[tuple[str, AttrValue]]) -> str:
    """A task in a few words: `conv2d 1x64x56x56 w 64x64x3x3 s2 p1 bias relu`."""
    words = [operator]
    for name, value in attrs:
        text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if name in ("data", "a"):
            words.append(text)
        elif name in ("weight", "b"):
            words.append(f"{name[0]} {text}")
        elif name in _SHORT and isinstance(value, tuple):
            same = len(set(value)) == 1
            if not (same and value[0] == _SHORT[name][1]):
                words.append(_SHORT[name][0] + (str(value[0]) if same else text))
        elif value is True:
            words.append(name)
        elif value is not False and value != _USUAL.get(name):
            words.append(f"{name} {text}")
    return " ".join(words)

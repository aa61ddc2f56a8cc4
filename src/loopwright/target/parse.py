"""Parses target strings.

A target string is `cpu` (this machine), an architecture preset such as `x86-64-avx2`, or a preset
with options: `x86-64-avx512 cores=8 l2=1048576 extensions=avx512vnni`. A target is pure data, so it
can describe a machine that is not here. Strings of another kind of target begin with its name; the
package that brings the kind reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from loopwright.errors import ConfigError
from loopwright.plugins import plugin, plugin_names
from loopwright.target.cpu import CpuTarget, with_size
from loopwright.target.host import host
from loopwright.target.presets import EXTENSIONS, PRESETS
from loopwright.target.union import Target

Parser: TypeAlias = Callable[[str], Target]
"""From the whole target string, whose first word is that of the parser's row."""
GROUP = "loopwright.targets"
"""Entry points of other packages: parsers by the first word of target strings."""
_SIZES = ("cores", "l1", "l2", "l3")


def parse(text: str | Target) -> Target:
    """The target that `text` describes.

    Raises: ConfigError naming the known presets and options.
    """
    if not isinstance(text, str):
        return text
    name = next(iter(text.split()), "")
    parser: object = PARSERS.get(name)
    if parser is None and name:
        parser = plugin(GROUP, name)
    if parser is None:
        known = ", ".join([*PARSERS, *plugin_names(GROUP)])
        raise ConfigError(f"unknown target {text!r}; use one of {known}")
    if not callable(parser):
        raise ConfigError(f"entry point {name!r} of {GROUP} is not a function that reads a target")
    found = parser(text)
    if not isinstance(found, Target):
        raise ConfigError(f"entry point {name!r} of {GROUP} gave {found!r}, which is not a target")
    return found


def parse_cpu(text: str) -> CpuTarget:
    """A CPU: this one, or a preset, with the options of `text`.

    Raises: ConfigError naming the known options.
    """
    name, *options = text.split()
    target = host() if name == "cpu" else PRESETS[name]
    for option in options:
        key, _, value = option.partition("=")
        if key == "extensions" and set(value.split(",")) <= {*EXTENSIONS[target.name]}:
            known = EXTENSIONS[target.name]
            target = replace(target, extensions=tuple(e for e in known if e in value.split(",")))
        elif key in _SIZES and value.isdigit() and int(value) > 0:
            target = with_size(target, key, int(value))
        else:
            raise ConfigError(_bad_option(text, option, target.name))
    return target


def _bad_option(text: str, option: str, preset: str) -> str:
    extensions = ",".join(EXTENSIONS[preset])
    known = "cores=N l1=BYTES l2=BYTES l3=BYTES"
    known += f" extensions={extensions}" if extensions else ""
    return f"target {text!r}: option {option!r} is not one of {known}"


PARSERS: Mapping[str, Parser] = dict.fromkeys(("cpu", *PRESETS), parse_cpu)
"""The parsers of target strings, by first word."""

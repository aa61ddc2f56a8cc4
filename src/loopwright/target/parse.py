"""Target strings, read.

A target string is `cpu` (this machine), an architecture preset such as `x86-64-avx2`, or a preset
with options: `x86-64-avx512 cores=8 l2=1048576`. A target is pure data, so it can describe a
machine that is not here.
"""

from __future__ import annotations

from loopwright.errors import ConfigError
from loopwright.target.cpu import with_size
from loopwright.target.host import host
from loopwright.target.presets import PRESETS
from loopwright.target.union import Target

_OPTIONS = ("cores", "l1", "l2", "l3")


def parse(text: str | Target) -> Target:
    """The target that `text` describes.

    Raises: ConfigError naming the presets and options there are.
    """
    if isinstance(text, Target):
        return text
    words = text.split()
    name, options = (words[0] if words else ""), words[1:]
    if name == "cpu":
        target = host()
    elif name in PRESETS:
        target = PRESETS[name]
    else:
        known = ", ".join(["cpu", *PRESETS])
        raise ConfigError(f"unknown target {text!r}; use one of {known}")
    for option in options:
        key, _, value = option.partition("=")
        if key not in _OPTIONS or not value.isdigit() or int(value) < 1:
            raise ConfigError(
                f"target {text!r}: option {option!r} is not one of "
                "cores=N l1=BYTES l2=BYTES l3=BYTES"
            )
        target = with_size(target, key, int(value))
    return target

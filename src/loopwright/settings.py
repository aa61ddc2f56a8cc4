"""Settings: everything that the environment decides, read here and nowhere else.

| variable             | field     | meaning                                                       |
|----------------------|-----------|---------------------------------------------------------------|
| LOOPWRIGHT_CACHE_DIR | cache_dir | folder for what can be made again (measured machine figures)  |
| LOOPWRIGHT_RECORDS   | records   | URL of the records when a command is not given `--records`    |
| LOOPWRIGHT_TRACE     | trace     | folder for what trials and passes did, and texts of kernels   |
| LOOPWRIGHT_TRACEBACK | traceback | 1 shows the whole traceback of an error on the command line   |
| LOOPWRIGHT_TRACKER   | tracker   | the fleet's tracker, as tls://lab:7070; else this user's own  |
| LOOPWRIGHT_TOKEN     | token     | who one is to a tracker, or @FILE that holds the token        |
| LOOPWRIGHT_CA        | ca        | certificate of the fleet's authority, or the folder it is in  |
| LOOPWRIGHT_CERT      | cert      | one's own certificate for a fleet, its .key beside it         |
| LOOPWRIGHT_SIGN      | sign      | file of the builder's key that code for a fleet is signed by  |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loopwright.errors import ConfigError

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"", "0", "false", "no", "off"})


DEFAULT_RECORDS = "sqlite:///loopwright.db"
"""Where records are kept by default."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment decides; see the table of this module."""

    cache_dir: Path
    records: str
    trace: Path | None = None
    traceback: bool = False
    tracker: str | None = None
    token: str | None = field(default=None, repr=False)  # a secret is in no traceback
    ca: Path | None = None
    cert: Path | None = None
    sign: Path | None = None

    @property
    def own_tracker(self) -> str:
        """Where this user's tracker listens, and is looked for, by default."""
        return f"unix://{(self.cache_dir / 'tracker.sock').absolute()}"


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings that `environ` (the process's own by default) asks for.

    Raises: ConfigError for a switch that is neither on nor off.
    """
    values = os.environ if environ is None else environ  # noqa: TID251  # the one place
    home = Path(values.get("HOME") or "~").expanduser()
    base = Path(values.get("XDG_CACHE_HOME") or home / ".cache")
    return Settings(
        cache_dir=Path(values.get("LOOPWRIGHT_CACHE_DIR") or base / "loopwright"),
        records=values.get("LOOPWRIGHT_RECORDS") or DEFAULT_RECORDS,
        trace=_path(values, "LOOPWRIGHT_TRACE"),
        traceback=_switch("LOOPWRIGHT_TRACEBACK", values.get("LOOPWRIGHT_TRACEBACK", "")),
        tracker=values.get("LOOPWRIGHT_TRACKER") or None,
        token=values.get("LOOPWRIGHT_TOKEN") or None,
        ca=_path(values, "LOOPWRIGHT_CA"),
        cert=_path(values, "LOOPWRIGHT_CERT"),
        sign=_path(values, "LOOPWRIGHT_SIGN"),
    )


def _path(values: Mapping[str, str], name: str) -> Path | None:
    text = values.get(name)
    return Path(text) if text else None


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is started: this one's without its token, and `more`."""
    values = dict(os.environ)  # noqa: TID251  # the one place
    values.pop("LOOPWRIGHT_TOKEN", None)
    return {**values, **more}


def _switch(name: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in _ON | _OFF:
        raise ConfigError(f"{name}={text!r} is not a switch; use 1 or 0")
    return word in _ON

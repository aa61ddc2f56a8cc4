"""What each tenant may hold and wait for, as an operator writes it: a TOML file, and options.

    [tenant]                    # every tenant that has no table of its own
    max_leases = 8

    [tenants.ci]
    weight = 3.0                # of the devices that several tenants want: its share against theirs
    max_leases = 16
    max_queued = 200

An option says the same of one tenant as `ci:weight=3,max_leases=16`, with `*` for all others.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loopwright.errors import ConfigError
from loopwright.fleet.book.config import BookConfig, TenantConfig
from loopwright.fleet.wire.faults import Denied
from loopwright.fleet.wire.fields import check_name

OTHERS = "*"
_MOST = 1_000_000
_KEYS = ("weight", "max_leases", "max_queued")


def with_quotas(config: BookConfig, file: Path | None, options: Sequence[str]) -> BookConfig:
    """`config` with the quotas of a file and, before those, of options.

    Raises: ConfigError for an invalid quota.
    """
    default, named = config.tenant, dict(config.tenants)
    tables = _tables(file) if file is not None else {}
    spoken: dict[str, Mapping[str, object]] = {}
    for text in options:
        spoken[_name(text)] = {**spoken.get(_name(text), {}), **_values(text)}
    for where, found in ((str(file), tables), ("--tenant", spoken)):
        if OTHERS in found:
            default = _changed(default, found[OTHERS], f"{where}: all other tenants")
        for name, values in found.items():
            if name != OTHERS:
                before = named.get(name, default)
                named[name] = _changed(before, values, f"{where}: tenant {name}")
    return replace(config, tenant=default, tenants=named)


def _tables(file: Path) -> Mapping[str, Mapping[str, object]]:
    """The values of each tenant in a file."""
    try:
        found = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"the configuration {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {file} is not TOML: {error}") from error
    unknown = sorted(set(found) - {"tenant", "tenants"})
    if unknown:
        raise ConfigError(f"{file}: no table {unknown[0]!r}; there are [tenant], [tenants.NAME]")
    tables = {OTHERS: found.get("tenant", {}), **_table(file, found.get("tenants", {}))}
    return {_checked(name): _table(file, values) for name, values in tables.items()}


def _table(file: Path, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: write tenants as tables, [tenants.NAME], not as {value!r}")
    return value


def _name(text: str) -> str:
    return _checked(text.partition(":")[0].strip())


def _checked(name: str) -> str:
    if name == OTHERS:
        return name
    try:
        return check_name(name, "a tenant")
    except Denied as error:
        raise ConfigError(str(error)) from error


def _values(text: str) -> Mapping[str, object]:
    """The values that an option gives."""
    values: dict[str, object] = {}
    for part in text.partition(":")[2].split(","):
        key, _, value = part.partition("=")
        try:
            values[key.strip()] = float(value) if key.strip() == "weight" else int(value)
        except ValueError as error:
            raise ConfigError(
                f"--tenant {text!r}: write NAME:max_leases=4,max_queued=100,weight=2"
            ) from error
    return values


def _changed(before: TenantConfig, values: Mapping[str, object], where: str) -> TenantConfig:
    """`before` with `values`.

    Raises: ConfigError for an unknown key or an invalid value.
    """
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise ConfigError(f"{where}: no {unknown[0]!r}; there are {', '.join(_KEYS)}")
    weight = _weight(values.get("weight", before.weight), where)
    live = _count(values.get("max_leases", before.max_live), f"{where}: max_leases")
    queued = _count(values.get("max_queued", before.max_queued), f"{where}: max_queued")
    return TenantConfig(weight, live, queued)


def _weight(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST:
        return float(value)
    raise ConfigError(f"{where}: weight {value!r} is not a number above 0, at most {_MOST}")


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise ConfigError(f"{where} {value!r} is not a number from 0 to {_MOST}")
    return value

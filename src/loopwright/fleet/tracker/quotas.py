"""What each tenant and role may have, as an operator writes it: a TOML file, and options.

    [tenant]                    # every tenant that has no table of its own
    max_leases = 8

    [tenants.ci]
    weight = 3.0                # of the devices that several tenants want: its share against theirs
    max_leases = 16
    max_queued = 200
    max_ttl_s = 600.0           # how long its leases may live without a renewal
    max_lease_s = 7200.0        # how long they may be held, renewed or not

    [role.user]
    max_class = "interactive"   # the highest class that it may ask for

Limits of roles and tenants are the same three; of both that hold for a request the lower counts. An
option says the same of one tenant as `ci:weight=3,max_leases=16`, with `*` for all others, or of a
role as `user:max_class=interactive`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from loopwright.errors import ConfigError
from loopwright.fleet.book.config import BookConfig, LeaseLimits, TenantConfig
from loopwright.fleet.wire.faults import Denied
from loopwright.fleet.wire.fields import check_name
from loopwright.fleet.words import Priority, Role

OTHERS = "*"
_MOST = 1_000_000
_LIMITS = ("max_class", "max_ttl_s", "max_lease_s")
_KEYS = ("weight", "max_leases", "max_queued", *_LIMITS)
_READ: Mapping[str, Callable[[str], object]] = {
    "weight": float,
    "max_class": str,
    "max_ttl_s": float,
    "max_lease_s": float,
}
"""How the values of options are read that are no whole numbers."""
_TENANT_OPTION = "--tenant", "NAME:max_leases=4,max_queued=100,weight=2"
_ROLE_OPTION = "--role", "user:max_class=interactive,max_ttl_s=600,max_lease_s=7200"

_Tables: TypeAlias = Mapping[str, Mapping[str, object]]


def with_quotas(
    config: BookConfig, file: Path | None, options: Sequence[str], roles: Sequence[str] = ()
) -> BookConfig:
    """`config` with the quotas of a file and, before those, of options for tenants and for roles.

    Raises: ConfigError for an invalid quota.
    """
    tenants, of_roles = _tables(file) if file is not None else ({}, {})
    config = _with_roles(config, (str(file), of_roles), (_ROLE_OPTION[0], _spoken(roles)))
    return _with_tenants(config, file, tenants, _spoken(options, checked=True))


def shown(limits: LeaseLimits) -> Mapping[str, object]:
    """The limits that there are, as a status has them."""
    times = {"max_ttl_s": limits.max_ttl_s, "max_lease_s": limits.max_lease_s}
    found = {name: time_s for name, time_s in times.items() if not math.isinf(time_s)}
    if limits.max_class == max(Priority):
        return found
    return {"max_class": limits.max_class.name.lower(), **found}


def _with_roles(config: BookConfig, *given: tuple[str, _Tables]) -> BookConfig:
    roles = dict(config.roles)
    known = {role.name.lower(): role for role in Role}
    for where, found in given:
        for name, values in found.items():
            role = known.get(name)
            if role is None:
                raise ConfigError(f"{where}: no role {name!r}; there are {', '.join(known)}")
            _check_keys(values, _LIMITS, f"{where}: role {name}")
            roles[role] = _limited(roles.get(role, LeaseLimits()), values, f"{where}: role {name}")
    return replace(config, roles=roles)


def _spoken(options: Sequence[str], *, checked: bool = False) -> _Tables:
    """What options say, by the name before the colon."""
    kind = _TENANT_OPTION if checked else _ROLE_OPTION
    found: dict[str, Mapping[str, object]] = {}
    for text in options:
        name = text.partition(":")[0].strip()
        name = _checked(name) if checked else name
        found[name] = {**found.get(name, {}), **_values(text, kind)}
    return found


def _with_tenants(
    config: BookConfig, file: Path | None, tables: _Tables, spoken: _Tables
) -> BookConfig:
    default, named = config.tenant, dict(config.tenants)
    for where, found in ((str(file), tables), ("--tenant", spoken)):
        if OTHERS in found:
            default = _changed(default, found[OTHERS], f"{where}: all other tenants")
        for name, values in found.items():
            if name != OTHERS:
                before = named.get(name, default)
                named[name] = _changed(before, values, f"{where}: tenant {name}")
    return replace(config, tenant=default, tenants=named)


def _tables(file: Path) -> tuple[_Tables, _Tables]:
    """The values of each tenant in a file, and of each role."""
    try:
        found = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"the configuration {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {file} is not TOML: {error}") from error
    unknown = sorted(set(found) - {"tenant", "tenants", "role"})
    if unknown:
        raise ConfigError(
            f"{file}: no table {unknown[0]!r}; there are [tenant], [tenants.NAME], [role.NAME]"
        )
    tables = {OTHERS: found.get("tenant", {}), **_table(file, found.get("tenants", {}))}
    roles = _table(file, found.get("role", {}))
    return (
        {_checked(name): _table(file, values) for name, values in tables.items()},
        {name: _table(file, values) for name, values in roles.items()},
    )


def _table(file: Path, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        shown = "[tenants.NAME] and [role.NAME]"
        raise ConfigError(f"{file}: write tenants as tables, {shown}, not as {value!r}")
    return value


def _checked(name: str) -> str:
    if name == OTHERS:
        return name
    try:
        return check_name(name, "a tenant")
    except Denied as error:
        raise ConfigError(str(error)) from error


def _values(text: str, kind: tuple[str, str]) -> Mapping[str, object]:
    """The values that an option of a kind gives."""
    values: dict[str, object] = {}
    for part in text.partition(":")[2].split(","):
        key, _, value = (word.strip() for word in part.partition("="))
        try:
            values[key] = _READ.get(key, int)(value)
        except ValueError as error:
            raise ConfigError(f"{kind[0]} {text!r}: write {kind[1]}") from error
    return values


def _changed(before: TenantConfig, values: Mapping[str, object], where: str) -> TenantConfig:
    """`before` with `values`.

    Raises: ConfigError for an unknown key or an invalid value.
    """
    _check_keys(values, _KEYS, where)
    weight = _weight(values.get("weight", before.weight), where)
    live = _count(values.get("max_leases", before.max_live), f"{where}: max_leases")
    queued = _count(values.get("max_queued", before.max_queued), f"{where}: max_queued")
    return TenantConfig(weight, live, queued, _limited(before.limits, values, where))


def _check_keys(values: Mapping[str, object], keys: Sequence[str], where: str) -> None:
    unknown = sorted(set(values) - set(keys))
    if unknown:
        raise ConfigError(f"{where}: no {unknown[0]!r}; there are {', '.join(keys)}")


def _limited(before: LeaseLimits, values: Mapping[str, object], where: str) -> LeaseLimits:
    """`before` with the limits among `values`."""
    highest, ttl_s, lease_s = before.max_class, before.max_ttl_s, before.max_lease_s
    if "max_class" in values:
        highest = _class(values["max_class"], where)
    if "max_ttl_s" in values:
        ttl_s = _above_zero(values["max_ttl_s"], f"{where}: max_ttl_s")
    if "max_lease_s" in values:
        lease_s = _above_zero(values["max_lease_s"], f"{where}: max_lease_s")
    return LeaseLimits(max_class=highest, max_ttl_s=ttl_s, max_lease_s=lease_s)


def _class(value: object, where: str) -> Priority:
    known = {priority.name.lower(): priority for priority in Priority}
    if value not in known:
        raise ConfigError(f"{where}: max_class {value!r} is not one of {', '.join(known)}")
    return known[str(value)]


def _weight(value: object, where: str) -> float:
    return _above_zero(value, f"{where}: weight")


def _above_zero(value: object, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST:
        return float(value)
    raise ConfigError(f"{what} {value!r} is not a number above 0, at most {_MOST}")


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise ConfigError(f"{where} {value!r} is not a number from 0 to {_MOST}")
    return value

"""Quotas of tenants as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.fleet.book.config import BookConfig, LeaseLimits, TenantConfig
from loopwright.fleet.tracker.quotas import shown, with_quotas
from loopwright.fleet.words import Priority, Role

FILE = """
[tenant]
max_leases = 8

[tenants.ci]
weight = 3
max_queued = 200

[tenants."team/a"]
max_leases = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FILE)
    return path


def test_a_file_has_the_quotas_of_some_tenants_and_of_the_others(file: Path) -> None:
    made = with_quotas(BookConfig(), file, ())
    plain = TenantConfig()
    assert made.of_tenant("ci") == TenantConfig(3.0, 8, 200)
    assert made.of_tenant("team/a") == TenantConfig(1.0, 2, plain.max_queued)
    assert made.of_tenant("anybody") == TenantConfig(1.0, 8, plain.max_queued)


def test_options_go_before_the_file_and_add_up(file: Path) -> None:
    options = ("ci:max_leases=4", "ci:weight=0.5", "bob:max_queued=0", "*:max_leases=1")
    made = with_quotas(BookConfig(), file, options)
    plain = TenantConfig()
    assert made.of_tenant("ci") == TenantConfig(0.5, 4, 200)
    assert made.of_tenant("bob") == TenantConfig(1.0, 1, 0)
    assert made.of_tenant("anybody") == TenantConfig(1.0, 1, plain.max_queued)


def test_without_either_nothing_changes() -> None:
    assert with_quotas(BookConfig(), None, ()) == BookConfig()


def test_roles_and_tenants_have_limits(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(
        '[role.user]\nmax_class = "interactive"\nmax_ttl_s = 600\n'
        "[tenants.ci]\nmax_lease_s = 7200.0\n"
    )
    options, roles = ("ci:max_class=batch",), ("user:max_ttl_s=90", "operator:max_lease_s=60")
    made = with_quotas(BookConfig(), path, options, roles)
    assert made.limits(Role.USER, "ci") == (
        LeaseLimits(max_class=Priority.INTERACTIVE, max_ttl_s=90.0),
        LeaseLimits(max_class=Priority.BATCH, max_lease_s=7200.0),
    )
    assert made.limits(Role.OPERATOR, "x") == (LeaseLimits(max_lease_s=60.0), LeaseLimits())
    assert shown(made.roles[Role.USER]) == {"max_class": "interactive", "max_ttl_s": 90.0}
    assert shown(made.roles[Role.OPERATOR]) == {"max_lease_s": 60.0}


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("boss:max_class=batch", "--role: no role 'boss'; there are viewer, user, operator, admin"),
        ("user:weight=2", "no 'weight'; there are max_class, max_ttl_s, max_lease_s"),
        ("user:max_class=high", "'high' is not one of batch, normal, interactive, urgent"),
        ("user:max_ttl_s=0", "max_ttl_s 0.0 is not a number above 0"),
        ("user:max_lease_s=long", "write user:max_class=interactive"),
        ("user", "write user:max_class=interactive"),
    ],
)
def test_an_option_that_is_no_limit_of_a_role_is_refused(role: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_quotas(BookConfig(), None, (), (role,))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("ci", "write NAME:max_leases=4"),
        ("ci:", "write NAME:max_leases=4"),
        ("ci:max_leases", "write NAME:max_leases=4"),
        ("ci:max_leases=many", "write NAME:max_leases=4"),
        ("ci:max_lease=4", "no 'max_lease'; there are weight, max_leases, max_queued"),
        ("ci:max_leases=-1", "is not a number from 0"),
        ("ci:weight=0", "is not a number above 0"),
        ("ci:weight=nan", "is not a number above 0"),
        ("ci:weight=inf", "is not a number above 0"),
        ("../ci:weight=2", "cannot name a tenant"),
    ],
)
def test_an_option_that_is_no_quota_is_refused(option: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_quotas(BookConfig(), None, (option,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tenants", "is not TOML"),
        ("[quota]", "no table 'quota'"),
        ("tenants = 3", "write tenants as tables"),
        ("[tenants]\nci = 3", "write tenants as tables"),
        ("[tenants.ci]\nweight = 'much'", "weight 'much' is not a number above 0"),
        ("[tenants.ci]\nweight = true", "weight True is not a number"),
        ("[tenant]\nmax_leases = 2.5", "max_leases 2.5 is not a number from 0"),
        ("[tenants.' ']\nweight = 1", "cannot name a tenant"),
    ],
)
def test_a_file_that_has_no_quotas_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        with_quotas(BookConfig(), path, ())


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        with_quotas(BookConfig(), tmp_path / "gone.toml", ())

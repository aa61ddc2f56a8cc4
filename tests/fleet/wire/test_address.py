from __future__ import annotations

import pytest

from loopwright.errors import ConfigError
from loopwright.fleet.wire.address import Address, Scheme, is_loopback, parse, require_safe_binding


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:7070", Address(Scheme.TCP, "127.0.0.1", 7070)),
        ("tls://lab:7070", Address(Scheme.TLS, "lab", 7070)),
        ("tcp://[::1]:0", Address(Scheme.TCP, "::1", 0)),
        ("unix:///run/a.sock", Address(Scheme.UNIX, path="/run/a.sock")),
    ],
)
def test_an_address_reads_as_it_is_written(text: str, address: Address) -> None:
    assert parse(text) == address
    assert str(parse(text)) == text


def test_a_host_and_port_alone_are_tcp() -> None:
    assert str(parse("lab:7070")) == "tcp://lab:7070"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no port"),
        ("lab", "no port"),
        ("tcp://lab:http", "no port"),
        ("tcp://lab:70700", "no port"),
        ("tcp://lab:-1", "no port"),
        ("tcp://::1:7070", "brackets"),
        ("http://lab:80", "none of"),
        ("tcp://lab/x:7070", "is not a host"),
        ("tcp://a@lab:7070", "is not a host"),
        ("tcp://lab:7070\r\nX: y", "characters"),
        ("unix://relative.sock", "whole path"),
        ("unix:///" + "x" * 120, "at most 107"),
        ("unix:///a\0b", "characters"),
    ],
)
def test_what_is_no_address_says_why(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "lab", "127.evil.example"])
def test_hosts_that_others_may_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "unix:///a", "tcp://[::1]:1"])
def test_loopback_may_be_bound_as_it_is(address: str) -> None:
    require_safe_binding(address, authenticated=False, tls=False, carries_secrets=True)


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:1", "tcp://:1", "tcp://[::]:1", "tls://lab:1"])
def test_others_need_authentication(address: str) -> None:
    with pytest.raises(ConfigError, match="without authentication"):
        require_safe_binding(address, authenticated=False, tls=True)
    require_safe_binding(address, authenticated=True, tls=True, carries_secrets=True)


def test_secrets_need_tls_beyond_loopback() -> None:
    require_safe_binding("tcp://0.0.0.0:1", authenticated=True, tls=False)
    with pytest.raises(ConfigError, match="in the clear"):
        require_safe_binding("tcp://0.0.0.0:1", authenticated=True, tls=False, carries_secrets=True)

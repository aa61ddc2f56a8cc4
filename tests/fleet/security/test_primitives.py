from __future__ import annotations

import ast
import hashlib
import hmac
from pathlib import Path

import pytest
from fleet_links import KEY, OTHER_KEY, USER, a_ticket, sealed
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import ConfigError
from loopwright.fields import MAX_TEXT
from loopwright.fleet.security import keys, tickets, tokens
from loopwright.fleet.security import mac as mac_module
from loopwright.fleet.security.mac import FrameMac
from loopwright.fleet.security.proofs import channel_key, new_nonce
from loopwright.fleet.wire.faults import Denied, Fault, Tally
from loopwright.fleet.wire.fields import clip
from loopwright.fleet.wire.frame import FrameError

SECURITY = Path(mac_module.__file__).parent


def test_derived_keys_are_those_of_rfc_5869() -> None:
    made = keys.derive(
        bytes.fromhex("0b" * 22),
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
        salt=bytes.fromhex("000102030405060708090a0b0c"),
        length=42,
    )
    assert made.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_derived_keys_without_a_salt_are_those_of_rfc_5869() -> None:
    assert keys.derive(bytes.fromhex("0b" * 22), b"", length=42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1])
def test_a_key_of_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match="are possible"):
        keys.derive(KEY, b"x", length=length)


def test_a_fingerprint_tells_keys_apart() -> None:
    assert keys.fingerprint(KEY) != keys.fingerprint(OTHER_KEY)


def test_keys_and_nonces_are_fresh() -> None:
    assert len({keys.new_key() for _ in range(20)} | {new_nonce() for _ in range(20)}) == 40


@given(st.binary(max_size=300), st.integers(0, 5))
def test_a_frames_mac_is_hmac_sha256_over_counter_header_and_body(body: bytes, before: int) -> None:
    made = FrameMac(KEY, from_dialer=True)
    for _ in range(before):
        made.tag(b"", b"")
    key = keys.derive(KEY, b"loopwright frames from the dialer")
    said = before.to_bytes(8, "little") + b"h" * 16 + body
    assert made.tag(b"h" * 16, body) == hmac.digest(key, said, "sha256")[:16]


def test_frames_verify_in_the_order_they_were_made() -> None:
    ours, theirs = FrameMac(KEY, from_dialer=True), FrameMac(KEY, from_dialer=True)
    tags = [ours.tag(b"h", bytes((n,))) for n in range(3)]
    for n, tag in enumerate(tags):
        theirs.verify(b"h", bytes((n,)), tag)
    assert theirs.frames == 3
    with pytest.raises(FrameError, match="frame 3 is not authentic"):
        theirs.verify(b"h", b"\2", tags[2])


def test_the_key_of_a_channel_depends_on_both_nonces_and_their_order() -> None:
    one, other = b"1" * 32, b"2" * 32
    made = {channel_key(KEY, *pair) for pair in [(one, other), (other, one), (one, one)]}
    assert len(made) == 3


def test_a_ticket_is_read_as_it_was_sealed() -> None:
    data, key = sealed(caps=("run", "configure"))
    assert tickets.unseal(data, KEY) == a_ticket(caps=("run", "configure"))
    assert key == tickets.session_key(KEY, data)
    assert key != tickets.session_key(OTHER_KEY, data)
    assert key != sealed(epoch=6)[1]
    assert len(data) < tickets.MAX_TICKET_BYTES


@given(st.data())
def test_a_ticket_with_any_bit_changed_is_refused(data: st.DataObject) -> None:
    ticket = bytearray(sealed()[0])
    ticket[data.draw(st.integers(0, len(ticket) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Denied) as caught:
        tickets.unseal(bytes(ticket), KEY)
    assert caught.value.fault is Fault.BAD_TICKET


@given(st.binary(max_size=400))
def test_random_bytes_are_no_ticket(data: bytes) -> None:
    with pytest.raises(Denied):
        tickets.unseal(data, KEY)


# --- tokens ---


def row(issued: tokens.Issued, expires_at: float | None = None) -> tokens.TokenRow:
    return tokens.TokenRow(issued.id, issued.digest, USER, expires_at)


def test_a_token_is_its_principal_until_it_expires() -> None:
    issued = tokens.make_token()
    assert tokens.token_id(issued.text) == issued.id
    assert tokens.check_token(issued.text, row(issued), 1e12) == USER
    assert tokens.check_token(issued.text, row(issued, 10.0), 9.9) == USER
    with pytest.raises(Denied, match="has expired"):
        tokens.check_token(issued.text, row(issued, 10.0), 10.0)


def test_only_a_digest_of_the_secret_is_kept() -> None:
    issued = tokens.make_token()
    secret = issued.text.split("_")[2]
    assert secret not in str(row(issued))
    assert hashlib.sha256(secret.encode()).digest() != issued.digest  # not usable elsewhere either


@given(st.data())
def test_a_token_with_one_other_character_is_a_typo(data: st.DataObject) -> None:
    entropy = data.draw(st.binary(min_size=32, max_size=32))
    text = tokens.make_token(lambda n: entropy[:n]).text
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[at]))
    with pytest.raises(Denied) as caught:
        tokens.token_id(text[:at] + other + text[at + 1 :])
    assert caught.value.fault is Fault.TOKEN_TYPO


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_a_typo(text: str) -> None:
    with pytest.raises(Denied) as caught:
        tokens.token_id(text)
    assert caught.value.fault is Fault.TOKEN_TYPO


def test_a_refusal_does_not_repeat_the_secret() -> None:
    text = tokens.make_token().text
    for bad in (text[:-1], text + "x", text.replace("lwt", "lwx")):
        with pytest.raises(Denied) as caught:
            tokens.check_token(bad, None, 0.0)
        assert text.split("_")[2] not in str(caught.value)


def test_too_little_entropy_is_refused() -> None:
    with pytest.raises(ConfigError, match="entropy"):
        tokens.make_token(lambda _: b"short")


def test_faults_are_counted_by_word() -> None:
    tally = Tally()
    for fault in (Fault.BAD_MAC, Fault.EVICTED, Fault.BAD_MAC):
        tally.count(fault)
    assert tally.figures() == {"bad-mac": 2, "evicted": 1}
    assert tally.total == 3
    assert tally.of(Fault.TLS) == 0


def test_long_text_is_clipped() -> None:
    assert clip("x" * 10) == "x" * 10
    assert len(clip("x" * 100_000)) == MAX_TEXT


# --- the source itself ---

SECRETS = {"mac", "tag", "digest", "secret", "key", "proof", "signature", "nonce", "checksum"}
SOURCES = sorted(SECURITY.glob("*.py"))


def terminal(node: ast.expr) -> str:
    """The last name in an expression: `x` of `a.x`, of `f(...)` that of f."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return terminal(function)
        case _:
            return ""


def leaks(source: str) -> list[str]:
    """Comparisons of secrets that take a time which depends on them, and other generators."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(
            isinstance(op, (ast.Eq, ast.NotEq)) for op in node.ops
        ):
            names = {terminal(side).lstrip("_") for side in (node.left, *node.comparators)}
            if names & SECRETS:
                found.append(f"line {node.lineno}: compares {', '.join(sorted(names & SECRETS))}")
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        found += [
            f"line {node.lineno}: imports {name}"  # type: ignore[attr-defined]
            for name in modules
            if name.split(".")[0] in ("random", "numpy", "uuid", "pickle", "time")
        ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_secrets_are_compared_in_constant_time_and_made_by_the_kernel(path: Path) -> None:
    assert leaks(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "if mac == other.mac: pass",
        "ok = _digest(secret) != row.digest",
        "import random",
        "from numpy.random import bytes",
    ],
)
def test_a_leak_would_be_found(source: str) -> None:
    assert leaks(source)

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.fleet.security import signing
from loopwright.fleet.wire.faults import Denied, Fault

pytest.importorskip("cryptography", reason="the extra [tls] is not installed")
DIGEST = hashlib.sha256(b"code").digest()
ADA, BOB = signing.builder_of(bytes(range(32))), signing.builder_of(bytes(range(1, 33)))


def test_a_builder_that_is_known_signs_what_may_run() -> None:
    signing.verify(DIGEST, signing.sign(DIGEST, BOB.secret), [ADA.public, BOB.public])


def refused(signature: bytes, builders: list[bytes], digest: bytes = DIGEST) -> Fault:
    with pytest.raises(Denied) as caught:
        signing.verify(digest, signature, builders)
    return caught.value.fault


def test_code_without_a_signature_is_unsigned() -> None:
    assert refused(b"", [ADA.public]) is Fault.UNSIGNED


def test_a_builder_that_is_not_on_the_list_is_not_known() -> None:
    assert refused(signing.sign(DIGEST, BOB.secret), [ADA.public]) is Fault.UNKNOWN_BUILDER
    assert refused(signing.sign(DIGEST, BOB.secret), []) is Fault.UNKNOWN_BUILDER


def test_a_signature_of_other_code_is_bad() -> None:
    other = hashlib.sha256(b"other").digest()
    assert refused(signing.sign(other, ADA.secret), [ADA.public]) is Fault.BAD_SIGNATURE


def test_a_signature_under_the_name_of_another_is_bad() -> None:
    forged = signing.sign(DIGEST, ADA.secret)[:8] + signing.sign(DIGEST, BOB.secret)[8:]
    assert refused(forged, [ADA.public, BOB.public]) is Fault.BAD_SIGNATURE


@pytest.mark.parametrize("at", [0, 8, 40, 71])
def test_one_bit_makes_a_signature_bad(at: int) -> None:
    data = bytearray(signing.sign(DIGEST, ADA.secret))
    data[at] ^= 1
    assert refused(bytes(data), [ADA.public]) in (Fault.BAD_SIGNATURE, Fault.UNKNOWN_BUILDER)


@pytest.mark.parametrize("length", [1, 64, 71, 73, 256])
def test_a_signature_of_another_length_is_bad(length: int) -> None:
    assert refused(bytes(length), [ADA.public]) is Fault.BAD_SIGNATURE


def test_a_public_key_reads_as_it_is_shown() -> None:
    assert signing.read_public(signing.show_public(ADA.public)) == ADA.public


@pytest.mark.parametrize("text", ["", "lwb_", "lwb_abc", "lwx_" + "a" * 52, "lwb_" + "1" * 52])
def test_what_is_no_public_key_says_so(text: str) -> None:
    with pytest.raises(ConfigError, match="public key"):
        signing.read_public(text)


def test_new_builders_differ_and_hide_their_secret() -> None:
    one, other = signing.make_builder(), signing.make_builder()
    assert one.secret != other.secret
    assert one.secret.hex() not in repr(one)
    assert str(one.secret) not in repr(one)


def test_without_the_extra_signing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"loopwright\[tls\]"):
        signing.sign(DIGEST, ADA.secret)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_secret_of_another_length_is_none(secret: bytes) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        signing.builder_of(secret)


def test_a_saved_builder_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    signing.save_builder(path, ADA)
    assert signing.load_builder(path) == ADA
    with pytest.raises(ConfigError, match="is there already"):
        signing.save_builder(path, BOB)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"others may read .*: chmod 600 it"):
        signing.load_builder(path)


@pytest.mark.parametrize("text", ["", "lws_", "lws_abc", signing.show_public(ADA.public), "\xff"])
def test_what_is_no_builders_key_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is not a builder's key; make one with"):
        signing.load_builder(path)
    with pytest.raises(ConfigError, match="No such file"):
        signing.load_builder(tmp_path / "none")

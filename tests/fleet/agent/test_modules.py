"""Modules of a device: which are in place, which make room, and whose blobs are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.agent.blobs import BlobCache, BlobError, Uploads
from loopwright.fleet.agent.modules import Modules
from loopwright.fleet.words import NO_RUNTIME, RUNTIME

OWN = b"of the host"
QUOTA = 400


@pytest.fixture
def blobs(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path, QUOTA, QUOTA)


def upload(blobs: BlobCache, text: str) -> str:
    """The digest of 100 bytes that begin with `text`."""
    data = text.encode().ljust(100, b".")
    digest = hashlib.sha256(data).digest()
    assert Uploads(blobs).put(digest, 0, len(data), data)
    return digest.hex()


@pytest.fixture
def modules(blobs: BlobCache) -> Modules:
    return Modules(blobs, OWN, locked=False)


def test_kinds_of_earlier_sessions_make_room_the_oldest_first(
    blobs: BlobCache, modules: Modules
) -> None:
    digest = upload(blobs, "junk")
    for n in range(5):
        modules.begin_session()
        assert modules.configure({f"junk{n}": digest}) == (f"junk{n}",)
    modules.begin_session()
    assert modules.configure({"junk0": digest}) == ()  # so that it is the latest

    modules.begin_session()
    assert modules.configure({"bitstream": digest, "driver": digest}) == ("bitstream", "driver")

    assert list(modules.in_place()) == [RUNTIME, "junk3", "junk4", "junk0", "bitstream", "driver"]


def test_a_session_keeps_what_it_has_configured_and_gets_no_more_than_fits(
    blobs: BlobCache, modules: Modules
) -> None:
    digest = upload(blobs, "one")
    modules.begin_session()
    for n in range(5):
        modules.configure({f"k{n}": digest})

    with pytest.raises(FleetError, match="at most 6 kinds"):
        modules.configure({"k5": digest})

    assert set(modules.in_place()) == {RUNTIME, *(f"k{n}" for n in range(5))}


def test_a_kind_whose_blob_was_evicted_is_no_longer_in_place(
    blobs: BlobCache, modules: Modules
) -> None:
    old = upload(blobs, "old")
    modules.begin_session()
    modules.configure({"bitstream": old})
    modules.begin_session()
    for n in range(4):
        upload(blobs, f"other {n}")

    assert modules.in_place() == {RUNTIME: modules.own}
    with pytest.raises(FleetError, match=f"module bitstream: upload blob {old[:12]} first"):
        modules.configure({"bitstream": old})
    upload(blobs, "old")
    assert modules.configure({"bitstream": old}) == ()
    assert modules.in_place()["bitstream"] == old


def test_the_blobs_of_a_sessions_modules_are_kept_until_its_end(
    blobs: BlobCache, modules: Modules
) -> None:
    kept = upload(blobs, "kept")
    modules.begin_session()
    modules.configure({"bitstream": kept})
    for n in range(8):
        upload(blobs, f"other {n}")

    assert modules.configure({"bitstream": kept}) == ()
    assert blobs.size(bytes.fromhex(kept)) == 100


def test_modules_of_sessions_that_are_over_do_not_fill_the_cache_for_good(
    blobs: BlobCache, modules: Modules
) -> None:
    for n in range(4):
        modules.begin_session()
        modules.configure({f"k{n}": upload(blobs, f"module {n}")})
    modules.begin_session()

    for n in range(4):
        upload(blobs, f"candidate {n}")


def test_the_runtime_in_place_is_kept_and_a_lost_one_gives_way_to_the_hosts(
    blobs: BlobCache, modules: Modules
) -> None:
    brought = upload(blobs, "runtime")
    modules.begin_session()
    modules.configure({RUNTIME: brought})
    modules.begin_session()
    for n in range(8):
        upload(blobs, f"other {n}")
    assert modules.runtime == brought
    assert modules.foreign

    blobs._path(bytes.fromhex(brought)).write_bytes(b"something else")
    with pytest.raises(BlobError, match="was altered"):
        modules.code(RUNTIME)
    assert modules.runtime == brought  # no session gets another runtime than it wanted
    modules.begin_session()

    assert modules.shown() == {RUNTIME: modules.own}
    assert modules.code(RUNTIME) == OWN


def test_the_hosts_own_runtime_needs_no_blob(blobs: BlobCache, modules: Modules) -> None:
    brought = upload(blobs, "runtime")

    assert modules.configure({RUNTIME: modules.own}) == ()
    assert modules.configure({RUNTIME: brought}) == (RUNTIME,)
    assert modules.configure({RUNTIME: modules.own}) == (RUNTIME,)
    assert modules.code(RUNTIME) == OWN


def test_a_host_without_a_runtime_says_so(blobs: BlobCache) -> None:
    modules = Modules(blobs, b"", locked=False)

    assert modules.shown() == {RUNTIME: NO_RUNTIME}
    assert modules.in_place() == {}
    assert modules.code(RUNTIME) == b""
    assert not modules.foreign


def test_a_locked_runtime_is_neither_shown_nor_replaced(blobs: BlobCache) -> None:
    modules = Modules(blobs, OWN, locked=True)

    with pytest.raises(AuthError, match="no other native runtime"):
        modules.configure({RUNTIME: upload(blobs, "runtime")})
    assert modules.configure({RUNTIME: modules.own}) == ()
    assert modules.shown() == {}


def test_a_runtime_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    large = BlobCache(tmp_path / "large", 4 << 20, 4 << 20)
    data = bytes((1 << 20) + 1)
    digest = hashlib.sha256(data).digest()
    Uploads(large).put(digest, 0, len(data), data)
    large._path(digest).unlink()

    with pytest.raises(FleetError, match="at most 1048576 bytes"):
        Modules(large, OWN, locked=False).configure({RUNTIME: digest.hex()})

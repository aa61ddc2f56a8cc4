"""The cache of uploads."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from loopwright.fleet.agent import blobs
from loopwright.fleet.agent.blobs import BlobCache, BlobError, Uploads

MIB = 1 << 20


def blob(seed: int, nbytes: int = 1000) -> tuple[bytes, bytes]:
    data = np.random.default_rng(seed).bytes(nbytes)
    return hashlib.sha256(data).digest(), data


def cache(folder: Path, quota: int = 10_000, largest: int = 5_000) -> BlobCache:
    return BlobCache(folder, quota, largest)


def put(kept: BlobCache, data: bytes, step: int = 300) -> bool:
    digest = hashlib.sha256(data).digest()
    uploads = Uploads(kept)
    whole = False
    for at in range(0, max(1, len(data)), step):
        whole = uploads.put(digest, at, len(data), data[at : at + step])
    return whole


def test_a_blob_is_kept_by_its_digest_and_found_again(tmp_path: Path) -> None:
    digest, data = blob(1)
    assert put(cache(tmp_path), data)

    again = cache(tmp_path)

    assert again.missing([digest]) == ()
    assert again.read(digest) == data
    assert again.used == len(data)


def test_an_empty_blob_is_a_blob(tmp_path: Path) -> None:
    assert put(cache(tmp_path), b"")


def test_an_upload_that_broke_off_continues_where_it_ended(tmp_path: Path) -> None:
    digest, data = blob(1)
    kept = cache(tmp_path)
    uploads = Uploads(kept)
    uploads.put(digest, 0, len(data), data[:700])
    uploads.close()
    restarted = cache(tmp_path)

    for one in (kept, restarted):
        assert one.missing([digest]) == ((digest, 700),)
    assert Uploads(restarted).put(digest, 700, len(data), data[700:])
    assert restarted.read(digest) == data


def test_a_spoilt_beginning_is_found_when_the_rest_is_there(tmp_path: Path) -> None:
    digest, data = blob(1)
    uploads = Uploads(cache(tmp_path))
    uploads.put(digest, 0, len(data), data[:700])
    uploads.close()
    (tmp_path / "partial" / digest.hex()).write_bytes(bytes(700))
    kept = cache(tmp_path)

    with pytest.raises(BlobError, match="is something else"):
        Uploads(kept).put(digest, 700, len(data), data[700:])

    assert kept.missing([digest]) == ((digest, 0),)
    assert put(kept, data)


@pytest.mark.parametrize(
    ("offset", "total", "size"), [(1, 1000, 10), (0, 1000, 1001), (0, 999, 10), (500, 1000, 10)]
)
def test_a_piece_that_does_not_fit_is_refused(
    tmp_path: Path, offset: int, total: int, size: int
) -> None:
    digest, data = blob(1)
    kept = cache(tmp_path)
    uploads = Uploads(kept)
    uploads.put(digest, 0, 1000, data[:100])

    with pytest.raises(BlobError) as refused:
        uploads.put(digest, offset + 100 if offset == 500 else offset, total, bytes(size))

    assert refused.value.code == "bad-upload"
    assert kept.used == 0
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_wrong_digest_is_refused_and_forgotten(tmp_path: Path) -> None:
    digest, data = blob(1)
    kept = cache(tmp_path)

    with pytest.raises(BlobError) as refused:
        Uploads(kept).put(digest, 0, len(data), bytes(len(data)))

    assert refused.value.code == "bad-digest"
    assert not kept.has(digest)


def test_a_blob_over_the_limit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(BlobError) as refused:
        Uploads(cache(tmp_path)).put(bytes(32), 0, 5001, b"x")

    assert refused.value.code == "too-large"
    assert list((tmp_path / "partial").iterdir()) == []


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    blobs = [blob(seed, 4000) for seed in range(3)]
    put(kept, blobs[0][1])
    put(kept, blobs[1][1])
    assert kept.has(blobs[0][0])

    put(kept, blobs[2][1])

    assert [kept.has(digest) for digest, _ in blobs] == [True, False, True]
    assert kept.used == 8000
    assert len(list((tmp_path / "blobs").glob("??/*"))) == 2


def test_a_quota_full_of_what_is_used_refuses_the_next(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    blobs = [blob(seed, 4000) for seed in range(3)]
    for digest, data in blobs[:2]:
        put(kept, data)
        kept.pin(digest)

    with pytest.raises(BlobError) as refused:
        put(kept, blobs[2][1])
    assert refused.value.code == "quota"

    kept.unpin(blobs[0][0])
    assert put(kept, blobs[2][1])


def test_announced_bytes_count_against_the_quota(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    uploads = Uploads(kept)
    for seed in range(2):
        digest, data = blob(seed, 5000)
        uploads.put(digest, 0, 5000, data[:1])

    with pytest.raises(BlobError) as refused:
        uploads.put(blob(2)[0], 0, 1000, b"")
    assert refused.value.code == "quota"
    uploads.close()


def test_an_altered_blob_is_not_used(tmp_path: Path) -> None:
    digest, data = blob(1)
    kept = cache(tmp_path)
    put(kept, data)
    (path,) = (tmp_path / "blobs").glob("??/*")
    path.write_bytes(bytes(len(data)))

    with pytest.raises(BlobError, match="was altered on disk"):
        kept.read(digest)
    assert not kept.has(digest)


def test_two_uploads_of_one_blob_do_not_disturb_each_other(tmp_path: Path) -> None:
    digest, data = blob(1)
    kept = cache(tmp_path)
    one, other = Uploads(kept), Uploads(kept)
    one.put(digest, 0, 1000, data[:500])
    other.put(digest, 0, 1000, data[:900])

    assert one.put(digest, 500, 1000, data[500:])
    assert other.put(digest, 900, 1000, data[900:])
    other.close()
    assert kept.read(digest) == data
    assert list((tmp_path / "partial").iterdir()) == []


def test_names_come_from_digests_only(tmp_path: Path) -> None:
    digest, data = blob(1)
    kept = cache(tmp_path)
    put(kept, data)

    (path,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert path == tmp_path / "blobs" / digest.hex()[:2] / digest.hex()


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    digest, data = blob(1)
    kept = cache(tmp_path)
    upload = kept.begin(digest, len(data))
    upload.file.close()
    upload.file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115  # closed by the cache

    with pytest.raises(BlobError) as refused:
        kept.write(upload, 0, len(data), data)
    assert refused.value.code == "disk-full"
    assert kept.used == 0


def test_a_large_blob_is_read_beside_the_loop_and_a_small_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    verified = blobs._verified

    def seen(path: Path, digest: bytes) -> bytes:
        threads.append(threading.current_thread() is threading.main_thread())
        return verified(path, digest)

    monkeypatch.setattr(blobs, "_verified", seen)
    kept = cache(tmp_path, 20 * MIB, 10 * MIB)
    for seed, nbytes in ((1, 1000), (2, 4 * MIB + 1)):
        digest, data = blob(seed, nbytes)
        assert put(kept, data, MIB)
        assert asyncio.run(kept.fetch(digest)) == data

    assert threads == [True, False]


@pytest.mark.parametrize("nbytes", [1000, 4 * MIB + 1])
def test_a_fetched_blob_that_was_altered_is_forgotten(tmp_path: Path, nbytes: int) -> None:
    kept = cache(tmp_path, 20 * MIB, 10 * MIB)
    digest, data = blob(1, nbytes)
    put(kept, data, MIB)
    kept._path(digest).write_bytes(data[:-1])

    with pytest.raises(BlobError, match="was altered on disk"):
        asyncio.run(kept.fetch(digest))

    assert kept.missing([digest]) == ((digest, 0),)

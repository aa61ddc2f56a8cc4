"""Uploads, kept by their SHA-256: verified, within a quota, the least recently used go first.

A disk that is full before the quota is reached is a smaller quota: the same blobs go.

A file's name is its digest in hexadecimal and nothing that was sent: no path comes from the wire.
An incomplete upload lies in `partial/` and becomes a blob by a rename, once its digest is verified;
an upload that broke off is continued where it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from loopwright.errors import FleetError
from loopwright.fleet.words import ErrorCode

DIGEST_BYTES = 32
_COPY_BYTES = 1 << 20
_LARGE_BYTES = 4 << 20  # a hundredth of a second to read and verify
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL = _NO_SPACE | {errno.EFBIG}
_T = TypeVar("_T")


class BlobError(FleetError):
    """An upload that is refused; `code` is for an Error message."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, eq=False)
class Upload:
    """A blob on its way in, written by one session."""

    digest: bytes
    total: int
    path: Path
    file: BinaryIO
    hash: hashlib._Hash
    size: int = 0


@dataclass(slots=True)
class Uploads:
    """The uploads of one session; `close` keeps the pieces of incomplete ones."""

    cache: BlobCache
    open: dict[bytes, Upload] = field(default_factory=dict)

    def put(self, digest: bytes, offset: int, total: int, data: bytes) -> bool:
        """Take a piece; True when the blob is whole and verified.

        Raises: BlobError.
        """
        if self.cache.has(digest):
            return True
        upload = self.open.get(digest)
        if upload is None:
            upload = self.open[digest] = self.cache.begin(digest, total)
        try:
            self.cache.write(upload, offset, total, data)
            if upload.size < total:
                return False
            self.cache.finish(upload)
        except BlobError:
            del self.open[digest]
            raise
        del self.open[digest]
        return True

    def close(self) -> None:
        """The session ends."""
        for upload in self.open.values():
            self.cache.leave(upload)
        self.open.clear()


class BlobCache:
    """The blobs in `folder`, at most `quota` bytes, none over `largest`."""

    def __init__(self, folder: Path, quota: int, largest: int) -> None:
        self.quota = quota
        self.largest = largest
        self._blobs = folder / "blobs"
        self._partial = folder / "partial"
        self._sizes: OrderedDict[bytes, int] = OrderedDict()  # least recently used first
        self._left: dict[bytes, int] = {}  # uploads that broke off -> bytes that are there
        self._active: dict[bytes, Upload] = {}
        self._pins: dict[bytes, int] = {}
        self._load()

    @property
    def used(self) -> int:
        """Bytes taken or promised."""
        active = sum(upload.total for upload in self._active.values())
        return sum(self._sizes.values()) + sum(self._left.values()) + active

    def has(self, digest: bytes) -> bool:
        """Whether the blob is there; asking counts as using."""
        if digest not in self._sizes:
            return False
        self._sizes.move_to_end(digest)
        return True

    def size(self, digest: bytes) -> int | None:
        """Its bytes, None if it is not there; asking does not count as using."""
        return self._sizes.get(digest)

    def missing(self, digests: Iterable[bytes]) -> tuple[tuple[bytes, int], ...]:
        """Those that are missing, each with how many of its bytes are there."""
        return tuple(
            (digest, self._left.get(digest, 0)) for digest in digests if not self.has(digest)
        )

    def read(self, digest: bytes) -> bytes:
        """The content of a blob, verified.

        Raises: BlobError if it is not there, or no longer what it was.
        """
        if digest not in self._sizes:
            raise BlobError(ErrorCode.NO_BLOB, f"blob {digest.hex()[:12]} was not uploaded")
        try:
            data = _verified(self._path(digest), digest)
        except BlobError:
            self._forget(digest)
            raise
        self.has(digest)
        return data

    async def fetch(self, digest: bytes) -> bytes:
        """The same, but a large blob is read by a thread while the loop goes on.

        Raises: BlobError.
        """
        if (self.size(digest) or 0) <= _LARGE_BYTES:
            return self.read(digest)
        try:
            data = await asyncio.to_thread(_verified, self._path(digest), digest)
        except BlobError:
            self._forget(digest)
            raise
        self.has(digest)
        return data

    def pin(self, digest: bytes) -> None:
        """Keep a blob until it is unpinned as many times."""
        self._pins[digest] = self._pins.get(digest, 0) + 1

    def unpin(self, digest: bytes) -> None:
        """Undo one `pin`."""
        left = self._pins.get(digest, 0) - 1
        if left > 0:
            self._pins[digest] = left
        else:
            self._pins.pop(digest, None)

    # --- uploads ---

    def begin(self, digest: bytes, total: int) -> Upload:
        """An upload of `total` bytes, continued where an earlier one broke off.

        Raises: BlobError when there is no room for it, before anything is written.
        """
        if total > self.largest:
            raise BlobError(
                ErrorCode.TOO_LARGE, f"a blob of {total} bytes, the limit is {self.largest}"
            )
        continues = digest in self._left and digest not in self._active
        kept = self._left.pop(digest) if continues else 0
        self._make_room(total)
        name = (
            digest.hex() if digest not in self._active else f"{digest.hex()}-{os.urandom(8).hex()}"
        )
        path = self._partial / name
        try:
            file = self._with_room(lambda: path.open("r+b" if continues else "w+b", buffering=0))
            upload = Upload(digest, total, path, file, hashlib.sha256(), 0)
            while kept and (piece := file.read(_COPY_BYTES)):
                upload.hash.update(piece)
                upload.size += len(piece)
        except OSError as error:
            raise _refused(error) from error
        self._active.setdefault(digest, upload)
        return upload

    def write(self, upload: Upload, offset: int, total: int, data: bytes) -> None:
        """Append a piece, which must begin where the one before ended.

        Raises: BlobError; the upload is then over.
        """
        if total != upload.total or offset != upload.size or upload.size + len(data) > total:
            where = f"{len(data)} bytes at {offset} of {total}"
            expected = f"expected {upload.size} of {upload.total}"
            self._drop(upload)
            raise BlobError(ErrorCode.BAD_UPLOAD, f"a piece of {where}, {expected}")
        try:
            with memoryview(data) as left:
                at = 0
                while at < len(left):
                    at += self._with_room(functools.partial(upload.file.write, left[at:]))
        except OSError as error:
            self._drop(upload)
            raise _refused(error) from error
        upload.hash.update(data)
        upload.size += len(data)

    def finish(self, upload: Upload) -> None:
        """Make a whole upload a blob.

        Raises: BlobError if its content is not what its digest says.
        """
        if upload.hash.digest() != upload.digest:
            self._drop(upload)
            raise BlobError(
                ErrorCode.BAD_DIGEST,
                f"what was uploaded as {upload.digest.hex()[:12]} is something else",
            )
        path = self._path(upload.digest)
        try:
            upload.file.close()
            self._with_room(functools.partial(path.parent.mkdir, exist_ok=True))
            self._with_room(functools.partial(upload.path.replace, path))
        except OSError as error:
            self._drop(upload)
            raise _refused(error) from error
        self._retire(upload)
        self._sizes[upload.digest] = upload.total

    def leave(self, upload: Upload) -> None:
        """Break off an upload; what is there is kept for another try."""
        if self._active.get(upload.digest) is not upload or not upload.size:
            self._drop(upload)
            return
        self._retire(upload)
        try:
            upload.file.close()
            self._left[upload.digest] = upload.size
        except OSError:
            upload.path.unlink(missing_ok=True)

    def _drop(self, upload: Upload) -> None:
        self._retire(upload)
        with contextlib.suppress(OSError):
            upload.file.close()
        with contextlib.suppress(OSError):
            upload.path.unlink()

    def _retire(self, upload: Upload) -> None:
        if self._active.get(upload.digest) is upload:
            del self._active[upload.digest]

    # --- room ---

    def _make_room(self, nbytes: int) -> None:
        """Evict until `nbytes` more fit.

        Raises: BlobError when they never do.
        """
        spare = self.quota - self.used
        for digest in (*self._left, *self._sizes):
            if spare >= nbytes:
                return
            if digest in self._pins:
                continue
            spare += self._forget(digest)
        if spare < nbytes:
            raise BlobError(
                ErrorCode.QUOTA,
                f"no room for {nbytes} bytes: {self.used} of {self.quota} are in use; "
                "upload less at a time",
            )

    def _with_room(self, act: Callable[[], _T]) -> _T:
        """What `act` returns; while the disk is full, blobs that nobody uses are evicted."""
        while True:
            try:
                return act()
            except OSError as error:
                if error.errno not in _NO_SPACE or not self._evict():
                    raise

    def _evict(self) -> bool:
        """Remove the least recently used blob; False when all of them are in use."""
        for digest in (*self._left, *self._sizes):
            if digest not in self._pins:
                self._forget(digest)
                return True
        return False

    def _forget(self, digest: bytes) -> int:
        """Remove a blob, or the part of one that is there; returns its bytes."""
        path = self._path(digest)
        if digest in self._left:
            size, path = self._left.pop(digest), self._partial / digest.hex()
        else:
            size = self._sizes.pop(digest, 0)
        with contextlib.suppress(OSError):
            path.unlink()
        return size

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._blobs / name[:2] / name

    def _load(self) -> None:
        """Index what earlier agents left behind."""
        for folder in (self._blobs, self._partial):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found: list[tuple[float, bytes, int]] = []
        for path in self._blobs.glob("??/*"):
            digest = _digest(path.name)
            if digest is not None:
                status = path.stat()
                found.append((status.st_mtime, digest, status.st_size))
        self._sizes.update((digest, size) for _, digest, size in sorted(found))
        for path in self._partial.iterdir():
            digest = _digest(path.name)
            size = path.stat().st_size
            if digest is None or not size:
                path.unlink(missing_ok=True)
            else:
                self._left[digest] = size


def _verified(path: Path, digest: bytes) -> bytes:
    """The content of a file, which must have this digest.

    Raises: BlobError.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BlobError(
            ErrorCode.NO_BLOB, f"blob {digest.hex()[:12]} is gone: {error.strerror}"
        ) from error
    if hashlib.sha256(data).digest() != digest:
        raise BlobError(ErrorCode.NO_BLOB, f"blob {digest.hex()[:12]} was altered on disk")
    return data


def _digest(name: str) -> bytes | None:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if len(digest) == DIGEST_BYTES else None


def _refused(error: OSError) -> BlobError:
    if error.errno in _FULL:
        return BlobError(ErrorCode.DISK_FULL, "the disk of the device is full; try again later")
    return BlobError(ErrorCode.DISK, f"the device cannot keep uploads: {error.strerror}")

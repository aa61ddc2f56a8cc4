"""Uploads kept in memory, for a fleet within one process: no disk is waited for or filled."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import final

from loopwright.fleet.agent.blobs import BlobCache, BlobError, Upload
from loopwright.fleet.words import ErrorCode


@final
class MemoryBlobs(BlobCache):
    """At most `quota` bytes of blobs; the least recently used go first. Broken uploads are lost."""

    def __init__(self, quota: int) -> None:
        self._data: dict[bytes, bytes] = {}
        super().__init__(Path(), quota, quota)

    def read(self, digest: bytes) -> bytes:
        """The content of a blob.

        Raises: BlobError if it is not there.
        """
        if not self.has(digest):
            raise BlobError(ErrorCode.NO_BLOB, f"blob {digest.hex()[:12]} was not uploaded")
        return self._data[digest]

    async def fetch(self, digest: bytes) -> bytes:
        """The same: there is nothing to wait for.

        Raises: BlobError if it is not there.
        """
        return self.read(digest)

    def begin(self, digest: bytes, total: int) -> Upload:
        """An upload of `total` bytes.

        Raises: BlobError when there is no room for it.
        """
        if total > self.largest:
            raise BlobError(
                ErrorCode.TOO_LARGE, f"a blob of {total} bytes, the limit is {self.largest}"
            )
        self._make_room(total)
        upload = Upload(digest, total, Path(), io.BytesIO(), hashlib.sha256(), 0)
        self._active.setdefault(digest, upload)
        return upload

    def finish(self, upload: Upload) -> None:
        """Make a whole upload a blob.

        Raises: BlobError if its content is not what its digest says.
        """
        self._retire(upload)
        upload.file.seek(0)
        data = upload.file.read()
        if upload.hash.digest() != upload.digest:
            raise BlobError(
                ErrorCode.BAD_DIGEST,
                f"what was uploaded as {upload.digest.hex()[:12]} is something else",
            )
        self._data[upload.digest] = data
        self._sizes[upload.digest] = upload.total

    def leave(self, upload: Upload) -> None:
        """Break off an upload; nothing of it is kept."""
        self._retire(upload)

    def _drop(self, upload: Upload) -> None:
        self._retire(upload)

    def _forget(self, digest: bytes) -> int:
        self._data.pop(digest, None)
        return self._sizes.pop(digest, 0)

    def _load(self) -> None:
        """There is nothing from before."""

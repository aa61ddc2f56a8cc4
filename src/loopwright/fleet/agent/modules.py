"""What clients may exchange of a device, each named by its kind and the SHA-256 of its content.

The kind `runtime` is the native runtime: what calls candidates, runs their threads and reports
their faults. A host without a compiler has none of its own, so that clients bring it; it is linked
by the measuring process of a session and runs in the processes of candidates, confined as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.agent.blobs import BlobCache
from loopwright.fleet.words import NO_RUNTIME, RUNTIME

_MAX_RUNTIME_BYTES = 1 << 20
_MAX_KINDS = 6  # those of many devices fit into a message


class Modules:
    """The modules of one device. `own` is the runtime that the host has by itself, empty without.

    With `locked` the runtime stays as it is: its device runs only what is signed.
    """

    def __init__(self, blobs: BlobCache, own: bytes, *, locked: bool) -> None:
        self.own = hashlib.sha256(own).hexdigest() if own else ""
        self._own_code = own
        self._blobs = blobs
        self._locked = locked
        self._digests: dict[str, str] = {}

    @property
    def runtime(self) -> str:
        """The digest of the runtime in place, empty without one."""
        return self._digests.get(RUNTIME, self.own)

    @property
    def hopeless(self) -> bool:
        """Whether there is no runtime, and none may be brought."""
        return self._locked and not self.own

    def in_place(self) -> dict[str, str]:
        """The digests of what is in place."""
        runtime = {RUNTIME: self.runtime} if self.runtime else {}
        return {**self._digests, **runtime}

    def shown(self) -> dict[str, str]:
        """What is in place, for clients; the runtime is left out where it is not theirs to set."""
        if self._locked:
            return dict(self._digests)
        return {**self._digests, RUNTIME: self.runtime or NO_RUNTIME}

    def runtime_code(self) -> bytes:
        """The object code of the runtime in place.

        Raises: BlobError when there is none.
        """
        if self.runtime == self.own:
            return self._own_code
        return self._blobs.read(bytes.fromhex(self.runtime))

    def configure(self, modules: Mapping[str, str]) -> tuple[str, ...]:
        """Put modules in place; the kinds that changed.

        Raises: FleetError for one that was not uploaded; AuthError for a runtime that is locked.
        """
        now = {**self._digests, RUNTIME: self.runtime}
        changed = {k: v for k, v in modules.items() if now.get(k) != v}
        if len({*now, *changed}) > _MAX_KINDS:
            raise FleetError(f"a device has at most {_MAX_KINDS} kinds of modules")
        for kind, digest in changed.items():
            self._check(kind, digest)
        if RUNTIME in changed:
            self._pin(changed[RUNTIME])
        self._digests.update(changed)
        return tuple(sorted(changed))

    def _check(self, kind: str, digest: str) -> None:
        if kind == RUNTIME and self._locked:
            raise AuthError("only signed code runs here: no other native runtime is taken")
        if kind == RUNTIME and digest == self.own:
            return
        if not _is_digest(digest) or not self._blobs.has(bytes.fromhex(digest)):
            raise FleetError(f"module {kind}: upload blob {digest[:12]} first")
        if kind == RUNTIME and len(self._blobs.read(bytes.fromhex(digest))) > _MAX_RUNTIME_BYTES:
            raise FleetError(f"a native runtime has at most {_MAX_RUNTIME_BYTES} bytes")

    def _pin(self, digest: str) -> None:
        """Keep the runtime's blob as long as it is in place."""
        before = self._digests.get(RUNTIME, self.own)
        if digest != self.own:
            self._blobs.pin(bytes.fromhex(digest))
        if before != self.own:
            self._blobs.unpin(bytes.fromhex(before))


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)

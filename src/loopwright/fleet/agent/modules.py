"""What clients may replace on a device, each named by its kind and the SHA-256 of its content.

The kind `runtime` is the native runtime: what calls candidates, runs their threads and reports
their faults. A host without a compiler has none of its own, so that clients bring it; it is linked
by the measuring process of a session and runs in the processes of candidates, confined as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.agent.blobs import BlobCache, BlobError
from loopwright.fleet.words import NO_RUNTIME, RUNTIME

_MAX_RUNTIME_BYTES = 1 << 20
_MAX_KINDS = 6  # those of many devices fit into a message


class Modules:
    """The modules of one device. `own` is the runtime that the host has by itself, empty without.

    With `locked` the runtime stays as it is: its device runs only what is signed. A device that is
    not `native` has no use for one. What a session
    has put in place stays there for the next ones, as long as there is room for its blob and for
    its kind; what this session has put in place, and the runtime, are kept in any case.
    """

    def __init__(self, blobs: BlobCache, own: bytes, *, locked: bool, native: bool = True) -> None:
        self.own = hashlib.sha256(own).hexdigest() if own else ""
        self._own_code = own
        self._blobs = blobs
        self._locked = locked
        self._native = native
        self._digests: dict[str, str] = {}  # least recently configured first
        self._ours: set[str] = set()  # kinds that this session has configured
        self._pinned: frozenset[str] = frozenset()

    @property
    def runtime(self) -> str:
        """The digest of the runtime in place, empty without one."""
        return self._digests.get(RUNTIME, self.own)

    @property
    def unusable(self) -> bool:
        """Whether there is no runtime, and none may be brought."""
        return self._native and self._locked and not self.own

    @property
    def foreign(self) -> bool:
        """Whether the runtime in place is one that a client brought."""
        return self._native and self.runtime != self.own

    def in_place(self) -> dict[str, str]:
        """The digests of what is in place."""
        return {**self.at_begin(), **self._there()}

    def configured(self) -> dict[str, str]:
        """The digests of what sessions should have, whether or not it is still available."""
        return {**self.at_begin(), **self._digests}

    def at_begin(self) -> dict[str, str]:
        """Those of them that each session begins with."""
        return {RUNTIME: self.own} if self.own else {}

    def shown(self) -> dict[str, str]:
        """What is in place, for clients; the runtime is left out where it is not theirs to set."""
        if self._locked or not self._native:
            return self._there()
        return {RUNTIME: self.own or NO_RUNTIME, **self._there()}

    def code(self, kind: str) -> bytes:
        """What the module of a kind that is in place consists of.

        Raises: BlobError when it cannot be had, or is no longer what it was.
        """
        if kind == RUNTIME and not self.foreign:
            return self._own_code
        try:
            return self._blobs.read(bytes.fromhex(self._digests[kind]))
        except BlobError as error:
            raise BlobError(error.code, f"the module {kind} in place: {error}") from error

    def begin_session(self) -> None:
        """Another session begins: what has lost its blob is no longer in place."""
        self._ours.clear()
        self._digests = self._there()
        self._pin()

    def configure(self, modules: Mapping[str, str]) -> tuple[str, ...]:
        """Put modules in place; returns the kinds that changed.

        Kinds that were configured longest ago make room, but none of this session's.

        Raises: FleetError for one that was not uploaded, or for too many; AuthError for a runtime
            that is locked.
        """
        now = {RUNTIME: self.own, **self._there()}
        changed = {kind: digest for kind, digest in modules.items() if now.get(kind) != digest}
        ours = self._ours | set(modules)
        if len(ours | {RUNTIME}) > _MAX_KINDS:
            raise FleetError(f"a device has at most {_MAX_KINDS} kinds of modules")
        for kind, digest in changed.items():
            self._check(kind, digest)
        self._ours = ours
        self._place(modules)
        return tuple(sorted(changed))

    def _place(self, modules: Mapping[str, str]) -> None:
        """Put modules in place as the latest, and let the oldest go."""
        kept = {kind: digest for kind, digest in self._digests.items() if kind not in modules}
        spare = _MAX_KINDS - len(self._ours | {RUNTIME})
        others = [kind for kind in kept if kind not in self._ours and kind != RUNTIME]
        for kind in others[: max(0, len(others) - spare)]:
            del kept[kind]
        self._digests = {**kept, **modules}
        if self._digests.get(RUNTIME) == self.own:
            del self._digests[RUNTIME]
        for digest in self._there().values():
            self._blobs.has(bytes.fromhex(digest))  # which counts as using it
        self._pin()

    def _there(self) -> dict[str, str]:
        """What is in place and available: the blob of a kind that nobody uses may be evicted."""
        return {kind: digest for kind, digest in self._digests.items() if self._has(digest)}

    def _has(self, digest: str) -> bool:
        return self._blobs.size(bytes.fromhex(digest)) is not None

    def _check(self, kind: str, digest: str) -> None:
        if kind == RUNTIME and self._locked:
            raise AuthError("only signed code runs here: no other native runtime is taken")
        if kind == RUNTIME and digest == self.own:
            return
        nbytes = self._blobs.size(bytes.fromhex(digest)) if _is_digest(digest) else None
        if nbytes is None:
            raise FleetError(f"module {kind}: upload blob {digest[:12]} first")
        if kind == RUNTIME and nbytes > _MAX_RUNTIME_BYTES:
            raise FleetError(f"a native runtime has at most {_MAX_RUNTIME_BYTES} bytes")

    def _pin(self) -> None:
        """Keep the blobs of this session's modules and of the runtime, and no others."""
        kinds = {*self._ours, RUNTIME}
        wanted = frozenset(d for k, d in self._digests.items() if k in kinds)
        for digest in wanted - self._pinned:
            self._blobs.pin(bytes.fromhex(digest))
        for digest in self._pinned - wanted:
            self._blobs.unpin(bytes.fromhex(digest))
        self._pinned = wanted


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)

"""Tuned models as files: kernels as object code, packed weights and a manifest in one file.

Layout: 8 bytes of magic; format number and manifest length (little-endian u32, u64); SHA-256 of the
manifest; the manifest as JSON; then sections, each at a multiple of 4096 bytes. The manifest has
the place of each section and the SHA-256 of every piece of it, so that a truncated or altered file
is refused. Weights are mapped, not read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import struct
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import msgspec

from loopwright.errors import ModelError
from loopwright.kernel_call import CPU, Form

MAGIC = b"LWMODEL\0"
FORMAT = 1
"""Files of a later format are refused; raise it whenever the meaning of the manifest changes."""

_HEAD = struct.Struct("<8sIQ32s")
_ALIGNMENT = 4096
_PIECE = 4 << 20
Bytes: TypeAlias = bytes | memoryview


class Port(msgspec.Struct, frozen=True):
    """An input or output of the model, plain."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Section(msgspec.Struct, frozen=True):
    """A section of the file. `digests` are the SHA-256 of each 4 MiB of it."""

    name: str
    offset: int
    nbytes: int
    digests: tuple[str, ...]


class CallInfo(msgspec.Struct, frozen=True):
    """One kernel call, as reports and profiles show it.

    `origin` is tuned, default, transferred or copy; `device` the machine of its record, and
    `expected_ns` the time in it. `error` is its largest difference from float64, as a share of its
    output's scale, if measured.
    """

    name: str
    nodes: tuple[str, ...]
    operator: str
    task: str
    template: str
    config: str
    origin: str
    flops: int
    nbytes: int
    section: str
    expected_ns: float | None = None
    device: str = ""
    error: float | None = None


class Manifest(msgspec.Struct, frozen=True):
    """How a model file describes itself; sizes are in bytes unless stated otherwise.

    `memory_sum` is what values between kernels would take without sharing memory. `kind` is the
    kind of device that it runs on, `form` the form of its kernels' code, `requires` the features
    that they use; older files have none of these and get the defaults.
    """

    name: str
    software: str
    target: str
    target_name: str
    device: str
    threads: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    calls: tuple[CallInfo, ...]
    memory: int
    memory_sum: int
    workspace_shared: int
    workspace_per_thread: int
    notes: dict[str, str]
    sections: tuple[Section, ...] = ()
    kind: str = CPU
    form: str = Form.OBJECT.value
    requires: tuple[str, ...] = ()

    @property
    def origins(self) -> Counter[str]:
        """How many kernels are tuned, transferred, default or copies."""
        return Counter(call.origin for call in self.calls)

    @property
    def elsewhere(self) -> Counter[str]:
        """The other machines whose records were used, and for how many kernels each."""
        return Counter(c.device for c in self.calls if c.device not in ("", self.device))

    @property
    def worst(self) -> CallInfo | None:
        """The least exact kernel; None if no error was measured."""
        return max((c for c in self.calls if c.error is not None), key=_error_of, default=None)


def _error_of(call: CallInfo) -> float:
    return call.error or 0.0


def write(path: Path, manifest: Manifest, contents: Sequence[tuple[str, Bytes]]) -> None:
    """Write the file whole or not at all. Raises: ModelError when it cannot be written."""
    sections = []
    at = 0
    for name, data in contents:
        sections.append(Section(name, at, len(data), _digests(data)))
        at += -(-len(data) // _ALIGNMENT) * _ALIGNMENT
    body = msgspec.json.encode(msgspec.structs.replace(manifest, sections=tuple(sections)))
    head = _HEAD.pack(MAGIC, FORMAT, len(body), hashlib.sha256(body).digest())
    start = _start(len(body))
    temporary = path.parent / f".{path.name}-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            file.write(head + body)
            for section, (_, data) in zip(sections, contents, strict=True):
                file.seek(start + section.offset)
                file.write(data)
            file.truncate(start + at)
        temporary.replace(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[Manifest, dict[str, memoryview]]:
    """The manifest and the sections of a file, checked; the sections are mapped, read-only.

    Raises: ModelError for a file that is not there, not a tuned model, of a later format,
        truncated, or altered.
    """
    memory = _mapped(path)
    manifest, start = _manifest(path, memory)
    found = {}
    for section in manifest.sections:
        begin = start + section.offset
        found[section.name] = memory[begin : begin + section.nbytes]
    _check(path, manifest, found)
    return manifest, found


def read_manifest(path: Path) -> Manifest:
    """The manifest alone. Raises: as `read`, except for faults in sections."""
    return _manifest(path, _mapped(path))[0]


def is_model_file(path: Path) -> bool:
    """Whether the file starts with the magic of a tuned model."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _mapped(path: Path) -> memoryview:
    """The whole file, read-only."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _HEAD.size:
                raise ModelError(f"{path} is not a tuned model: it has {size} bytes")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def _manifest(path: Path, memory: memoryview) -> tuple[Manifest, int]:
    if bytes(memory[: len(MAGIC)]) != MAGIC:
        raise ModelError(f"{path} is not a tuned model; make one with loopwright optimize")
    _, number, length, digest = _HEAD.unpack(memory[: _HEAD.size])
    if number > FORMAT:
        raise ModelError(
            f"{path} has format {number}, this loopwright reads up to {FORMAT}; update loopwright"
        )
    if number < 1:
        raise ModelError(f"{path} was altered: there is no format {number}; make or copy it again")
    body = memory[_HEAD.size : _HEAD.size + length]
    if len(body) < length:
        raise ModelError(f"{path} is truncated: its manifest is not whole; make or copy it again")
    if hashlib.sha256(body).digest() != digest:
        raise ModelError(f"{path} was altered: its manifest does not match; make or copy it again")
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except msgspec.DecodeError as error:
        raise ModelError(f"{path}: its manifest cannot be read ({error}); make it again") from error
    start = _start(length)
    end = max((start + s.offset + s.nbytes for s in manifest.sections), default=0)
    if end > len(memory):
        raise ModelError(
            f"{path} is truncated: {len(memory)} bytes of {end}; make or copy it again"
        )
    return manifest, start


def _check(path: Path, manifest: Manifest, found: dict[str, memoryview]) -> None:
    """Raise ModelError for an altered section. Hashing releases the interpreter lock."""
    pieces = [
        (section.name, found[section.name][at * _PIECE : (at + 1) * _PIECE], wanted)
        for section in manifest.sections
        for at, wanted in enumerate(section.digests)
    ]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(_digest, (piece for _, piece, _ in pieces))
        for (name, _, wanted), digest in zip(pieces, digests, strict=True):
            if digest != wanted:
                raise ModelError(
                    f"{path} was altered: section {name} does not match; make or copy it again"
                )


def _digests(data: Bytes) -> tuple[str, ...]:
    view = memoryview(data)
    return tuple(_digest(view[at : at + _PIECE]) for at in range(0, len(view), _PIECE))


def _digest(piece: memoryview) -> str:
    return hashlib.sha256(piece).hexdigest()


def _start(length: int) -> int:
    """Where sections begin after a manifest of that many bytes."""
    return -(-(_HEAD.size + length) // _ALIGNMENT) * _ALIGNMENT

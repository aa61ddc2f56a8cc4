"""A kernel as it is sent: its code, its arguments, and how to run and time it.

`KernelCall` goes over the fleet's wire and into the measuring process. It is a msgpack array whose
elements never move; new ones go to the end with a default, so that the two sides of a connection
may be of different versions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from loopwright.errors import ConfigError
from loopwright.fields import (
    Count,
    Digest,
    Line,
    Microseconds,
    Milliseconds,
    Nanoseconds,
    Signature,
    Signed,
    Size,
    Small,
    Symbol,
    Word,
)

CPU = "cpu"
"""The kind of device that calls object code on its own processor."""


class Form(enum.Enum):
    """The form of a kernel's code."""

    OBJECT = "object"  # a relocatable object of the device's own processor
    SOURCE = "source"  # text, which the device compiles or interprets
    BINARY = "binary"  # machine code that the device's driver loads: cubin, hsaco
    STREAM = "stream"  # instructions that an accelerator fetches


class Clock(enum.Enum):
    """Which clock times the calls."""

    HOST = "host"  # the host's clock around them
    EVENTS = "events"  # time stamps that the device took
    CYCLES = "cycles"  # the device counts, the same each time: one call suffices


class Launch(msgspec.Struct, frozen=True, array_like=True):
    """Start the function `name` as blocks of threads; `shared_bytes` is memory of each block."""

    name: Symbol
    grid: tuple[Small, Small, Small]
    block: tuple[Small, Small, Small]
    shared_bytes: Size = 0


class WireParam(msgspec.Struct, frozen=True, array_like=True):
    """One argument of a kernel; `layout` is (dim, stride, extent) for each physical dimension.

    `transform` names what is done to the plain data before it is laid out.
    """

    name: Line
    dtype: Word
    shape: Annotated[tuple[Size, ...], Meta(max_length=32)]
    layout: Annotated[tuple[tuple[Signed, Signed, Signed], ...], Meta(max_length=64)]
    transform: Line = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """A kernel as a device loads it. The last `n_outputs` params are written.

    `workspace` is bytes that each call may use besides its arguments.
    """

    code: bytes
    form: Form
    entry: str
    params: tuple[WireParam, ...]
    n_outputs: int
    workspace: int = 0
    launches: tuple[Launch, ...] = ()


class KernelCall(msgspec.Struct, frozen=True, array_like=True):
    """Time one kernel, whose code has the SHA-256 `code`. Inputs are made from `seed`.

    With `want_output` its outputs are sent before its result, which has the same `id`.
    `kind` is the kind of device that it is for.
    """

    id: Count
    code: Digest
    entry: Symbol
    params: Annotated[tuple[WireParam, ...], Meta(max_length=256)]
    n_outputs: Small
    workspace: Size
    threads: Small
    seed: Count
    want_output: bool
    warmup: Small
    repeats: Small
    min_repeat_us: Microseconds
    run_timeout_ms: Milliseconds
    run_memory: Size
    abandon_ns: Nanoseconds | None = None
    signature: Signature = b""  # Ed25519 of the code's digest, where the device wants one
    kind: Word = CPU
    form: Word = Form.OBJECT.value
    launches: Annotated[tuple[Launch, ...], Meta(max_length=256)] = ()

    @property
    def run_timeout_s(self) -> float:
        """How long the whole run may take."""
        return self.run_timeout_ms / 1e3

    @property
    def min_repeat_ns(self) -> float:
        """The least duration of a batch of calls."""
        return self.min_repeat_us * 1e3

    def loadable(self, code: bytes) -> Loadable:
        """The kernel, given its code. Raises: ConfigError for a form that is not known."""
        return Loadable(
            code=code,
            form=parse_form(self.form),
            entry=self.entry,
            params=self.params,
            n_outputs=self.n_outputs,
            workspace=self.workspace,
            launches=self.launches,
        )


def parse_form(text: str) -> Form:
    """The form called `text`. Raises: ConfigError naming the known ones."""
    try:
        return Form(text)
    except ValueError as error:
        known = ", ".join(form.value for form in Form)
        raise ConfigError(
            f"code of form {text!r} is not one of {known}; update this side"
        ) from error

"""The protocol between a runner and its measuring process: msgpack frames over a socket pair.

A frame is four bytes of length (little endian) and one message. No pickle: the server decodes
nothing but these structs, and a frame over MAX_FRAME is refused before it is read.
"""

from __future__ import annotations

import socket
from typing import TypeVar

import msgspec

from loopwright.errors import EnvironmentFailure
from loopwright.kernel_call import KernelCall

MAX_FRAME = 256 << 20
_LENGTH_BYTES = 4

Message = TypeVar("Message")


class RunRequest(msgspec.Struct, frozen=True):
    """Make `call`, whose code is `code`, on `cores`.

    Requested outputs are left, one after the other, in the shared output file. A `runtime` is the
    object code of a native runtime to use from this request on. `of_runtime`: the code is a native
    runtime itself, whose canary is called, and may use what runtimes may.
    """

    call: KernelCall
    code: bytes
    cores: tuple[int, ...] = ()
    runtime: bytes = b""
    of_runtime: bool = False


class RunReply(msgspec.Struct, frozen=True):
    """The result of a `RunRequest`: times, or stage and kind of the failure as in `outcome`.

    `run_s` is the wall time the server spent on it, `timed_s` the time the child says its calls
    took; `clock` is a `kernel_call.Clock`. A `violation` is a crash because the candidate did
    something forbidden. `output` counts the bytes in the output file. `layers` are those that were
    in force (`layers.Layer`) when the first instruction of the code ran, None if none did.
    """

    ns: tuple[float, ...] = ()
    stage: str = ""
    kind: str = ""
    detail: str = ""
    run_s: float = 0.0
    timed_s: float = 0.0
    violation: bool = False
    output: int = 0
    clock: str = "host"
    layers: int | None = None


class ServerReady(msgspec.Struct, frozen=True):
    """The first message of a server: it is ready."""

    pid: int


def send(sock: socket.socket, message: msgspec.Struct) -> None:
    """Write `message` as one frame.

    Raises: OSError if the other side is gone; EnvironmentFailure if the message is too large.
    """
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME:
        raise EnvironmentFailure(
            f"a {type(message).__name__} of {len(body)} bytes does not fit a frame of {MAX_FRAME}"
        )
    sock.sendall(len(body).to_bytes(_LENGTH_BYTES, "little") + body)


def receive(sock: socket.socket, kind: type[Message]) -> Message:
    """The next message, which must be a `kind`; `sock`'s timeout holds for each read.

    Raises: EOFError if the other side is gone; EnvironmentFailure for a frame that is not a `kind`.
    """
    length = int.from_bytes(_exactly(sock, _LENGTH_BYTES), "little")
    if length > MAX_FRAME:
        raise EnvironmentFailure(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
    try:
        return msgspec.msgpack.decode(_exactly(sock, length), type=kind)
    except msgspec.MsgspecError as e:
        raise EnvironmentFailure(f"a frame that is not a valid {kind.__name__}: {e}") from e


def _exactly(sock: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    filled = 0
    while filled < count:
        got = sock.recv_into(view[filled:])
        if got == 0:
            raise EOFError("the other side closed the connection")
        filled += got
    return data

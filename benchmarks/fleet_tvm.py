"""apache-tvm's tracker and server under the loads and faults of `fleet.py`, as one JSON object.

    PYTHON benchmarks/fleet_tvm.py [--seconds 3]

PYTHON is one that has apache-tvm; ours need not be there. Everything is on loopback, each server in
a process of its own, and every wait has a limit: `blocked` says that it was reached.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAGIC = 0x2F271  # of the tracker's protocol
UPDATE_INFO, PUT, REQUEST = 5, 3, 4
LIMIT_S = 5.0
KEY = "bench"
UPLOAD_BYTES = 16 << 20
ABORTS = "#include <stdlib.h>\n__attribute__((constructor)) static void gone(void) { abort(); }\n"


class Raw:
    """One connection that speaks the tracker's protocol: length, then JSON."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), LIMIT_S)
        self.sock.sendall(struct.pack("<i", MAGIC))
        self._exactly(4)

    def ask(self, message: list[object]) -> object:
        """The answer to `message`, sent as the library does: length and text apart."""
        data = json.dumps(message).encode()
        self.sock.sendall(struct.pack("<i", len(data)))
        self.sock.sendall(data)
        return self.answer()

    def answer(self) -> object:
        """The next message."""
        (length,) = struct.unpack("<i", self._exactly(4))
        return json.loads(self._exactly(length))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise ConnectionError("the tracker closed the connection")
            data += piece
        return data


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A module of tvm as a process; it and what it started are gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def tracker() -> Iterator[int]:
    """A tracker; its port."""
    port = free_port()
    command = ("tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port))
    with running(*command, "--port-end", str(port + 1)):
        until(lambda: _listens(port))
        yield port


@contextlib.contextmanager
def fleet() -> Iterator[tuple[int, int, subprocess.Popen[bytes]]]:
    """A tracker with one server: ports of both, and the server's process."""
    with tracker() as port:
        own = free_port()
        where = ("--host", "127.0.0.1", "--port", str(own), "--port-end", str(own + 1))
        command = ("tvm.exec.rpc_server", *where, "--tracker", f"127.0.0.1:{port}", "--key", KEY)
        with running(*command) as server:
            until(lambda: free_devices(port) >= 1, 30.0)
            yield port, own, server


def until(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Wait until `holds`."""
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("it did not start")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        Raw(port).sock.close()
        return True
    return False


def connect(port: int) -> Any:  # noqa: ANN401  # the library's own, which has no types
    """The library's own client of a tracker."""
    from tvm import rpc

    return rpc.connect_tracker("127.0.0.1", port)


def free_devices(port: int) -> int:
    """How many devices the tracker calls free."""
    queue = connect(port).summary()["queue_info"].get(KEY, {"free": 0})
    return int(queue["free"])


def within(limit_s: float, call: Callable[[], object]) -> float | None:
    """Seconds that `call` took in a process of its own; None when it was blocked."""
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            call()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # the status says it
            os._exit(1)
    while time.monotonic() - begin < limit_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return time.monotonic() - begin if status == 0 else None
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def acquire_ms(seconds: float) -> dict[str, float]:
    """One device that offers itself and one client that asks for it, in turns."""
    took: list[float] = []
    with tracker() as port:
        device, client = Raw(port), Raw(port)
        device.ask([UPDATE_INFO, {"key": f"server:{KEY}", "addr": ["127.0.0.1", 1]}])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.perf_counter()
            device.ask([PUT, KEY, [1, f"{KEY}:0.{len(took)}"], "127.0.0.1"])
            client.ask([REQUEST, KEY, "", 1])
            took.append((time.perf_counter() - begin) * 1e3)
    took.sort()
    return {
        "p50_ms": statistics.median(took),
        "p99_ms": took[int(len(took) * 0.99)],
        "cycles_per_s": len(took) / seconds,
    }


def session(seconds: float) -> dict[str, float]:
    """Opening and closing sessions, and sending 16 MiB, one client."""
    opened: list[float] = []
    speeds: list[float] = []
    data = bytearray(os.urandom(UPLOAD_BYTES))
    with fleet() as (port, _, _):
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(opened) < 3:
            begin = time.perf_counter()
            remote = connect(port).request(KEY, session_timeout=60)
            opened.append((time.perf_counter() - begin) * 1e3)
            begin = time.perf_counter()
            remote.upload(data, target="blob")
            speeds.append(len(data) / 1e6 / (time.perf_counter() - begin))
            del remote
    return {"open_p50_ms": statistics.median(opened), "upload_mb_s": statistics.median(speeds)}


def silent_connection() -> dict[str, object]:
    """A client connects to the server and says nothing; another one asks for the device."""
    with fleet() as (port, own, _), socket.create_connection(("127.0.0.1", own)):
        time.sleep(0.2)
        took = within(LIMIT_S, lambda: connect(port).request(KEY, max_retry=1))
        return {"blocked": took is None, "took_s": took, "free": free_devices(port)}


def crashing_kernel() -> dict[str, object]:
    """A client uploads code that aborts when it is loaded; then another one asks."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {"skipped": "there is no C compiler"}
    with tempfile.TemporaryDirectory() as folder, fleet() as (port, _, server):
        source, library = Path(folder) / "gone.c", Path(folder) / "gone.so"
        source.write_text(ABORTS)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)

        def load() -> None:
            remote = connect(port).request(KEY, session_timeout=10)
            remote.upload(str(library))
            remote.load_module("gone.so")

        within(LIMIT_S, load)
        time.sleep(LIMIT_S)
        took = within(LIMIT_S, lambda: connect(port).request(KEY, max_retry=1))
        return {
            "lost": took is None,
            "free_after_5_s": free_devices(port),
            "process_alive": server.poll() is None,
        }


def frozen_server() -> dict[str, object]:
    """The server is stopped (SIGSTOP) for six seconds: what is it said to be?"""
    with fleet() as (port, _, server):
        os.killpg(server.pid, signal.SIGSTOP)
        time.sleep(6.0)
        free = free_devices(port)
        took = within(LIMIT_S, lambda: connect(port).request(KEY, max_retry=1))
        return {"free_after_6_s": free, "blocked": took is None}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="apache-tvm's fleet.")
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    import tvm

    found = {
        "version": tvm.__version__,
        "acquire": acquire_ms(seconds),
        "session": session(seconds),
        "silent_connection": silent_connection(),
        "crashing_kernel": crashing_kernel(),
        "frozen_server": frozen_server(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

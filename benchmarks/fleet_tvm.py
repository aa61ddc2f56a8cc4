"""apache-tvm's tracker and server under the loads and faults of `fleet.py`, as one JSON object.

    PYTHON benchmarks/fleet_tvm.py [--seconds 3]

PYTHON is one that has apache-tvm; ours need not be there. Everything is on loopback, each server in
a process of its own, and every wait has a limit: None in place of seconds says that it was reached.
Devices of the tracker's loads are connections that offer themselves, as its servers do.
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
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import until_we_end

MAGIC = 0x2F271  # of the tracker's protocol
UPDATE_INFO, PUT, REQUEST = 5, 3, 4
LIMIT_S = 5.0
KEY = "bench"
UPLOAD_BYTES = 16 << 20
ABORTS = "#include <stdlib.h>\n__attribute__((constructor)) static void gone(void) { abort(); }\n"


@dataclass(frozen=True)
class Tvm:
    """What was found; `fleet.py` reads it. None: blocked for LIMIT_S, or not done here."""

    version: str
    acquire_p50_ms: float  # 16 clients at once
    acquire_p99_ms: float
    cycles_per_s: float  # 128 clients at once
    devices: int
    devices_rss_mb: float
    summary_ms: float
    open_p50_ms: float
    upload_mb_s: float
    second_upload_bytes: int
    silent_open_ms: float | None  # beside one silent connection to the server
    silent_hello_ms: float | None  # beside 1,000 silent connections to the tracker
    restart_s: float | None
    lost_at_crash: bool | None  # None: there is no C compiler
    free_after_crash: int
    frozen_is_free: bool


class Raw:
    """One connection that speaks the tracker's protocol: length, then JSON."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), LIMIT_S)
        self.sock.sendall(struct.pack("<i", MAGIC))
        self._exactly(4)

    def ask(self, message: list[object]) -> object:
        """The answer to `message`."""
        self.say(message)
        return self.answer()

    def say(self, message: list[object]) -> None:
        """Send `message` as the library does: length and text apart."""
        data = json.dumps(message).encode()
        self.sock.sendall(struct.pack("<i", len(data)))
        self.sock.sendall(data)

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
        until_we_end(sys.executable, "-m", *arguments),
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


def load(clients: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds of each request of `clients` at once, sorted; and cycles a second of them all.

    A cycle is a device that offers itself and the client that asks for one.
    """
    took: list[float] = []
    with tracker() as port:
        pairs = [(Raw(port), Raw(port)) for _ in range(clients)]
        for device, _ in pairs:
            device.ask([UPDATE_INFO, {"key": f"server:{KEY}", "addr": ["127.0.0.1", 1]}])
        end = time.monotonic() + seconds

        def work(number: int, device: Raw, client: Raw) -> None:
            while time.monotonic() < end:
                device.ask([PUT, KEY, [1, f"{KEY}:0.{number}"], "127.0.0.1"])
                begin = time.perf_counter()
                client.ask([REQUEST, KEY, "", 1])
                took.append((time.perf_counter() - begin) * 1e3)

        threads = [
            threading.Thread(target=work, args=(number, *pair), daemon=True)
            for number, pair in enumerate(pairs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + LIMIT_S)
    return sorted(took), len(took) / seconds


def many_devices(connections: int = 50, each: int = 200) -> tuple[float, float]:
    """Megabytes of a tracker of that many devices, and milliseconds of its summary."""
    port, own = free_port(), []
    command = ("tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port))
    with running(*command, "--port-end", str(port + 1)):
        until(lambda: _listens(port))
        for number in range(connections):
            raw = Raw(port)
            own.append(raw)
            raw.ask([UPDATE_INFO, {"key": f"server:{KEY}", "addr": ["127.0.0.1", 1]}])
            for n in range(each):
                raw.say([PUT, KEY, [1, f"{KEY}:{number}.{n}"], "127.0.0.1"])
            for _ in range(each):
                raw.answer()
        client = connect(port)
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            client.summary()
            times.append((time.perf_counter() - begin) * 1e3)
        return _rss_mb(port), min(times)


def _rss_mb(port: int) -> float:
    """The memory of the largest process that was started for the tracker on `port`."""
    found = 0.0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"--port\0{port}\0" in (entry / "cmdline").read_text():
                pages = int((entry / "statm").read_text().split()[1])
                found = max(found, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    return found


def session(seconds: float) -> tuple[float, float, int]:
    """Opening a session: ms; sending 16 MiB: MB/s; and bytes sent when it is sent again."""
    opened: list[float] = []
    speeds: list[float] = []
    again = 0
    data = bytearray(os.urandom(UPLOAD_BYTES))
    with fleet() as (port, _, _):
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(opened) < 3:
            begin = time.perf_counter()
            remote = connect(port).request(KEY, session_timeout=60)
            opened.append((time.perf_counter() - begin) * 1e3)
            begin = time.perf_counter()
            remote.upload(data, target="blob")
            first_s = time.perf_counter() - begin
            speeds.append(len(data) / 1e6 / first_s)
            before = _sent_bytes()
            remote.upload(data, target="blob")
            again = _sent_bytes() - before
            del remote
    return statistics.median(opened), statistics.median(speeds), again


def _sent_bytes() -> int:
    """Bytes that went over loopback, as the kernel counts them."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[8])
    return 0


def silent_connection() -> float | None:
    """Milliseconds to open a session beside one client that connects and says nothing."""
    with fleet() as (port, own, _), socket.create_connection(("127.0.0.1", own)):
        time.sleep(0.2)
        took = within(LIMIT_S, lambda: connect(port).request(KEY, max_retry=1))
        return None if took is None else took * 1e3


def silent_tracker() -> float | None:
    """Milliseconds to come in at the tracker beside a thousand connections that say nothing."""
    with fleet() as (port, _, _), contextlib.ExitStack() as stack:
        for _ in range(1000):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))  # it may not be accepted any more
        took = within(LIMIT_S, lambda: connect(port))
        return None if took is None else took * 1e3


def crashing_kernel() -> tuple[bool | None, int]:
    """Whether the device is lost after a client uploads code that aborts when it is loaded, and
    how many devices the tracker calls free then.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None, 0
    with tempfile.TemporaryDirectory() as folder, fleet() as (port, _, _):
        source, library = Path(folder) / "gone.c", Path(folder) / "gone.so"
        source.write_text(ABORTS)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)

        def crash() -> None:
            remote = connect(port).request(KEY, session_timeout=10)
            remote.upload(str(library))
            remote.load_module("gone.so")

        within(LIMIT_S, crash)
        time.sleep(LIMIT_S)
        took = within(LIMIT_S, lambda: connect(port).request(KEY, max_retry=1))
        return took is None, free_devices(port)


def frozen_server() -> bool:
    """Whether a server that is stopped (SIGSTOP) for six seconds is still called free."""
    with fleet() as (port, _, server):
        os.killpg(server.pid, signal.SIGSTOP)
        time.sleep(6.0)
        return free_devices(port) > 0


def restarted_tracker(limit_s: float = 30.0) -> float | None:
    """Seconds from the start of a tracker, after `kill -9` of one, to its device being free."""
    port, own = free_port(), free_port()
    where = ("--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1))
    device = ("--host", "127.0.0.1", "--port", str(own), "--port-end", str(own + 1))
    serving = ("tvm.exec.rpc_server", *device, "--tracker", f"127.0.0.1:{port}", "--key", KEY)
    with contextlib.ExitStack() as servers:
        with running("tvm.exec.rpc_tracker", *where):
            until(lambda: _listens(port))
            servers.enter_context(running(*serving))
            until(lambda: free_devices(port) >= 1, 30.0)
        time.sleep(0.5)
        begin = time.monotonic()
        with running("tvm.exec.rpc_tracker", *where):
            until(lambda: _listens(port))
            try:
                until(lambda: free_devices(port) >= 1, limit_s)
            except TimeoutError:
                return None
            return time.monotonic() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="apache-tvm's fleet.")
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    import tvm

    times, _ = load(16, seconds)
    _, cycles = load(128, seconds)
    rss, summary = many_devices()
    opened, speed, again = session(seconds)
    lost, free = crashing_kernel()
    found = Tvm(
        tvm.__version__,
        statistics.median(times),
        times[int(len(times) * 0.99)],
        cycles,
        10_000,
        rss,
        summary,
        opened,
        speed,
        again,
        silent_connection(),
        silent_tracker(),
        restarted_tracker(),
        lost,
        free,
        frozen_server(),
    )
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()

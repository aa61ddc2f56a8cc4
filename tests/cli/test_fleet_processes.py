"""A fleet of real processes on loopback, used through the command line as people do."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loopwright.errors import AuthError, QueueTimeoutError
from loopwright.fleet.client.api import Priority, connect

if TYPE_CHECKING:
    from conftest import Run

LIMIT_S = 30.0
ANY = "tcp://127.0.0.1:0"


class Processes:
    """Command lines that run until the end of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "loopwright.cli.main", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        return process

    def tracker(self, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """A tracker that serves, and where."""
        process = self.start("tracker", "serve", "--listen", ANY, *arguments)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " listens on " in line, line + process.stderr.read()
        return process, line.split()[-1]

    def agent(self, url: str, name: str, *arguments: str) -> subprocess.Popen[str]:
        """An agent with one device; it has not joined yet when this returns."""
        return self.start(
            *("device", "serve", "--tracker", url, "--name", name, "--cache-dir", name),
            *("--device", "cpu0=0", "--drift", "0", *arguments),
        )

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and what it said on standard error."""
    _, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, errors


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask again until `condition` holds; each question takes a while by itself."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A tracker for several tests: its address, and the file with its admin token."""
    folder = tmp_path_factory.mktemp("tracker")
    made = Processes(folder)
    try:
        yield made.tracker("--token-file", "token")[1], folder / "token"
    finally:
        made.stop()


@pytest.fixture
def as_admin(run: Run, served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracker whose admin the command line is: its address."""
    monkeypatch.setenv("LOOPWRIGHT_TRACKER", served[0])
    monkeypatch.setenv("LOOPWRIGHT_TOKEN", f"@{served[1]}")
    assert run("tracker", "status").code == 0
    return served[0]


def states(run: Run) -> dict[str, str]:
    """Device -> whether it is free, and why not."""
    found = json.loads(run("device", "ls", "-o", "json").out)["devices"]
    return {view["name"]: "free" if view["grantable"] else view["kept"] for view in found}


def test_the_first_remote_board_takes_three_commands(
    run: Run, processes: Processes, as_admin: str, tmp_path: Path
) -> None:
    code = run("join", "issue").out.strip()
    agent = processes.agent(as_admin, "pi", "--join", code, "--label", "board=rpi4")
    wait_for(lambda: states(run).get("pi/cpu0") == "free")
    assert (tmp_path / "pi" / "agent.key").stat().st_mode & 0o777 == 0o600
    agent.send_signal(signal.SIGTERM)
    assert ended(agent)[0] == 0
    processes.agent(as_admin, "pi", "--label", "board=rpi5")  # its key is enough from now on
    wait_for(lambda: run("device", "ls", "board=rpi5").code == 0)


def test_agents_that_may_not_come_in_are_told_why(
    run: Run, processes: Processes, as_admin: str
) -> None:
    def join(name: str, code: str, folder: str = "") -> subprocess.Popen[str]:
        some = ("--join", code) if code else ()
        return processes.agent(as_admin, name, *some, "--cache-dir", folder or name)

    used = run("join", "issue").out.strip()
    first = join("one", used)
    wait_for(lambda: states(run).get("one/cpu0") == "free")
    fresh = run("join", "issue").out.strip()
    refused = {
        "an agent named one has joined already; choose another name": join("one", fresh, "other"),
        "was used; each is good for one agent": join("two", used),
        "the join code has a typo": join("three", fresh[:-1] + "0"),
        "a join code is needed here; give it with --join": join("four", ""),
    }
    for words, agent in refused.items():
        status, errors = ended(agent)
        assert (words, status) == (words, 6)
        assert words in errors
        assert len(errors.splitlines()) == 1
    assert first.poll() is None
    assert states(run)["one/cpu0"] == "free"


def test_a_tracker_and_an_agent_of_one_user_find_each_other(
    run: Run, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="lw-") as cache:  # a socket's path must be short
        monkeypatch.setenv("LOOPWRIGHT_CACHE_DIR", cache)
        tracker = processes.start("tracker", "serve")
        assert tracker.stderr is not None
        assert f"listens on unix://{cache}/tracker.sock" in tracker.stderr.readline()
        cores = ("--device", "cpu0=0", "--drift", "0")
        processes.start("device", "serve", "--name", "me", "--label", "board=here", *cores)
        wait_for(lambda: states(run) == {"me/cpu0": "free"})
        processes.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tracker", "nowhere"), "address 'nowhere' has no port"),
        (("--tracker", "tls://lab:7070"), "give the CA that its certificate is checked with"),
        (("--tracker", ANY, "--ca", "/no/ca.crt"), "/no/ca.crt is not the certificate"),
    ],
)
def test_what_cannot_be_served_to_is_told_before_anything_starts(
    processes: Processes, options: tuple[str, ...], words: str
) -> None:
    process = processes.start("device", "serve", "--cache-dir", "a", *options)
    said, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (2, "")
    assert words in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--listen", "tcp://0.0.0.0:0"), "refusing to listen on tcp://0.0.0.0:0"),
        (("--listen", "tls://127.0.0.1:0"), "make one with loopwright ca init"),
        (("--listen", ANY, "--client-ca", "ca.crt"), "give --tls-dir too"),
        (("--listen", ANY, "--http", "0.0.0.0:0"), "tokens would travel in the clear"),
        (("--listen", ANY, "--store", "sqlite:////no/such/f.db"), "there is no folder"),
        (("--listen", ANY, "--log", "/no/such/log"), "the log /no/such/log cannot be written"),
        (("--listen", ANY, "--config", "/no/such.toml"), "/no/such.toml cannot be read"),
        (("--listen", ANY, "--tenant", "ci:max_leases=-1"), "is not a number from 0"),
    ],
)
def test_a_tracker_that_cannot_be_served_so_is_exit_code_2(
    run: Run, options: tuple[str, ...], words: str
) -> None:
    result = run("tracker", "serve", *options)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1


def test_a_client_with_a_certificate_needs_no_token(
    run: Run, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    assert run("ca", "init", "ca", "--name", "127.0.0.1").code == 0
    assert run("ca", "issue", "ca", "ann", "--client").code == 0
    tls = ("--listen", "tls://127.0.0.1:0", "--tls-dir", "ca", "--client-ca", "ca/ca.crt")
    process, admin = processes.tracker(*tls, "--token-file", "token")
    assert process.stderr is not None
    url = process.stderr.readline().split()[-1]
    monkeypatch.setenv("LOOPWRIGHT_CA", "ca/ca.crt")
    assert "a token is needed here" in run("device", "ls", "--fleet", url).err
    monkeypatch.setenv("LOOPWRIGHT_CERT", "ca/ann.crt")
    assert "'ann', who has no valid token here" in run("device", "ls", "--fleet", url).err
    issue = ("token", "issue", "ann", "--role", "viewer", "--fleet", admin, "--token", "@token")
    assert run(*issue).code == 0
    assert run("device", "ls", "--fleet", url).code == 0
    refused = run("token", "ls", "--fleet", url)
    assert (refused.code, refused.err) == (
        6,
        "loopwright: token.ls needs the role admin, ann has viewer\n",
    )
    with connect(url) as fleet:
        assert fleet.devices() == ()
    for command in (("init", "other"), ("issue", "other", "ann", "--client")):
        assert run("ca", *command).code == 0
    monkeypatch.setenv("LOOPWRIGHT_CERT", "other/ann.crt")
    refused = run("device", "ls", "--fleet", url)
    assert refused.code == 69
    assert "takes other/ann.crt (--client-ca)" in refused.err


def test_a_tenant_holds_and_waits_for_no_more_than_its_quota(
    run: Run, processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fleet.toml").write_text("[tenants.ci]\nmax_leases = 1\nmax_queued = 1\n")
    options = ("--config", "fleet.toml", "--tenant", "ci:weight=2", "--token-file", "token")
    options += ("--tenant", "ci:max_ttl_s=60", "--role", "user:max_lease_s=7200")
    _, url = processes.tracker(*options)
    monkeypatch.setenv("LOOPWRIGHT_TRACKER", url)
    monkeypatch.setenv("LOOPWRIGHT_TOKEN", "@token")
    for name in ("pi", "po"):
        processes.agent(url, name, "--join", run("join", "issue").out.strip())
    wait_for(lambda: list(states(run).values()) == ["free", "free"])
    with connect(url, token=run("token", "issue", "ci").out.strip()) as fleet:
        with fleet.lease(), pytest.raises(QueueTimeoutError, match="ci holds 1 of the 1 it may"):
            fleet.lease(max_wait=0.2)
        with pytest.raises(AuthError, match="above 60 s, the most that tenant ci may ask for"):
            fleet.lease(ttl=61.0)
        with pytest.raises(AuthError, match="above normal, the most that role user may ask for"):
            fleet.lease(priority=Priority.URGENT)
        with fleet.lease() as lease:
            text = run("tracker", "status").out
            quota = "tenant ci  1 of 1 leases, 0 of 1 waiting, weight 2, ttl up to 1m00s"
            assert quota in text
            assert "limits     user: class up to normal, leases held up to 2h00m" in text
            assert "ends      in 2h00m at the latest" in run("lease", "show", lease.id).out
            told = json.loads(run("tracker", "status", "-o", "json").out)["tenants"]["ci"]
            assert told == {
                "leases": 1,
                "max_leases": 1,
                "queued": 0,
                "max_queued": 1,
                "weight": 2.0,
                "max_ttl_s": 60.0,
            }


@pytest.mark.parametrize("how", ["garbage", "text", "damaged"])
def test_a_corrupt_store_is_told_and_left_as_it_is(
    run: Run, processes: Processes, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "t.db"
    if how == "damaged":
        process, _ = processes.tracker("--store", "sqlite:///t.db", "--token-file", "token")
        wait_for((tmp_path / "token").exists)
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 0
        whole = path.read_bytes()
        path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    else:
        path.write_bytes(b"hello\n" if how == "text" else bytes(range(256)) * 32)
    before = path.read_bytes()
    result = run("tracker", "serve", "--listen", ANY, "--store", "sqlite:///t.db")
    assert result.code == 2
    assert "t.db" in result.err
    assert len(result.err.splitlines()) == 1
    assert path.read_bytes() == before


def test_a_full_disk_stops_grants_loses_nothing_and_passes(
    run: Run, processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = ("--store", "sqlite:///t.db", "--token-file", "token")
    process, url = processes.tracker(*store)
    monkeypatch.setenv("LOOPWRIGHT_TRACKER", url)
    monkeypatch.setenv("LOOPWRIGHT_TOKEN", "@token")
    wait_for(lambda: run("tracker", "status").code == 0)
    before = run("token", "issue", "ann").out.strip()
    full = (tmp_path / "t.db-wal").stat().st_size  # where each commit goes
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (full, limits[1]))
    refused = run("token", "issue", "bob")
    assert refused.code == 69
    assert "t.db" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert "READ-ONLY: " in run("tracker", "status").out
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
    wait_for(lambda: "writable" in run("tracker", "status").out)
    after = run("token", "issue", "eve").out.strip()
    process.kill()
    process.communicate()
    _, url = processes.tracker(*store)
    for token in (before, after):
        assert run("device", "ls", "--fleet", url, "--token", token).code == 0


def test_the_newer_of_two_trackers_on_a_store_goes_on(
    run: Run, processes: Processes, tmp_path: Path
) -> None:
    store = ("--store", "sqlite:///t.db", "--token-file", "token")
    older, first = processes.tracker(*store)
    wait_for((tmp_path / "token").exists)
    wait_for(lambda: run("tracker", "status", "--fleet", first, "--token", "@token").code == 0)
    _, second = processes.tracker(*store)
    wait_for(lambda: run("tracker", "status", "--fleet", second, "--token", "@token").code == 0)
    assert run("token", "issue", "bob", "--fleet", first, "--token", "@token").code == 69
    status, errors = ended(older)
    assert status == 69
    assert "tracker 2 has begun on sqlite:///t.db after tracker 1" in errors
    assert run("token", "issue", "bob", "--fleet", second, "--token", "@token").code == 0


def test_a_tracker_with_http_ends_when_told_and_says_nothing_more(
    processes: Processes, tmp_path: Path
) -> None:
    import urllib.request

    options = ("--http", "127.0.0.1:0", "--token-file", "token")
    process, _ = processes.tracker(*options)
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    token = (tmp_path / "token").read_text().strip()
    assert all(token not in line for line in lines)
    address = lines[1].split()[-1]
    with urllib.request.urlopen(f"{address}/readyz") as answer:
        assert json.load(answer) == {"ready": True, "why": ""}
    request = urllib.request.Request(
        f"{address}/live", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request) as stream:
        assert stream.readline() == b"event: all\n"
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (0, "")

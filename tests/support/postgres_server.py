"""A PostgreSQL server for tests, from Debian's package, in a temporary folder on a unix socket."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 60
_USERS = ("postgres", "nobody")


def binaries() -> Path | None:
    """The folder of the newest installed server's programs, None without one."""
    found = [p for p in Path("/usr/lib/postgresql").glob("*/bin") if (p / "initdb").exists()]
    return max(found, key=lambda p: float(p.parent.name)) if found else None


def why_not() -> str | None:
    """Why no server can be started here, None if one can."""
    if binaries() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.getuid() == 0 and (_user() is None or shutil.which("setpriv") is None):
        return "PostgreSQL does not run as root, and there is no user to run it as"
    return None


class Server:
    """A server with one database, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.url = f"postgresql://test@/postgres?host={folder}"
        self._folder = folder
        self._names = itertools.count()

    def fresh(self) -> str:
        """The URL of an empty schema, whose tables are in nobody's way."""
        import psycopg

        name = f"t{next(self._names)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}&options=-csearch_path%3D{name}"

    def create(self) -> None:
        """Make the files of an empty database."""
        words = ("-U", "test", "-A", "trust", "-N", "-E", "UTF8", "--no-locale")
        _run("initdb", "-D", self._data, *words)

    def start(self) -> None:
        """Start, and wait until it answers; harmless where it runs."""
        if self._process.exists():
            return
        options = f"-k {self._folder} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
        log = str(self._folder / "log")
        _run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        """Stop at once, as in a crash: its connections break. Harmless where it does not run."""
        if self._process.exists():
            _run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    @property
    def _process(self) -> Path:
        return self._folder / "data" / "postmaster.pid"  # there while it runs


@contextmanager
def running() -> Iterator[Server]:
    """A server that runs; it ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="lwpg"))
    if os.getuid() == 0:
        user = _user()
        assert user is not None
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = Server(folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd | None:
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _run(program: str, *arguments: str) -> None:
    folder = binaries()
    assert folder is not None
    command = [str(folder / program), *arguments]
    user = _user()
    if os.getuid() == 0 and user is not None:
        ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        command = ["setpriv", *ids, *command]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=_START_S, cwd="/"
    )
    assert done.returncode == 0, done.stderr.decode()

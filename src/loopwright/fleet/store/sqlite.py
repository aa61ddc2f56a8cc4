"""SQLite as a tracker's database: one file of mode 0600, in write-ahead mode.

A file is looked at read-only first: one that is something else, of another version or damaged is
refused as it is.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import final

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from loopwright.errors import ConfigError
from loopwright.fleet.store import tables
from loopwright.fleet.store.database import (
    Cursor,
    Raw,
    check_ours,
    check_version,
    create_tables,
)
from loopwright.fleet.store.rows import StoreBusyError, StoreError

_MAGIC = b"SQLite format 3\0"
_PRIVATE = 0o600


@final
class Sqlite:
    """A `database.Database` in the file at `path`.

    A commit that is not careful writes to the log, which the operating system keeps in memory, and
    waits for nothing. So that this is always so, the log goes into the file only in `tidy`.
    """

    epoch_lock = ""
    waits = False

    def __init__(self, url: sa.URL, *, busy_s: float) -> None:
        self.shown = url.render_as_string()
        self._busy_s = busy_s
        self._path = _path_of(url)
        self._careful: bool | None = None
        self._wait: bool | None = None
        self.engine = sa.create_engine(
            url.set(drivername="sqlite+pysqlite"),
            connect_args={"timeout": busy_s, "check_same_thread": False},
            poolclass=NullPool,
            paramstyle="qmark",
        )

    def prepare(self) -> None:
        """Check that the file is ours and whole, or make it.

        Raises: ConfigError for a file that is not, or a place where none can be.
        """
        path = self._path
        if path.is_dir():
            raise ConfigError(f"store {self.shown}: {path} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise ConfigError(f"store {self.shown}: there is no folder {path.parent}; make it")
        if path.exists() and path.stat().st_size:
            self._check()
        else:
            self._create()
        self._write_ahead()
        create_tables(self.engine)
        path.chmod(_PRIVATE)

    def connect(self) -> Raw:
        """A connection to write with."""
        raw = sqlite3.connect(
            self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False
        )
        raw.execute("PRAGMA wal_autocheckpoint=0")
        self._careful = self._wait = None
        return raw

    def start(self, raw: Raw, *, careful: bool, wait: bool) -> None:
        """Begin to write; `careful` waits for the disk at the commit.

        Raises: StoreBusyError when `wait` is false and another process writes just now.
        """
        cursor = raw.cursor()
        if careful is not self._careful:
            cursor.execute(f"PRAGMA synchronous={'FULL' if careful else 'NORMAL'}")
            self._careful = careful
        self._be_patient(cursor, wait=wait)
        try:
            cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if wait or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise StoreBusyError(f"store {self.shown}: another process writes") from error

    def _be_patient(self, cursor: Cursor, *, wait: bool) -> None:
        """Wait for another process that writes, or do not."""
        if wait is not self._wait:
            cursor.execute(f"PRAGMA busy_timeout={int(self._busy_s * 1000) if wait else 0}")
            self._wait = wait

    def finish(self, raw: Raw) -> None:
        """Commit what was begun."""
        raw.cursor().execute("COMMIT")

    def settle(self, raw: Raw) -> None:
        """After a failure: write all that is committed into the file, and start a new log."""
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def tidy(self, raw: Raw) -> None:
        """Write the log into the file, and begin it anew: both wait for the disk."""
        cursor = raw.cursor()
        self._be_patient(cursor, wait=True)
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
        cursor.execute(f"UPDATE {tables.meta.name} SET value = value + 1 WHERE name = 'tidied'")

    def reason(self, error: BaseException) -> str:
        """A message for a driver's error, with what to do."""
        text = str(getattr(error, "orig", None) or error)
        if "full" in text:
            return "the disk is full; free some space, the tracker tries again"
        if "locked" in text:
            return f"locked by another process for {self._busy_s:.0f} s; end that one"
        if "readonly" in text:
            return "it is read-only; make the file and its folder writable"
        return f"the database failed ({text}); check the disk"

    def _create(self) -> None:
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, _PRIVATE))
        except OSError as error:
            raise ConfigError(
                f"store {self.shown} cannot be made ({error.strerror}); name another file"
            ) from error

    def _check(self) -> None:
        try:
            with self._path.open("rb") as file:
                magic = file.read(len(_MAGIC))
        except OSError as error:
            raise ConfigError(
                f"store {self.shown} cannot be read ({error.strerror}); name another file"
            ) from error
        if magic != _MAGIC:
            raise ConfigError(f"store {self.shown} is not a database; name another file")
        uri = f"file:{_quoted(self._path)}?mode=ro&uri=true"
        engine = sa.create_engine(f"sqlite+pysqlite:///{uri}", poolclass=NullPool)
        try:
            with engine.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                if found != "ok":
                    raise ConfigError(self._damaged(str(found)))
            check_ours(engine, self.shown)
            check_version(engine, self.shown)
        except sa.exc.DatabaseError as error:
            raise ConfigError(self._damaged(str(error.orig))) from error
        finally:
            engine.dispose()

    def _damaged(self, what: str) -> str:
        line = " ".join(what.split())
        return (
            f"store {self.shown} is damaged ({line}); restore a copy, or name a new file: "
            "the devices join again"
        )

    def _write_ahead(self) -> None:
        """Switch the file to write-ahead logging, for good; SQLite waits for no lock here."""
        deadline = time.monotonic() + self._busy_s
        while True:
            try:
                with self.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                return
            except sa.exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise StoreError(f"store {self.shown}: {self.reason(error)}") from error
                time.sleep(0.01)


def _path_of(url: sa.URL) -> Path:
    if url.database in (None, "", ":memory:"):
        raise ConfigError("a store in memory is written memory:; with a file, sqlite:///FILE")
    return Path(str(url.database))


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")

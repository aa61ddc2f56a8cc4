"""PostgreSQL as a tracker's database, by psycopg 3 (extra `postgres`)."""

from __future__ import annotations

import importlib.util
from typing import Any, final

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from loopwright.errors import ConfigError
from loopwright.fleet.store.database import (
    Raw,
    check_ours,
    check_version,
    create_tables,
)
from loopwright.fleet.store.rows import StoreError

_SET_UP_LOCK = 0x4C57_5452  # one tracker at a time makes the tables
_CONNECT_S = 10


@final
class Postgresql:
    """A `database.Database` in the first schema of the connection's search path."""

    epoch_lock = " FOR UPDATE"
    waits = True

    def __init__(self, url: sa.URL, *, busy_s: float) -> None:
        self.shown = url.render_as_string()
        if importlib.util.find_spec("psycopg") is None:
            raise ConfigError(
                f"store {self.shown}: PostgreSQL needs psycopg; pip install loopwright[postgres]"
            )
        self._careful: bool | None = None
        wait = f"-c lock_timeout={int(busy_s * 1000)}"
        options = " ".join(filter(None, (_option(url), wait)))
        self.engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg").difference_update_query(["options"]),
            connect_args={
                "connect_timeout": _CONNECT_S,
                "options": options,
                "client_encoding": "utf8",
            },
            poolclass=NullPool,
            paramstyle="format",
        )

    def prepare(self) -> None:
        """Check that the database is ours or empty, and make the tables.

        Raises: ConfigError for one that is not, StoreError for one that does not answer.
        """
        try:
            with self.engine.connect() as turn:
                turn.execute(sa.select(sa.func.pg_advisory_lock(_SET_UP_LOCK)))
                check_ours(self.engine, self.shown)
                check_version(self.engine, self.shown)
                create_tables(self.engine)
        except sa.exc.DBAPIError as error:
            raise StoreError(f"store {self.shown}: {self.reason(error)}", retryable=True) from error

    def connect(self) -> Raw:
        """A connection to write with."""
        fairy = self.engine.raw_connection()
        raw: Any = fairy.dbapi_connection
        fairy.detach()
        self._careful = None
        return raw  # type: ignore[no-any-return]  # a psycopg connection, which mypy need not know

    def start(self, raw: Raw, *, careful: bool, wait: bool) -> None:  # noqa: ARG002  # it waits
        """Begin to write; `careful` waits for the disk at the commit."""
        if careful is not self._careful:
            raw.cursor().execute(f"SET synchronous_commit TO {'on' if careful else 'off'}")
            self._careful = careful

    def finish(self, raw: Raw) -> None:
        """Commit what was begun."""
        commit: Any = raw
        commit.commit()

    def settle(self, raw: Raw) -> None:
        """Nothing: the server answers for what it committed."""

    def tidy(self, raw: Raw) -> None:
        """Nothing: the server does that itself."""

    def reason(self, error: BaseException) -> str:
        """A message for a driver's error, with what to do."""
        line = " ".join(str(getattr(error, "orig", None) or error).split())
        return f"PostgreSQL failed ({line}); check the server and the URL"


def _option(url: sa.URL) -> str:
    found = url.query.get("options", "")
    return found if isinstance(found, str) else " ".join(found)

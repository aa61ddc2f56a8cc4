"""What the store needs of a database besides SQL: opening it, checking it, and how it commits."""

from __future__ import annotations

from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn, CreateTable

from loopwright.errors import ConfigError
from loopwright.fleet.store import tables


class Cursor(Protocol):
    """The part of a DBAPI cursor that is used."""

    def execute(self, statement: str, values: tables.Values = ..., /) -> object:
        """Run one statement."""
        ...

    def executemany(self, statement: str, rows: list[tables.Values], /) -> object:
        """Run one statement for each row."""
        ...

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row of the result."""
        ...


class Raw(Protocol):
    """A driver's own connection: the way that every grant takes is kept short."""

    def cursor(self) -> Any:  # noqa: ANN401  # a `Cursor`, but the drivers' own types say more
        """A cursor."""
        ...

    def rollback(self) -> None:
        """Forget what was not committed."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class Database(Protocol):
    """One kind of database."""

    @property
    def engine(self) -> sa.Engine:
        """For everything that need not be fast; parameters are by position."""
        ...

    @property
    def shown(self) -> str:
        """The URL as people may see it, without a password."""
        ...

    @property
    def epoch_lock(self) -> str:
        """What follows the SELECT of the tracker's epoch, so that no other begins meanwhile."""
        ...

    def prepare(self) -> None:
        """Check that it is ours, or make it. Raises: ConfigError, StoreError."""
        ...

    def connect(self) -> Raw:
        """A connection to write with."""
        ...

    @property
    def waits(self) -> bool:
        """Whether even a commit that is not careful waits for something."""
        ...

    def start(self, raw: Raw, *, careful: bool, wait: bool) -> None:
        """Begin to write; `careful` waits for the disk at the commit.

        Raises: StoreBusyError when `wait` is false and another process writes just now.
        """
        ...

    def finish(self, raw: Raw) -> None:
        """Commit what was begun."""
        ...

    def settle(self, raw: Raw) -> None:
        """After a failure, whatever makes earlier commits sure."""
        ...

    def tidy(self, raw: Raw) -> None:
        """What is due now and then, and takes long."""
        ...

    def reason(self, error: BaseException) -> str:
        """A message for a driver's error, with what to do."""
        ...


def check_ours(engine: sa.Engine, shown: str) -> None:
    """Check that the database is empty or ours. Raises: ConfigError otherwise."""
    names = set(sa.inspect(engine).get_table_names())
    if not names:
        return
    found = _meta(engine, "application") if tables.meta.name in names else None
    if found != tables.APPLICATION:
        what = f"it is {found}" if found else f"it has the table {min(names)}"
        raise ConfigError(
            f"store {shown} is a database of something else ({what}); name another one"
        )


def check_version(engine: sa.Engine, shown: str) -> None:
    """Check that the database is empty or of this version. Raises: ConfigError otherwise."""
    if not sa.inspect(engine).has_table(tables.meta.name):
        return
    found = _meta(engine, "schema")
    if found != str(tables.SCHEMA):
        raise ConfigError(
            f"store {shown} was written by another version (tracker schema {found}, here it is "
            f"{tables.SCHEMA}); use that version, or name a new store: the devices join again"
        )


def create_tables(engine: sa.Engine) -> None:
    """Make the tables and rows that are not there yet."""
    insert = upsert(engine.dialect.name, tables.meta).on_conflict_do_nothing()
    with engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            _add_columns(connection, table)
        connection.execute(
            insert,
            [
                {"name": "application", "value": tables.APPLICATION},
                {"name": "schema", "value": str(tables.SCHEMA)},
                {"name": "tracker_epoch", "value": "0"},
                {"name": "proof", "value": "0"},
                {"name": "tidied", "value": "0"},
            ],
        )


def _add_columns(connection: sa.Connection, table: sa.Table) -> None:
    """Add the columns of `table` that came after the database was made."""
    there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.c:
        if column.name not in there:
            made = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {made}")


def upsert(dialect: str, table: sa.Table) -> Any:  # noqa: ANN401  # the dialects' Inserts share no base
    """An INSERT into `table` that has `on_conflict_do_update`, in the words of `dialect`."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def _meta(engine: sa.Engine, name: str) -> str | None:
    statement = sa.select(tables.meta.c.value).where(tables.meta.c.name == name)
    with engine.connect() as connection:
        found = connection.execute(statement).scalar()
    return None if found is None else str(found)

"""Records in a database: append-only, safe against `kill -9`, shared by several tuners.

`SqlStore("sqlite:///r.db")` keeps them in one SQLite file. Each append is one transaction in
write-ahead mode, with the operating system before the call returns: a killed process loses nothing
that was appended, only a loss of power can take the last few. Writers wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable

from loopwright.errors import EnvironmentFailure, RecordsError
from loopwright.outcome import Timed
from loopwright.records.record import Record, TaskKey, from_line, to_line

SCHEMA = 1
_BUSY_S = 30.0
_BATCH = 500
_APPLICATION = "loopwright-records"

_metadata = sa.MetaData()
_meta = sa.Table(
    "loopwright_meta",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_records = sa.Table(
    "records",
    _metadata,
    *(
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("workload", sa.Text, nullable=False),
        sa.Column("template", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("threads", sa.Integer, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("checked", sa.Boolean, nullable=False),
        sa.Column("best_ns", sa.Float, nullable=True),
        sa.Column("body", sa.Text, nullable=False),
    ),
)
_by_key = sa.Index(
    "records_by_key",
    *(_records.c[name] for name in ("workload", "template", "version", "target")),
    *(_records.c[name] for name in ("device", "threads", "best_ns")),
)


@dataclass(frozen=True, slots=True)
class Query:
    """Which records: those that agree in every field that is not None."""

    workload: str | None = None
    template: str | None = None
    version: int | None = None
    target: str | None = None
    device: str | None = None
    threads: int | None = None
    operator: str | None = None
    policy: str | None = None

    @staticmethod
    def of(key: TaskKey) -> Query:
        """The records filed under `key`."""
        return Query(key.workload, key.template, key.version, key.target, key.device, key.threads)


class RecordStore(Protocol):
    """Where records are kept: appended, never changed."""

    def append(self, records: Iterable[Record]) -> int:
        """How many of `records` were not there yet; all of them are there afterwards."""
        ...

    def query(self, query: Query) -> Iterator[Record]:
        """The records of `query` in the order in which they came."""
        ...

    def best(self, query: Query) -> tuple[Record, ...]:
        """For each key within `query`, its fastest record that was compared with the oracle."""
        ...

    def fastest(self, query: Query, count: int) -> tuple[Record, ...]:
        """The `count` fastest records within `query` that were compared with the oracle."""
        ...


@final
class SqlStore:
    """Records in the SQLite database at `url`. Close it, or use it in a `with`.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, or `sqlite://` for one in memory.
        create: whether to make a missing file; otherwise that is an error.

    Raises: RecordsError for a URL, a file or a version that is not ours; EnvironmentFailure when
        the database cannot be written now.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.url = url
        path = _path_of(url)
        if path is not None:
            _check_path(url, path, create=create)
        self._engine = sa.create_engine(
            url,
            connect_args={"timeout": _BUSY_S},
            **({"poolclass": StaticPool} if path is None else {}),
        )
        try:
            with self._errors():
                self._open(write_ahead=path is not None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SqlStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; the store cannot be used afterwards."""
        self._engine.dispose()

    def append(self, records: Iterable[Record]) -> int:
        """How many of `records` were not there yet; all of them are there afterwards.

        They are written together: after a crash either all are there or none.
        """
        rows = [_row(record) for record in records]
        if not rows:
            return 0
        insert = sqlite.insert(_records).on_conflict_do_nothing(index_elements=["digest"])
        with self._errors(), self._engine.begin() as connection:
            # The write comes first: a read before it could not wait for another writer's lock.
            options = {"preserve_rowcount": True}
            return connection.execute(insert, rows, execution_options=options).rowcount

    def query(self, query: Query = Query()) -> Iterator[Record]:
        """The records of `query` in the order in which they came."""
        last = 0
        while True:
            statement = (
                sa.select(_records.c.id, _records.c.body)
                .where(*_conditions(query), _records.c.id > last)
                .order_by(_records.c.id)
                .limit(_BATCH)
            )
            with self._errors(), self._engine.connect() as connection:
                rows = connection.execute(statement).all()
            for row in rows:
                yield self._record(row.body)
            if len(rows) < _BATCH:
                return
            last = rows[-1].id

    def best(self, query: Query = Query()) -> tuple[Record, ...]:
        """For each key within `query`, its fastest record that was compared with the oracle.

        Ordered by operator, then by the order in which the keys came.
        """
        key = [_records.c[field.name] for field in fields(TaskKey)]
        place = sa.func.row_number().over(
            partition_by=key, order_by=(_records.c.best_ns, _records.c.id)
        )
        ranked = (
            sa.select(_records.c.id, _records.c.operator, _records.c.body, place.label("place"))
            .where(*_conditions(query), _records.c.best_ns.is_not(None), _records.c.checked)
            .subquery()
        )
        statement = (
            sa.select(ranked.c.body)
            .where(ranked.c.place == 1)
            .order_by(ranked.c.operator, ranked.c.id)
        )
        with self._errors(), self._engine.connect() as connection:
            bodies = connection.execute(statement).scalars().all()
        return tuple(self._record(body) for body in bodies)

    def fastest(self, query: Query, count: int) -> tuple[Record, ...]:
        """The `count` fastest records within `query` that were compared with the oracle."""
        statement = (
            sa.select(_records.c.body)
            .where(*_conditions(query), _records.c.best_ns.is_not(None), _records.c.checked)
            .order_by(_records.c.best_ns, _records.c.id)
            .limit(count)
        )
        with self._errors(), self._engine.connect() as connection:
            bodies = connection.execute(statement).scalars().all()
        return tuple(self._record(body) for body in bodies)

    def count(self, query: Query = Query()) -> int:
        """How many records `query` has."""
        statement = sa.select(sa.func.count()).select_from(_records).where(*_conditions(query))
        with self._errors(), self._engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def _record(self, body: str) -> Record:
        try:
            return from_line(body)
        except RecordsError as error:
            raise RecordsError(f"{self.url}: a record cannot be read: {error}") from error

    def _open(self, *, write_ahead: bool) -> None:
        """Check that the database is ours and of our version; make the tables when it is empty."""
        names = set(sa.inspect(self._engine).get_table_names())
        if _meta.name in names:
            self._check_version()
            return
        if names:
            raise RecordsError(
                f"{self.url} is a database of something else (it has the table {min(names)}); "
                "name another file"
            )
        if write_ahead:
            self._write_ahead()
        with self._engine.begin() as connection:
            # The driver begins no transaction for DDL: others would see tables without a version.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            for table in _metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
            connection.execute(CreateIndex(_by_key, if_not_exists=True))
            connection.execute(
                sqlite.insert(_meta).on_conflict_do_nothing(),
                [
                    {"name": "application", "value": _APPLICATION},
                    {"name": "schema", "value": str(SCHEMA)},
                ],
            )

    def _check_version(self) -> None:
        statement = sa.select(_meta.c.value).where(_meta.c.name == "schema")
        with self._engine.connect() as connection:
            found = connection.execute(statement).scalar()
        if found != str(SCHEMA):
            raise RecordsError(
                f"{self.url} was written by another version (records schema {found}, here it is "
                f"{SCHEMA}); export it with that version and import the lines here"
            )

    def _write_ahead(self) -> None:
        """Switch the file to write-ahead logging, for good; SQLite waits for no lock here."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                with self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                return
            except exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the database driver raises into our errors, which say what to do."""
        try:
            yield
        except exc.DatabaseError as error:
            raise _translated(self.url, str(error.orig)) from error


def _translated(url: str, reason: str) -> RecordsError | EnvironmentFailure:
    if "not a database" in reason or "malformed" in reason:
        return RecordsError(f"{url} is not a records database ({reason}); name another file")
    if "readonly" in reason:
        return RecordsError(
            f"{url} is read-only; copy it, or make the file and its folder writable"
        )
    if "unable to open" in reason:
        return RecordsError(f"{url} cannot be opened ({reason}); check that the file may be used")
    if "locked" in reason:
        return EnvironmentFailure(
            f"{url} was locked by another process for {_BUSY_S:.0f} s; try again", retryable=True
        )
    return EnvironmentFailure(f"{url}: the database failed: {reason}")


def _path_of(url: str) -> Path | None:
    """The file of a SQLite URL, None for one in memory."""
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise RecordsError(
            f"records {url!r} is not a URL; write sqlite:///{url or 'r.db'}"
        ) from error
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise RecordsError(
            f"records {url!r}: databases of {parsed.drivername!r} are not supported; "
            "use sqlite:///FILE"
        )
    return None if parsed.database in (None, "", ":memory:") else Path(str(parsed.database))


def _check_path(url: str, path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise RecordsError(f"records {url!r}: {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise RecordsError(f"records {url!r}: there is no folder {path.parent}; make it first")
    if not create and not path.exists():
        raise RecordsError(
            f"records {url!r}: there is no file {path}; `loopwright tune` makes one, "
            "or name another with --records"
        )


def _conditions(query: Query) -> Sequence[sa.ColumnElement[bool]]:
    return [
        _records.c[field.name] == value
        for field in fields(query)
        if (value := getattr(query, field.name)) is not None
    ]


def _row(record: Record) -> dict[str, str | int | float | bool | None]:
    key = record.key
    outcome = record.outcome
    return {
        "digest": record.digest,
        "workload": key.workload,
        "template": key.template,
        "version": key.version,
        "target": key.target,
        "device": key.device,
        "threads": key.threads,
        "operator": record.operator,
        "policy": record.policy,
        "checked": isinstance(outcome, Timed) and outcome.checked,
        "best_ns": record.best_ns,
        "body": to_line(record),
    }

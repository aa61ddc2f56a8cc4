"""The tracker's store in a database: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`.

One connection writes, in the event loop or in the thread that commits, never in both at once: the
`Committer` makes one commit after the other. A commit waits for the disk when it has epochs or
anything about who may do what; leases alone are with the operating system (SQLite) or the server
(PostgreSQL) when it returns: a killed tracker loses none of them, only a loss of power can take the
last few, and the devices say what is true of those. In SQLite such a commit waits for nothing
(`Pace.PROMPT`), unless another process holds the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

import sqlalchemy as sa
from sqlalchemy import exc

from loopwright.errors import ConfigError, InternalError
from loopwright.fleet.book.events import DeviceRow
from loopwright.fleet.store import tables
from loopwright.fleet.store.database import Cursor, Database, Raw, upsert
from loopwright.fleet.store.memory import MemoryStore
from loopwright.fleet.store.postgresql import Postgresql
from loopwright.fleet.store.rows import (
    ENDED,
    ENDS,
    ChangeBatch,
    Logged,
    Pace,
    StoreBusyError,
    StoreContents,
    StoreError,
    StoreFencedError,
    TrackerStore,
)
from loopwright.fleet.store.sqlite import Sqlite
from loopwright.fleet.words import Admin

KEEP_EVENTS = 100_000
_PRUNE_EVERY = 5_000
_TIDY_EVERY = 8_000  # rows and commits, so that SQLite's log stays small
_BUSY_S = 10.0


_DEVICES = sa.select(
    tables.devices, tables.forgotten.c.device.is_not(None).label("forgotten")
).outerjoin(tables.forgotten, tables.forgotten.c.device == tables.devices.c.device)
_ENDS = (
    sa.select(tables.events)
    .where(tables.events.c.what == ENDED)
    .order_by(tables.events.c.id.desc())
    .limit(ENDS)
)


def open_store(url: str) -> TrackerStore:
    """The store at `url`; `memory:` is one that ends with the process.

    Raises: ConfigError for a URL or a database that is not ours, StoreError when it cannot be
        opened now.
    """
    return MemoryStore() if url == "memory:" else SqlTrackerStore(url)


@final
class SqlTrackerStore:
    """A TrackerStore in the database at `url`.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://...`.
        keep_events: how long the log may grow; it is pruned some thousands at a time.
        busy_s: how long to wait for another process's lock.

    Raises: as `open_store`.
    """

    def __init__(
        self, url: str, *, keep_events: int = KEEP_EVENTS, busy_s: float = _BUSY_S
    ) -> None:
        self._database = _database(url, busy_s)
        self._keep = keep_events
        self._since_prune = 0
        self._since_tidy = 0
        self._epoch = 0
        self._raw: Raw | None = None
        try:
            self._database.prepare()
        except BaseException:
            self._database.engine.dispose()
            raise
        self._sql = _Statements(self._database)

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        return self._database.shown

    def begin(self) -> int:
        """Become the writer: the tracker's epoch, durably higher than any before."""
        with self._writing(careful=True) as cursor:
            cursor.execute(self._sql.read_epoch)
            row = cursor.fetchone()
            if row is None:
                raise StoreError(f"store {self.url} has lost its tracker_epoch; restore a copy")
            epoch = int(row[0]) + 1
            cursor.executemany(self._sql.write_meta, [("tracker_epoch", str(epoch))])
        self._epoch = epoch
        return epoch

    def load(self) -> StoreContents:
        """What is kept."""
        with self._errors(), self._database.engine.connect() as connection:
            read = connection.execute
            return StoreContents(
                leases=tuple(map(tables.lease, read(sa.select(tables.leases)))),
                devices=tuple(map(tables.device, read(_DEVICES))),
                agents=tuple(map(tables.agent, read(sa.select(tables.agents)))),
                tokens=tuple(map(tables.token, read(sa.select(tables.tokens)))),
                joins=tuple(map(tables.join, read(sa.select(tables.joins)))),
                ended=tuple(tables.logged(row).event for row in reversed(read(_ENDS).all())),
            )

    def pace(self, batch: ChangeBatch) -> Pace:
        """Prompt, unless it waits for the disk or a server, or tidies up before."""
        if self._database.waits or batch.careful or self._since_tidy >= _TIDY_EVERY:
            return Pace.SLOW
        return Pace.PROMPT

    def commit(self, batch: ChangeBatch, *, wait: bool = True) -> None:
        """Make `batch` durable, all of it or nothing."""
        if self._raw is None:
            raise StoreError(f"store {self.url} failed before and was not reopened")
        if wait and self._since_tidy >= _TIDY_EVERY:
            self._tidy()
        with self._writing(careful=batch.careful, wait=wait) as cursor:
            self._check_epoch(cursor)
            for statement, rows in self._sql.of(batch):
                if rows:
                    cursor.executemany(statement, rows)
            self._prune(cursor, len(batch.events))
        self._since_tidy += 1 + len(batch)

    def reopen(self) -> None:
        """After a StoreError: a fresh connection, and proof that it can write."""
        self._drop()
        with self._writing(careful=True) as cursor:
            self._check_epoch(cursor)
            cursor.executemany(self._sql.write_meta, [("proof", str(self._epoch))])
        with self._errors():
            if self._raw is not None:
                self._database.settle(self._raw)

    def events(self, after: int, limit: int) -> tuple[Logged, ...]:
        """At most `limit` events with ids over `after`, oldest first."""
        statement = (
            sa.select(tables.events)
            .where(tables.events.c.id > after)
            .order_by(tables.events.c.id)
            .limit(limit)
        )
        with self._errors(), self._database.engine.connect() as connection:
            return tuple(map(tables.logged, connection.execute(statement)))

    def close(self) -> None:
        """Release the database; the store cannot be used afterwards."""
        self._drop()
        self._database.engine.dispose()

    def _check_epoch(self, cursor: Cursor) -> None:
        cursor.execute(self._sql.read_epoch)
        row = cursor.fetchone()
        if row is None or int(row[0]) != self._epoch:
            found = "none" if row is None else row[0]
            raise StoreFencedError(
                f"tracker {found} has begun on {self.url} after tracker {self._epoch}; "
                "only the newest may write"
            )

    def _prune(self, cursor: Cursor, added: int) -> None:
        self._since_prune += added
        if self._since_prune >= min(_PRUNE_EVERY, self._keep):
            self._since_prune = 0
            cursor.executemany(self._sql.prune, [(self._keep,)])

    def _tidy(self) -> None:
        self._since_tidy = 0
        try:
            with self._errors():
                if self._raw is not None:
                    self._database.tidy(self._raw)
        except BaseException:
            self._drop()
            raise

    @contextmanager
    def _writing(self, *, careful: bool, wait: bool = True) -> Iterator[Cursor]:
        """A transaction. Whatever goes wrong in it, the connection is not used again."""
        try:
            with self._errors():
                if self._raw is None:
                    self._raw = self._database.connect()
                self._database.start(self._raw, careful=careful, wait=wait)
                yield self._raw.cursor()
                self._database.finish(self._raw)
        except StoreBusyError:
            raise
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            with suppress(Exception):
                raw.rollback()
            with suppress(Exception):
                raw.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the database driver raises into our errors, which say what to do."""
        driver: Any = self._database.engine.dialect.loaded_dbapi
        try:
            yield
        except (exc.DBAPIError, driver.Error) as error:
            reason = self._database.reason(error)
            raise StoreError(f"store {self.url}: {reason}", retryable=True) from error


class _Statements:
    """The SQL of the writer, compiled once; rows are tuples in the order of the columns."""

    def __init__(self, database: Database) -> None:
        self._dialect = database.engine.dialect
        meta, devices = tables.meta, tables.devices
        self.read_epoch = (
            f"SELECT value FROM {meta.name} WHERE name = 'tracker_epoch'{database.epoch_lock}"
        )
        self.write_meta = self._upsert(meta)
        columns = [column.name for column in devices.c]
        reserve = upsert(self._dialect.name, devices)
        higher = sa.case(
            (devices.c.epochs > reserve.excluded.epochs, devices.c.epochs),
            else_=reserve.excluded.epochs,
        )
        key = [devices.c.device]
        self._reserve = self._text(
            reserve.on_conflict_do_update(index_elements=key, set_={"epochs": higher}), columns
        )
        admin = upsert(self._dialect.name, devices)
        said = {"admin": admin.excluded.admin, "why": admin.excluded.why, "epochs": higher}
        self._admin = self._text(
            admin.on_conflict_do_update(index_elements=key, set_=said), columns
        )
        forget = upsert(self._dialect.name, tables.forgotten).on_conflict_do_nothing()
        self._forgotten = self._text(forget, ["device"])
        self._returned = self._text(
            sa.delete(tables.forgotten).where(tables.forgotten.c.device == sa.bindparam("name")),
            ["name"],
        )
        self._leases = self._upsert(tables.leases)
        self._ended = self._text(
            sa.delete(tables.leases).where(tables.leases.c.lease == sa.bindparam("name")), ["name"]
        )
        self._agents = self._upsert(tables.agents)
        self._tokens = self._upsert(tables.tokens)
        self._joins = self._upsert(tables.joins)
        self._events = self._text(
            sa.insert(tables.events).inline(),
            [column.name for column in tables.events.c if column.name != "id"],
        )
        newest = sa.select(sa.func.max(tables.events.c.id)).scalar_subquery()
        self.prune = self._text(
            sa.delete(tables.events).where(
                tables.events.c.id <= newest - sa.bindparam("keep", type_=sa.BigInteger)
            ),
            ["keep"],
        )

    def of(self, batch: ChangeBatch) -> Iterator[tuple[str, list[tables.Values]]]:
        """What to run for `batch`, in order."""
        if batch.careful:
            reserved = (DeviceRow(name, upto, Admin.ENABLED) for name, upto in batch.epochs.items())
            yield self._reserve, list(map(tables.of_device, reserved))
            yield self._admin, list(map(tables.of_device, batch.admins.values()))
            for statement, forgotten in ((self._forgotten, True), (self._returned, False)):
                named = (row for row in batch.admins.values() if row.forgotten is forgotten)
                yield statement, [(row.device,) for row in named]
            yield self._agents, list(map(tables.of_agent, batch.agents.values()))
            yield self._tokens, list(map(tables.of_token, batch.tokens.values()))
            yield self._joins, list(map(tables.of_join, batch.joins.values()))
        leases = batch.leases
        yield self._leases, [tables.of_lease(row) for row in leases.values() if row is not None]
        yield self._ended, [(lease,) for lease, row in leases.items() if row is None]
        yield self._events, list(map(tables.of_event, batch.events))

    def _upsert(self, table: sa.Table) -> str:
        insert = upsert(self._dialect.name, table)
        keys = list(table.primary_key.columns)
        rest = {c.name: insert.excluded[c.name] for c in table.c if not c.primary_key}
        statement = insert.on_conflict_do_update(index_elements=keys, set_=rest)
        return self._text(statement, [column.name for column in table.c])

    def _text(self, statement: sa.ClauseElement, columns: list[str]) -> str:
        """The statement, whose parameters are `columns`, in this order."""
        compiled: Any = statement.compile(dialect=self._dialect, column_keys=columns)
        if compiled.positiontup != columns:
            raise InternalError(f"{compiled} takes {compiled.positiontup}, not {columns}")
        return str(compiled)


def _database(url: str, busy_s: float) -> Database:
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise ConfigError(f"store {url!r} is not a URL; write sqlite:///FILE") from error
    match parsed.get_backend_name():
        case "sqlite":
            return Sqlite(parsed, busy_s=busy_s)
        case "postgresql":
            return Postgresql(parsed, busy_s=busy_s)
        case other:
            raise ConfigError(
                f"store {parsed.render_as_string()}: databases of {other!r} are not supported; "
                "use sqlite:///FILE or postgresql://USER@HOST/NAME"
            )

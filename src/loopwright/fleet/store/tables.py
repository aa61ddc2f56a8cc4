"""The tables of the tracker's store, and rows to and from them: one schema for all databases.

A column that came later has a default, so that trackers that do not know it can write too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from loopwright.fleet.book.events import DeviceRow, LeaseRow
from loopwright.fleet.security.tokens import CodeRow, Principal, TokenRow
from loopwright.fleet.store.rows import AgentRow, AuditEvent, JoinRow, Logged
from loopwright.fleet.words import Admin, Role

SCHEMA = 1
APPLICATION = "loopwright-tracker"

metadata = sa.MetaData()
meta = sa.Table(
    "loopwright_meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
devices = sa.Table(
    "devices",
    metadata,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("epochs", sa.BigInteger, nullable=False),
    sa.Column("admin", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
forgotten = sa.Table(  # devices that were lost for long; trackers that do not know it list them
    "forgotten",
    metadata,
    sa.Column("device", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)
leases = sa.Table(
    "leases",
    metadata,
    *(
        sa.Column("lease", sa.Text, primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("incarnation", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("ttl_s", sa.Float(53), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False, server_default=""),
        sa.Column("role", sa.Integer, nullable=False, server_default=str(int(Role.ADMIN))),
    ),
    sqlite_with_rowid=False,
)
agents = sa.Table(
    "agents",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
)
tokens = sa.Table(
    "tokens",
    metadata,
    *(
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("role", sa.Integer, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("expires", sa.Float(53), nullable=True),  # null: never
        sa.Column("revoked", sa.Boolean, nullable=False),
    ),
)
joins = sa.Table(
    "join_codes",
    metadata,
    *(
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("expires", sa.Float(53), nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("used", sa.Boolean, nullable=False),
        sa.Column("used_by", sa.Text, nullable=False),
    ),
)
events = sa.Table(
    "events",
    metadata,
    *(
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    ),
    sqlite_autoincrement=True,
)

Values = tuple[Any, ...]
"""The columns of one row in the table's order, as the driver takes them."""


def of_lease(row: LeaseRow) -> Values:
    """The columns of a lease."""
    return (
        row.lease,
        row.request,
        row.device,
        row.agent,
        row.incarnation,
        row.epoch,
        row.client,
        row.tenant,
        row.selector,
        row.ttl_s,
        row.priority,
        _text(row.tags),
        row.token,
        int(row.role),
    )


def of_device(row: DeviceRow) -> Values:
    """The columns of a device."""
    return (row.device, row.epochs, row.admin.value, row.why)


def of_agent(row: AgentRow) -> Values:
    """The columns of an agent."""
    return (row.name, row.key, _text(row.labels), row.revoked)


def of_token(row: TokenRow) -> Values:
    """The columns of a token."""
    who = row.principal
    return (
        row.id,
        row.digest,
        who.name,
        who.tenant,
        int(who.role),
        msgspec.json.encode(sorted(who.scopes)).decode(),
        row.expires_at,
        row.revoked,
    )


def of_join(row: JoinRow) -> Values:
    """The columns of a join code."""
    code = row.code
    return (
        code.id,
        code.digest,
        code.expires_at,
        code.agent,
        _text(row.labels),
        code.used,
        row.used_by,
    )


def of_event(event: AuditEvent) -> Values:
    """The columns of an event but its id."""
    return (event.at, event.what, event.subject, event.by, event.detail)


def lease(row: sa.Row[Any]) -> LeaseRow:
    """The lease of a row."""
    return LeaseRow(
        lease=row.lease,
        request=row.request,
        device=row.device,
        agent=row.agent,
        incarnation=row.incarnation,
        epoch=row.epoch,
        client=row.client,
        tenant=row.tenant,
        selector=row.selector,
        ttl_s=row.ttl_s,
        priority=row.priority,
        tags=_mapping(row.tags),
        token=row.token,
        role=Role(row.role),
    )


def device(row: sa.Row[Any]) -> DeviceRow:
    """The device of a row, joined with whether it was forgotten."""
    return DeviceRow(row.device, row.epochs, Admin(row.admin), row.why, bool(row.forgotten))


def agent(row: sa.Row[Any]) -> AgentRow:
    """The agent of a row."""
    return AgentRow(row.name, bytes(row.key), _mapping(row.labels), bool(row.revoked))


def token(row: sa.Row[Any]) -> TokenRow:
    """The token of a row."""
    scopes = msgspec.json.decode(row.scopes, type=frozenset[str])
    who = Principal(row.name, row.tenant, Role(row.role), scopes)
    return TokenRow(row.id, bytes(row.hash), who, row.expires, bool(row.revoked))


def join(row: sa.Row[Any]) -> JoinRow:
    """The join code of a row."""
    code = CodeRow(row.id, bytes(row.hash), row.expires, row.agent, bool(row.used))
    return JoinRow(code, _mapping(row.labels), row.used_by)


def logged(row: sa.Row[Any]) -> Logged:
    """The event of a row."""
    return Logged(row.id, AuditEvent(row.at, row.what, row.subject, row.who, row.detail))


def _text(mapping: Mapping[str, str]) -> str:
    return msgspec.json.encode(mapping).decode() if mapping else "{}"


def _mapping(text: str) -> dict[str, str]:
    return msgspec.json.decode(text, type=dict[str, str])

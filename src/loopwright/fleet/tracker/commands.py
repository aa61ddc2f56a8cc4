"""What operators may change, which role it takes, and the log that each attempt leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from loopwright.errors import ConfigError, LoopwrightError, NoDeviceError, UnknownNameError
from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.events import AdminSet, Event, ProbeAsked, Revoked
from loopwright.fleet.security.tokens import (
    POOL,
    Principal,
    make_code,
    make_token,
    require_role,
)
from loopwright.fleet.store.rows import StoreError
from loopwright.fleet.tracker.asks import Asker
from loopwright.fleet.tracker.directory import AccessDirectory
from loopwright.fleet.wire.faults import Denied, Fault, Tally
from loopwright.fleet.wire.fields import check_name
from loopwright.fleet.wire.messages import Command, Done
from loopwright.fleet.words import Admin, ErrorCode, Role

_DAY_S = 86_400.0
_TOKEN_S = 30 * _DAY_S
_JOIN_S = 3600.0
_MAX_S = 3650 * _DAY_S
_WHY = 512
_MAX_SCOPES = 16
_CODES = (
    (Denied, ErrorCode.AUTH),
    (StoreError, ErrorCode.STORE),
    (NoDeviceError, ErrorCode.NO_DEVICE),
    (UnknownNameError, ErrorCode.NOT_FOUND),
    (ConfigError, ErrorCode.BAD_REQUEST),
)
_encode = msgspec.json.Encoder().encode

Arguments: TypeAlias = Mapping[str, str]
Made: TypeAlias = Mapping[str, object] | list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class _Rule:
    """One command: the role it takes, its arguments (the required ones first), its function."""

    role: Role
    needed: tuple[str, ...]
    possible: tuple[str, ...]
    run: Callable[[Principal, Arguments], Awaitable[Made]]
    logged: bool = True


@dataclass(frozen=True, slots=True)
class TokenEnd:
    """What ended with a token: so many connections, and these leases."""

    connections: int
    leases: tuple[str, ...]


class CommandsHost(Protocol):
    """What commands change."""

    book: LeaseBook
    directory: AccessDirectory
    link_tally: Tally

    def happened(self, event: Event) -> None:
        """Tell the book."""
        ...

    async def saved(self) -> None:
        """Wait until what happened is durable. Raises: StoreError."""
        ...

    def audit(self, what: str, subject: str, by: str = "", detail: str = "") -> None:
        """Write to the audit log."""
        ...

    def devices_of(self, agent: str) -> int | None:
        """How many devices an agent that is connected has; None for one that is not."""
        ...

    async def end_token(self, token: str, why: str) -> TokenEnd:
        """End what is held with a token, and close all connections that came with it.

        Raises: StoreError when the ends could not be saved.
        """
        ...

    def close_agent(self, name: str, why: str) -> None:
        """Close the connections of an agent."""
        ...


class Commands:
    """Carries commands out, one task each; every attempt is in the log."""

    def __init__(self, tracker: CommandsHost) -> None:
        self._tracker = tracker
        self._tasks: set[asyncio.Task[None]] = set()
        device, ttl = ("device",), ("ttl_s",)
        operator, admin = Role.OPERATOR, Role.ADMIN
        self._rules = {
            "device.drain": _Rule(operator, device, ("why",), self._admin(Admin.DRAIN)),
            "device.enable": _Rule(operator, device, ("why",), self._admin(Admin.ENABLED)),
            "device.quarantine": _Rule(
                operator, ("device", "why"), (), self._admin(Admin.MAINTENANCE)
            ),
            "device.retire": _Rule(operator, device, ("why",), self._admin(Admin.RETIRED)),
            "device.probe": _Rule(operator, device, (), self._probe),
            "lease.revoke": _Rule(Role.USER, ("lease",), ("why", "drain"), self._revoke_lease),
            "token.issue": _Rule(
                admin, ("name",), ("tenant", "role", "scopes", *ttl), self._issue_token
            ),
            "token.ls": _Rule(admin, (), (), self._list_tokens, logged=False),
            "token.revoke": _Rule(admin, ("id",), (), self._revoke_token),
            "join.issue": _Rule(admin, (), ("agent", "labels", *ttl), self._issue_code),
            "join.ls": _Rule(admin, (), (), self._list_codes, logged=False),
            "agent.ls": _Rule(Role.VIEWER, (), (), self._list_agents, logged=False),
            "agent.revoke": _Rule(admin, ("agent",), (), self._revoke_agent),
        }

    def carry_out(self, client: Asker, message: Command) -> None:
        """Do what `client` says, if it may."""
        task = asyncio.get_running_loop().create_task(self._serve(client, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: Asker, message: Command) -> None:
        try:
            made = await self.run(client.who, message.what, message.arguments)
        except LoopwrightError as error:
            client.failed(message.id, _code(error), str(error))
            return
        client.send(Done(message.id, _encode(made)))

    async def run(self, who: Principal, what: str, arguments: Arguments) -> Made:
        """Do `what` for `who`.

        Raises: UnknownNameError, NoDeviceError for what is not there; ConfigError for an invalid
            argument; AuthError without the role; StoreError when it could not be saved.
        """
        rule = self._rules.get(what)
        if rule is None:
            raise UnknownNameError(f"no command {what[:40]!r}; there are {', '.join(self._rules)}")
        tracker = self._tracker
        subject = next((arguments[key][:_WHY] for key in rule.needed if key in arguments), "")
        try:
            require_role(who, rule.role, what)
            _check(what, rule, arguments)
            made = await rule.run(who, arguments)
        except LoopwrightError as error:
            if isinstance(error, Denied):
                tracker.link_tally.count(error.fault)
            tracker.audit(f"{what}.refused", subject, who.name, str(error))
            raise
        if rule.logged:
            tracker.audit(what, subject, who.name, arguments.get("why", "")[:_WHY])
        return made

    # --- devices and leases ---

    def _admin(self, admin: Admin) -> Callable[[Principal, Arguments], Awaitable[Made]]:
        async def run(who: Principal, arguments: Arguments) -> Made:
            device, why = arguments["device"], arguments.get("why", "")[:_WHY]
            self._need_device(who, device)
            self._tracker.happened(AdminSet(device, admin, who.name, why))
            await self._tracker.saved()
            return {"device": device, "admin": admin.value}

        return run

    async def _probe(self, who: Principal, arguments: Arguments) -> Made:
        device = arguments["device"]
        self._need_device(who, device)
        self._tracker.happened(ProbeAsked(device))
        return {"device": device}

    async def _revoke_lease(self, who: Principal, arguments: Arguments) -> Made:
        name, why = arguments["lease"], arguments.get("why", "")[:_WHY]
        book = self._tracker.book
        found = book.lease(name) or book.request(name)
        if found is None:
            raise UnknownNameError(f"no lease or request {name!r} lives; see `lease ls`")
        drain = arguments.get("drain", "no")
        if drain not in ("yes", "no"):
            raise ConfigError(f"drain {drain!r} is neither yes nor no")
        if drain == "yes":
            require_role(who, Role.OPERATOR, "to drain a device")
            if not found.device:
                raise ConfigError(f"{name} waits for a device and has none that could be drained")
        if found.tenant != who.tenant:
            require_role(who, Role.OPERATOR, f"to revoke a lease of {found.tenant}")
        if who.scopes and found.device and (drain == "yes" or found.tenant != who.tenant):
            self._need_device(who, found.device)
        self._tracker.happened(Revoked(name, who.name, why, drain == "yes"))
        await self._tracker.saved()
        return {"lease": name, "device": found.device, "drained": drain == "yes"}

    def _need_device(self, who: Principal, name: str) -> None:
        """Check that there is such a device and `who` may change it."""
        found = self._tracker.book.device(name)
        if found is None:
            raise NoDeviceError(f"no device is named {name!r}; see `device ls`")
        if who.scopes and found.labels.get(POOL) not in who.scopes:
            pools = ", ".join(sorted(who.scopes))
            raise Denied(
                Fault.WRONG_SCOPE, f"{name} is outside of what {who.name} may use: {POOL} {pools}"
            )

    # --- who may come in ---

    async def _issue_token(self, _: Principal, arguments: Arguments) -> Made:
        name = _named(arguments["name"], "a token's owner")
        tenant = _named(arguments.get("tenant", name), "a tenant")
        role = _role(arguments.get("role", "user"))
        scopes = frozenset(_scopes(arguments.get("scopes", "")))
        if scopes and role is Role.ADMIN:
            raise ConfigError("an admin may issue any token: one with scopes limits nothing")
        who = Principal(name, tenant, role, scopes)
        expires_at = self._expiry(arguments, _TOKEN_S, forever=True)
        issued = make_token()
        await self._tracker.directory.add_token(issued, who, expires_at)
        return {"id": issued.id, "token": issued.text, "expires": expires_at}

    async def _list_tokens(self, _: Principal, __: Arguments) -> Made:
        return [
            {
                "id": row.id,
                "name": row.principal.name,
                "tenant": row.principal.tenant,
                "role": row.principal.role.name.lower(),
                "scopes": sorted(row.principal.scopes),
                "expires": row.expires_at,
                "revoked": row.revoked,
            }
            for row in self._tracker.directory.tokens.values()
        ]

    async def _revoke_token(self, _: Principal, arguments: Arguments) -> Made:
        name = arguments["id"]
        if not await self._tracker.directory.revoke_token(name):
            raise UnknownNameError(f"no token has the id {name!r}; see `token ls`")
        end = await self._tracker.end_token(name, f"token {name} was revoked")
        return {"id": name, "closed": end.connections, "leases": list(end.leases)}

    async def _issue_code(self, _: Principal, arguments: Arguments) -> Made:
        agent = arguments.get("agent", "")
        if agent:
            _named(agent, "an agent")
        labels = _labels(arguments.get("labels", ""))
        expires_at = self._expiry(arguments, _JOIN_S)
        issued = make_code()
        await self._tracker.directory.add_code(issued, expires_at or 0.0, agent, labels)
        return {"id": issued.id, "code": issued.text, "expires": expires_at}

    async def _list_codes(self, _: Principal, __: Arguments) -> Made:
        return [
            {
                "id": row.code.id,
                "agent": row.code.agent,
                "labels": row.labels,
                "expires": row.code.expires_at,
                "used_by": row.used_by,
            }
            for row in self._tracker.directory.joins.values()
        ]

    async def _list_agents(self, _: Principal, __: Arguments) -> Made:
        tracker = self._tracker
        return [
            {
                "name": row.name,
                "revoked": row.revoked,
                "connected": tracker.devices_of(row.name) is not None,
                "devices": tracker.devices_of(row.name) or 0,
                "labels": row.labels,
            }
            for row in tracker.directory.agents.values()
        ]

    async def _revoke_agent(self, _: Principal, arguments: Arguments) -> Made:
        name = arguments["agent"]
        if not await self._tracker.directory.revoke_agent(name):
            raise UnknownNameError(f"no agent is named {name!r}; see `agent ls`")
        self._tracker.close_agent(name, f"agent {name} was revoked")
        return {"agent": name}

    def _expiry(
        self, arguments: Arguments, default_s: float, *, forever: bool = False
    ) -> float | None:
        text = arguments.get("ttl_s")
        try:
            seconds = default_s if text is None else float(text)
        except ValueError:
            seconds = -1.0
        if forever and seconds == 0.0:
            return None
        if not 0.0 < seconds <= _MAX_S:
            zero = ", or 0 for ever" if forever else ""
            raise ConfigError(f"ttl_s {text!r} is not within 0 to {_MAX_S:.0f} seconds{zero}")
        return self._tracker.directory.now() + seconds


def _check(what: str, rule: _Rule, arguments: Arguments) -> None:
    missing = [key for key in rule.needed if not arguments.get(key)]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}")
    unknown = set(arguments).difference(rule.needed, rule.possible)
    if unknown:
        known = ", ".join((*rule.needed, *rule.possible)) or "nothing"
        raise ConfigError(f"{what} has no argument {min(unknown)}; it takes {known}")


def _code(error: LoopwrightError) -> ErrorCode:
    return next((code for kind, code in _CODES if isinstance(error, kind)), ErrorCode.FAILED)


def _role(text: str) -> Role:
    try:
        return Role[text.upper()]
    except KeyError:
        known = ", ".join(role.name.lower() for role in Role)
        raise ConfigError(f"no role {text!r}; there are {known}") from None


def _scopes(text: str) -> list[str]:
    """The pools of `a,b`."""
    found = [_named(part.strip(), "a pool") for part in text.split(",") if part.strip()]
    if len(found) > _MAX_SCOPES:
        raise ConfigError(f"{len(found)} scopes; a token has at most {_MAX_SCOPES}")
    return found


def _named(text: str, what: str) -> str:
    """`text`, which can name `what`.

    Raises: ConfigError otherwise: a slip by somebody who may give the command is not an attack.
    """
    try:
        return check_name(text, what)
    except Denied as error:
        raise ConfigError(str(error)) from error


def _labels(text: str) -> dict[str, str]:
    """Labels of `a=b,c=d`."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"label {part!r} is not KEY=VALUE")
        found[_named(key.strip(), "a label")] = value.strip()
    return found

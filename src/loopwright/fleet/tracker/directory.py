"""Who may come in: tokens, join codes and agents' keys, as a `handshake.Directory`.

Rows are kept in memory and changed only after the store has the change.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from loopwright.fleet.security.handshake import owner
from loopwright.fleet.security.keys import new_key
from loopwright.fleet.security.tokens import CodeRow, Issued, Principal, TokenRow
from loopwright.fleet.store.rows import AgentRow, Change, JoinRow, StoreContents
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.link import Link
from loopwright.fleet.words import Role

Save = Callable[[Sequence[Change]], Awaitable[None]]


class AccessDirectory:
    """Tokens, join codes and agents.

    Args:
        auth: whether strangers on this machine need a credential.
        wall: wall time in seconds.
        save: makes changes durable.
    """

    def __init__(
        self, kept: StoreContents, *, auth: bool, wall: Callable[[], float], save: Save
    ) -> None:
        self.tokens = {row.id: row for row in kept.tokens}
        self.joins = {row.code.id: row for row in kept.joins}
        self.agents = {row.name: row for row in kept.agents}
        self._auth = auth
        self._wall = wall
        self._save = save
        self._joining: set[str] = set()

    # --- what the handshake asks ---

    def now(self) -> float:
        """Wall time in seconds, for expiry."""
        return self._wall()

    async def token(self, name: str) -> TokenRow | None:
        """The row of the token with the id `name`."""
        return self.tokens.get(name)

    async def certified(self, name: str) -> TokenRow | None:
        """The token of `name` that is good now and allows least; None without one."""
        now = self._wall()
        good = [
            row
            for row in self.tokens.values()
            if row.principal.name == name
            and not row.revoked
            and (row.expires_at is None or now < row.expires_at)
        ]
        return min(good, key=_rights, default=None)

    async def code(self, name: str) -> CodeRow | None:
        """The row of the join code with the id `name`."""
        row = self.joins.get(name)
        return None if row is None else row.code

    async def enroll(self, code: CodeRow, agent: str) -> bytes | None:
        """Use up `code` for `agent` in one transaction: its new key, or None if it was used.

        Raises: Denied for an agent that has joined already; StoreError.
        """
        row = self.joins.get(code.id)
        if row is None or row.code.used or code.id in self._joining:
            return None
        known = self.agents.get(agent)
        if "/" in agent:
            raise Denied(Fault.BAD_NAME, f"agent {agent!r}: its name may not have a slash")
        if known is not None and not known.revoked:
            raise Denied(
                Fault.BAD_NAME,
                f"an agent named {agent} has joined already; choose another name, or revoke "
                "that one (agent revoke)",
            )
        made = AgentRow(agent, new_key(), row.labels)
        used = replace(row, code=replace(row.code, used=True), used_by=agent)
        self._joining.add(code.id)
        try:
            await self._save([made, used])
        finally:
            self._joining.discard(code.id)
        self.agents[agent] = made
        self.joins[code.id] = used
        return made.key

    async def agent_key(self, agent: str) -> bytes | None:
        """The key of an agent, None for one that is not known or was revoked."""
        row = self.agents.get(agent)
        return None if row is None or row.revoked else row.key

    def anonymous(self, link: Link, role: str) -> Principal | None:  # noqa: ARG002  # protocol
        """Who a peer without credentials is: the owner, or anybody on this machine without auth."""
        if owner(link):
            uid = os.getuid() if link.peer.uid is None else link.peer.uid
            return Principal(f"uid-{uid}", "local", Role.ADMIN)
        if not self._auth and link.peer.local:
            return Principal("anybody", "local", Role.OPERATOR)
        return None

    async def local_key(self, agent: str, link: Link) -> bytes:
        """The key of an agent that came in without a credential, made when it is new.

        A key that is kept seals tickets of devices that others trust: it is given again only to
        the user this tracker runs as, whom the kernel names.

        Raises: Denied for one that was revoked, and for a stranger with another agent's name;
            StoreError.
        """
        row = self.agents.get(agent)
        if row is not None and row.revoked:
            raise Denied(Fault.UNKNOWN_AGENT, f"agent {agent} was revoked; choose another name")
        if row is not None and not owner(link):
            raise Denied(
                Fault.BAD_NAME,
                f"an agent named {agent} has a key already; come with it, or choose another name",
            )
        if row is None:
            row = AgentRow(agent, new_key())
            await self._save([row])
            self.agents[agent] = row
        return row.key

    # --- what the tracker and its commands ask ---

    def key(self, agent: str) -> bytes | None:
        """The key for an agent's tickets."""
        row = self.agents.get(agent)
        return None if row is None else row.key

    def labels(self, agent: str) -> Mapping[str, str]:
        """Labels that an agent's devices get whatever it says."""
        row = self.agents.get(agent)
        return {} if row is None else row.labels

    async def add_token(self, issued: Issued, who: Principal, expires_at: float | None) -> TokenRow:
        """Keep a new token."""
        row = TokenRow(issued.id, issued.digest, who, expires_at)
        await self._save([row])
        self.tokens[row.id] = row
        return row

    async def revoke_token(self, name: str) -> bool:
        """Revoke a token; False for one that is not known."""
        row = self.tokens.get(name)
        if row is None:
            return False
        await self._save([replace(row, revoked=True)])
        self.tokens[name] = replace(row, revoked=True)
        return True

    async def add_code(
        self, issued: Issued, expires_at: float, agent: str, labels: Mapping[str, str]
    ) -> JoinRow:
        """Keep a new join code."""
        row = JoinRow(CodeRow(issued.id, issued.digest, expires_at, agent), labels)
        await self._save([row])
        self.joins[issued.id] = row
        return row

    async def revoke_agent(self, name: str) -> bool:
        """Revoke an agent; False for one that is not known."""
        row = self.agents.get(name)
        if row is None:
            return False
        await self._save([replace(row, revoked=True)])
        self.agents[name] = replace(row, revoked=True)
        return True


def _rights(row: TokenRow) -> tuple[int, bool, str]:
    """Grows with what a token allows."""
    return int(row.principal.role), not row.principal.scopes, row.id

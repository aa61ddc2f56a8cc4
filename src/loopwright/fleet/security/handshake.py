"""How two sides of a link find out who the other is: both sides of each way to do it.

`greet` and `welcome` are the two sides of a control connection: of a client or an agent with the
tracker. `open_session` and `accept_session` are the two sides of a direct session with a device.
Secrets go over a link only when it is TLS or stays on this machine; keys never do, except once, to
an agent that joins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeAlias, TypeVar, assert_never

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.security.mac import channel_macs
from loopwright.fleet.security.proofs import (
    Purpose,
    channel_key,
    check_proof,
    new_nonce,
    prove,
)
from loopwright.fleet.security.tickets import DeviceState, Ticket, check_ticket, session_key, unseal
from loopwright.fleet.security.tokens import (
    CodeRow,
    Principal,
    TokenRow,
    check_code,
    check_token,
    code_id,
    token_id,
)
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.fields import check_name
from loopwright.fleet.wire.link import Link
from loopwright.fleet.wire.messages import (
    PROTOCOL,
    PROTOCOL_MIN,
    Challenge,
    Error,
    Hello,
    Message,
    Open,
    Opened,
    Proof,
    Welcome,
)
from loopwright.fleet.words import ErrorCode, Role
from loopwright.version import __version__

HANDSHAKE_S = 3.0
_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Anonymous:
    """The kernel says who it is (unix socket), or it is this process. An agent has a name."""

    agent: str = ""


@dataclass(frozen=True, slots=True)
class ByToken:
    """A token of a person or a service."""

    text: str

    def __repr__(self) -> str:
        return "ByToken(...)"


@dataclass(frozen=True, slots=True)
class ByCode:
    """A one-time code with which the agent `agent` joins."""

    agent: str
    text: str

    def __repr__(self) -> str:
        return f"ByCode({self.agent!r}, ...)"


@dataclass(frozen=True, slots=True)
class ByKey:
    """The key that `agent` got when it joined."""

    agent: str
    key: bytes

    def __repr__(self) -> str:
        return f"ByKey({self.agent!r}, ...)"


@dataclass(frozen=True, slots=True)
class ByCertificate:
    """The certificate of a person or a service, shown when the link was made."""


Credential: TypeAlias = Anonymous | ByToken | ByCode | ByKey | ByCertificate


@dataclass(frozen=True, slots=True)
class Facts:
    """What a tracker says of itself when it welcomes."""

    tracker: str
    tracker_epoch: int
    sync_ms: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who was admitted. `agent` is the name of an agent, empty for a client.

    `token` is the id of the token whose rights a client has, empty for one that has others.
    """

    principal: Principal
    hello: Hello
    proto: int
    agent: str = ""
    token: str = ""


class Directory(Protocol):
    """What a tracker knows of those who may connect."""

    def now(self) -> float:
        """Wall time in seconds, for expiry."""

    async def token(self, name: str) -> TokenRow | None:
        """The row of the token with the id `name`."""

    async def certified(self, name: str) -> TokenRow | None:
        """The valid token of the client that a certificate names; None without one."""

    async def code(self, name: str) -> CodeRow | None:
        """The row of the join code with the id `name`."""

    async def enroll(self, code: CodeRow, agent: str) -> bytes | None:
        """Use up `code` for `agent` in one transaction: its new key, or None if it was used."""

    async def agent_key(self, agent: str) -> bytes | None:
        """The key of an agent, None for one that is not known or was revoked."""

    def anonymous(self, link: Link, role: str) -> Principal | None:
        """Who a peer without credentials is; None refuses it. See `owner`."""

    async def local_key(self, agent: str, link: Link) -> bytes:
        """The key of an agent that was admitted without a credential, made when it is new.

        Raises: Denied for a name that the other end may not have.
        """


def owner(link: Link) -> bool:
    """Whether the kernel says that the peer is the user this process runs as, or root."""
    return link.peer.uid is not None and link.peer.uid in (0, os.getuid())


# --- control connections: with a tracker ---


async def greet(
    link: Link, role: str, credential: Credential, *, trace: str = "", timeout_s: float = 5.0
) -> Welcome:
    """Register with a tracker as `role` ("client" or "agent").

    Raises: AuthError when refused; FleetError when the other side speaks another protocol.
    """
    link.send(_hello(link, role, credential, trace))
    if isinstance(credential, ByKey):
        answer = await _greet_with_key(link, credential.key, timeout_s)
    else:
        answer = await expect(link, Welcome, timeout_s)
    if not PROTOCOL_MIN <= answer.proto <= PROTOCOL:
        raise FleetError(f"the tracker chose protocol {answer.proto}, which was not offered")
    link.established()
    return answer


async def _greet_with_key(link: Link, key: bytes, timeout_s: float) -> Welcome:
    challenge, nonce = await expect(link, Challenge, timeout_s), new_nonce()
    link.send(Proof(prove(key, Purpose.AGENT, challenge.nonce, nonce), nonce))
    if challenge.mac or not private(link):
        link.protect(*channel_macs(channel_key(key, nonce, challenge.nonce), dialer=True))
    answer = await expect(link, Welcome, timeout_s)
    _check_answer(link, answer.proof, key, Purpose.TRACKER, nonce, challenge.nonce)
    return answer


def _hello(link: Link, role: str, credential: Credential, trace: str) -> Hello:
    principal = secret = ""
    match credential:
        case Anonymous(agent):
            auth, principal = "none", agent
        case ByToken(text):
            auth, secret = "token", text
        case ByCode(agent, text):
            auth, principal, secret = "join", agent, text
        case ByKey(agent, _):
            auth, principal = "key", agent
        case ByCertificate():
            auth = "certificate"
        case _:
            assert_never(credential)
    if secret and not private(link):
        raise AuthError(
            f"not sending a secret to {link.peer.address} in the clear; use tls:// and --ca"
        )
    software = f"loopwright {__version__}"
    return Hello(
        role=role,
        proto_min=PROTOCOL_MIN,
        proto_max=PROTOCOL,
        software=software,
        auth=auth,
        principal=principal,
        secret=secret,
        trace=trace,
        mac=not private(link),
    )


async def welcome(
    link: Link,
    directory: Directory,
    facts: Facts,
    *,
    hello: Hello | None = None,
    timeout_s: float = HANDSHAKE_S,
) -> Admitted:
    """Admit the other side, or refuse it; refusals are counted in the link's tally.

    Args:
        hello: its first message, if that was read already.

    Raises: Denied, FleetError.
    """
    try:
        if hello is None:
            hello = await expect(link, Hello, timeout_s)
        admitted, key, proof = await _admit(link, directory, hello, timeout_s)
    except FleetError as error:
        refuse(link, error)
    who = admitted.principal
    link.send(
        Welcome(
            proto=admitted.proto,
            tracker=facts.tracker,
            tracker_epoch=facts.tracker_epoch,
            sync_ms=facts.sync_ms,
            principal=who.name,
            role=int(who.role),
            device_key=key,
            proof=proof,
        )
    )
    link.established()
    return admitted


async def _admit(
    link: Link, directory: Directory, hello: Hello, timeout_s: float
) -> tuple[Admitted, bytes, bytes]:
    """Who `hello` is from, the key that an agent which joins gets, and the tracker's own proof."""
    if hello.role not in ("agent", "client"):
        raise Denied(Fault.PROTOCOL, f"a hello as {hello.role!r}; agent or client is possible")
    proto = _negotiated(link, hello)
    agent = check_name(hello.principal, "an agent") if hello.role == "agent" else ""
    key = proof = b""
    token = ""
    match hello.auth:
        case "none":
            who = directory.anonymous(link, hello.role)
            if who is None:
                wanted = "a join code" if agent else "a token"
                option = "--join" if agent else "--token"
                raise Denied(Fault.NO_CREDENTIAL, f"{wanted} is needed here; give it with {option}")
            if agent:
                key = await directory.local_key(agent, link)
        case "token" if hello.role == "client":
            _need_private(link)
            token = token_id(hello.secret)
            who = check_token(hello.secret, await directory.token(token), directory.now())
        case "certificate" if hello.role == "client":
            row = await _certified(link, directory)
            token, who = row.id, row.principal
        case "join" if hello.role == "agent":
            _need_private(link)
            key = await _join(directory, hello)
            who = _agent(agent)
        case "key" if hello.role == "agent":
            proof = await _challenge_agent(link, directory, hello, timeout_s)
            who = _agent(agent)
        case _:
            raise Denied(
                Fault.NO_CREDENTIAL,
                f"{hello.auth[:16]!r} does not admit a {hello.role} here",
            )
    return Admitted(who, hello, proto, agent, token), key, proof


async def _certified(link: Link, directory: Directory) -> TokenRow:
    name = link.peer.certificate
    if not name:
        raise Denied(
            Fault.NO_CREDENTIAL,
            "no certificate was asked for here (tracker serve --client-ca); come with a token",
        )
    row = await directory.certified(name)
    if row is None:
        raise Denied(
            Fault.UNKNOWN_TOKEN,
            f"the certificate names {name!r}, who has no valid token here; ask for one",
        )
    return row


def _agent(name: str) -> Principal:
    return Principal(name, "", Role.VIEWER)


async def _join(directory: Directory, hello: Hello) -> bytes:
    agent = hello.principal
    row = await directory.code(code_id(hello.secret))
    check_code(hello.secret, row, agent, directory.now())
    key = None if row is None else await directory.enroll(row, agent)
    if key is None:
        raise Denied(Fault.USED_CODE, "the join code was used; each is good for one agent")
    return key


async def _challenge_agent(
    link: Link, directory: Directory, hello: Hello, timeout_s: float
) -> bytes:
    agent = hello.principal
    known = await directory.agent_key(agent)
    key = new_nonce() if known is None else known  # an unknown agent is challenged like any other
    nonce = new_nonce()
    protect = hello.mac or not private(link)
    link.send(Challenge(nonce, protect))
    proof = await expect(link, Proof, timeout_s)
    if known is None:
        raise Denied(
            Fault.UNKNOWN_AGENT, f"agent {agent} is not known here, or its key is not the right one"
        )
    check_proof(proof.mac, key, Purpose.AGENT, challenger=nonce, prover=proof.nonce)
    if protect:
        link.protect(*channel_macs(channel_key(key, proof.nonce, nonce), dialer=False))
    return prove(key, Purpose.TRACKER, proof.nonce, nonce)


# --- direct sessions: with a device ---


async def open_session(
    link: Link,
    ticket: bytes,
    key: bytes,
    *,
    trace: str = "",
    mac: bool = False,
    timeout_s: float = 5.0,
) -> Opened:
    """Open the session that `ticket` is for; `key` came with it.

    Args:
        mac: authenticate frames even where it is not needed.

    Raises: AuthError when the device refuses the ticket, or cannot prove that it has the key.
    """
    nonce = new_nonce()
    mac = mac or not private(link)
    link.send(Open(ticket=ticket, nonce=nonce, trace=trace, mac=mac))
    challenge = await expect(link, Challenge, timeout_s)
    link.send(Proof(prove(key, Purpose.SESSION, challenge.nonce, nonce), nonce))
    if mac or challenge.mac:
        link.protect(*channel_macs(channel_key(key, nonce, challenge.nonce), dialer=True))
    answer = await expect(link, Proof, timeout_s)
    _check_answer(link, answer.mac, key, Purpose.DEVICE, nonce, challenge.nonce)
    opened = await expect(link, Opened, timeout_s)
    link.established()
    return opened


async def accept_session(
    link: Link,
    device_key: bytes,
    state: Callable[[str], DeviceState | None],
    *,
    first: Open | None = None,
    timeout_s: float = HANDSHAKE_S,
) -> Ticket:
    """Check who wants a session. After it the device ends an older one and sends Opened.

    Args:
        state: what a device of this agent knows of itself, None for a name it does not have.
        first: the first message, if that was read already.

    Raises: Denied, counted in the link's tally.
    """
    try:
        if first is None:
            first = await expect(link, Open, timeout_s)
        _negotiated(link, first)
        ticket = unseal(first.ticket, device_key)
        check_ticket(ticket, _known(state, ticket))
        key, nonce = session_key(device_key, first.ticket), new_nonce()
        protect = first.mac or not private(link)
        link.send(Challenge(nonce, protect))
        proof = await expect(link, Proof, timeout_s)
        check_proof(proof.mac, key, Purpose.SESSION, challenger=nonce, prover=first.nonce)
        check_ticket(ticket, _known(state, ticket))  # another may have come in meanwhile
    except FleetError as error:
        refuse(link, error)
    if protect:
        link.protect(*channel_macs(channel_key(key, first.nonce, nonce), dialer=False))
    link.send(Proof(prove(key, Purpose.DEVICE, first.nonce, nonce)))
    link.established()
    return ticket


def _known(state: Callable[[str], DeviceState | None], ticket: Ticket) -> DeviceState:
    known = state(ticket.device)
    if known is None:
        raise Denied(Fault.OTHER_DEVICE, f"there is no device {ticket.device} here")
    return known


# --- common to both ---


def private(link: Link) -> bool:
    """Whether a secret may go over `link`."""
    return link.peer.tls or link.peer.local


def refuse(link: Link, error: FleetError) -> NoReturn:
    """Tell the other side why, count it, close, and raise `error`."""
    if isinstance(error, Denied):
        link.tally.count(error.fault)
    if not link.closed:
        link.send(
            Error(
                code=ErrorCode.AUTH if isinstance(error, AuthError) else ErrorCode.PROTOCOL,
                detail=str(error)[:500],
            )
        )
        link.close(str(error))
    raise error


def _negotiated(link: Link, first: Hello | Open) -> int:
    """The newest protocol that both sides speak.

    Raises: FleetError, counted, when there is none.
    """
    version = min(PROTOCOL, first.proto_max)
    if version < max(PROTOCOL_MIN, first.proto_min):
        link.tally.count(Fault.PROTOCOL)
        raise FleetError(
            f"the other side speaks protocol {first.proto_min} to {first.proto_max}, this one "
            f"{PROTOCOL_MIN} to {PROTOCOL}; versions may be apart by one, update the older"
        )
    return version


async def expect(link: Link, kind: type[_M], timeout_s: float) -> _M:
    """The next message, which is a `kind`.

    Raises: AuthError or FleetError when it is an Error, retryable where a device has no process
        for a session just now; FleetError when it is something else, or nothing came in time.
    """
    try:
        message = await link.receive(timeout_s)
    except TimeoutError as error:
        raise FleetError(
            f"{link.peer.address} sent no {kind.__name__} within {timeout_s} s", retryable=True
        ) from error
    if isinstance(message, kind):
        return message
    if isinstance(message, Error):
        said = f"{link.peer.address}: {message.detail}"
        if message.code == ErrorCode.AUTH:
            raise AuthError(said)
        raise FleetError(said, retryable=message.code == ErrorCode.DEVICE)
    link.tally.count(Fault.UNEXPECTED)
    raise FleetError(
        f"{link.peer.address} sent {type(message).__name__}, {kind.__name__} was expected"
    )


def _check_answer(
    link: Link, mac: bytes, key: bytes, purpose: Purpose, ours: bytes, theirs: bytes
) -> None:
    try:
        check_proof(mac, key, purpose, challenger=ours, prover=theirs)
    except Denied as error:
        refuse(link, error)


def _need_private(link: Link) -> None:
    if not private(link):
        raise Denied(
            Fault.PLAIN_SECRET,
            "a secret came in the clear and must not be used again; use tls:// and a new one",
        )

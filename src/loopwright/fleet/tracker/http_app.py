"""The routes of the tracker's HTTP front: JSON, events, metrics and a dashboard.

It runs in the tracker's own event loop and asks the tracker itself, so it sees what the protocol
sees. Imported only when HTTP is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from loopwright.errors import AuthError, UnknownNameError
from loopwright.fleet.security.tokens import Principal, check_token, token_id
from loopwright.fleet.store.rows import StoreError
from loopwright.fleet.tracker import http_metrics
from loopwright.fleet.tracker.asks import event_view
from loopwright.fleet.tracker.http_events import AuditLog
from loopwright.fleet.tracker.http_feed import Feed
from loopwright.fleet.tracker.server import Tracker
from loopwright.fleet.views import DeviceView, EventView, ExplanationView, LeaseView
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.messages import Ask
from loopwright.fleet.words import Role
from loopwright.serving.app import Site, answers, make_app
from loopwright.serving.bodies import (
    STREAM,
    array_answer,
    event_answer,
    json_answer,
    read_texts,
)
from loopwright.serving.callers import Authorization, Caller, caller_of
from loopwright.serving.metrics import CONTENT_TYPE
from loopwright.serving.problems import FORBIDDEN, JSON, busy, problems
from loopwright.serving.server import HttpServer
from loopwright.serving.streams import stream

_EVENTS_MOST = 1000
_COMMAND_REFUSALS = (400, 403, 404, 408, 409, 413, 415, 503)
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_PAGES = {"/": "dashboard.html", "/docs": "api.html"}


@dataclass(frozen=True, slots=True)
class Front:
    """What the routes work with; a `Gate` for those who ask."""

    tracker: Tracker
    feed: Feed

    def check(self, secret: str) -> Principal:
        """Who has the token. Raises: Denied."""
        directory = self.tracker.directory
        return check_token(secret, directory.tokens.get(token_id(secret)), directory.now())

    def local(self) -> Principal | None:
        """Who asks from this machine: anybody, where there is no authentication."""
        auth = self.tracker.config.auth
        return None if auth else Principal("anybody", "local", Role.OPERATOR)

    def refused(self, host: str, error: AuthError) -> None:
        """Count and log a refusal."""
        fault = error.fault if isinstance(error, Denied) else Fault.NO_CREDENTIAL
        self.tracker.link_tally.count(fault)
        self.tracker.denied(f"http {host}", error)


async def _front(request: Request) -> Front:  # in the loop: what is not async goes to a thread
    front: Front = request.app.state.front
    return front


FrontHere = Annotated[Front, Depends(_front)]


async def _caller(
    request: Request, front: FrontHere, authorization: Authorization = ""
) -> Caller[Principal]:
    return caller_of(request, front, authorization)


CallerHere = Annotated[Caller[Principal], Depends(_caller)]

api = APIRouter(prefix="/api/v1", dependencies=[Depends(_caller)], responses=problems(401))
public = APIRouter()


def _ask(front: Front, what: str, *, selector: str = "", name: str = "") -> bytes:
    page = front.tracker.asks.page(Ask(0, what, selector, name))
    return b"[]" if page is None else page.body


def _pages(front: Front, what: str, selector: str = "") -> Iterator[bytes]:
    """All the rows, some at a time."""
    after, first = "", True
    while first or after:
        page = front.tracker.asks.page(Ask(0, what, selector, "", after))
        if page is None:
            return
        yield page.body
        after, first = page.more, False


# --- what there is ---


@api.get("/status", summary="How the tracker is", responses={200: {"description": "Figures."}})
async def status(front: FrontHere) -> Response:
    """The tracker's figures by name."""
    return json_answer(_ask(front, "status"))


@api.get("/devices", summary="The devices", responses=answers(DeviceView, 400, many=True))
async def devices(
    front: FrontHere,
    selector: Annotated[str, Query(description="As board=rpi4,kind=cpu", max_length=1024)] = "",
) -> Response:
    """Devices that match, in order of name."""
    front.tracker.book.names(selector)  # says no before the answer begins
    return array_answer(_pages(front, "devices", selector))


@api.get("/devices/{name:path}", summary="One device", responses=answers(DeviceView, 404))
async def device(front: FrontHere, name: str) -> Response:
    """All that is known of a device."""
    return json_answer(
        _only(_ask(front, "devices", name=name[:128]), f"no device is named {name!r}")
    )


@api.get("/leases", summary="Leases and requests", responses=answers(LeaseView, many=True))
async def leases(front: FrontHere) -> Response:
    """The leases that live and the requests that wait."""
    return array_answer(_pages(front, "leases"))


@api.get("/leases/{name:path}/explain", summary="Why", responses=answers(ExplanationView, 404))
async def explain(front: FrontHere, name: str) -> Response:
    """Why a request waits, how a lease stands, or why it ended."""
    body = _ask(front, "explain", name=name[:128])
    if body == b"null":
        raise UnknownNameError(f"no lease or request {name!r} is known")
    return json_answer(body)


@api.get("/leases/{name:path}", summary="One lease or request", responses=answers(LeaseView, 404))
async def lease(front: FrontHere, name: str) -> Response:
    """All that is known of a lease or a request."""
    return json_answer(_only(_ask(front, "leases", name=name[:128]), f"no lease {name!r} lives"))


@api.get("/events", summary="What happened", responses=answers(EventView, 400, 503, many=True))
async def events(
    front: FrontHere,
    after: Annotated[int, Query(ge=0, description="The number of the last one known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_EVENTS_MOST)] = 200,
) -> Response:
    """Events in order, as far as they are kept."""
    found = await AuditLog(front.tracker).read(after, limit)
    return json_answer(msgspec.json.encode([event_view(logged) for logged in found]))


def _only(rows: bytes, missing: str) -> bytes:
    found = msgspec.json.decode(rows, type=list[msgspec.Raw])
    if not found:
        raise UnknownNameError(missing)
    return bytes(found[0])


# --- what may be changed ---


@api.post(
    "/commands/{what}",
    summary="Change something",
    responses={
        200: {"description": "Done.", "content": {JSON: {"schema": {}}}},
        **problems(*_COMMAND_REFUSALS),
    },
    openapi_extra={"requestBody": {"content": {JSON: {"schema": _TEXTS}}}},
)
async def command(front: FrontHere, caller: CallerHere, what: str, request: Request) -> Response:
    """What the commands of `loopwright` do: device.drain, lease.revoke, token.issue and so on.

    The body is a JSON object of text, as {"device": "pi3/cpu0", "why": "moving house"}.
    """
    arguments = await read_texts(request)
    made = await front.tracker.commands.run(caller.who, what, arguments)
    return json_answer(msgspec.json.encode(made))


# --- streams ---


@public.get(
    "/events",
    summary="What happens, as server-sent events",
    responses={
        200: {"description": "Events.", "content": {STREAM: {}}},
        **problems(400, 401, 503),
    },
)
async def event_stream(
    front: FrontHere,
    caller: CallerHere,
    after: Annotated[int | None, Query(ge=0, description="Begin after this number.")] = None,
    last_event_id: Annotated[str, Header(max_length=32)] = "",
) -> Response:
    """Each event with its number as `id`, from now on or from `after`, never one left out."""
    if last_event_id.isdigit():
        after = int(last_event_id)
    if front.feed.full:
        raise busy()
    return event_answer(stream(AuditLog(front.tracker), after, caller.allowed))


@public.get("/live", summary="What the dashboard watches", include_in_schema=False)
async def live(front: FrontHere, caller: CallerHere) -> Response:
    """All devices and leases in short, then what changes."""
    if front.feed.full:
        raise busy()
    return event_answer(front.feed.watch(caller.allowed))


# --- for machines that watch ---


@public.get(
    "/metrics",
    summary="Figures for Prometheus",
    responses={200: {"description": "Figures.", "content": {"text/plain": {}}}, **problems(401)},
)
async def metrics(
    front: FrontHere,
    caller: CallerHere,
    *,
    devices: Annotated[bool, Query(description="0 leaves the devices out.")] = True,
) -> Response:
    """The text format of Prometheus. Needs a token, as everything that tells of the fleet."""
    del caller
    page = http_metrics.render(front.tracker, devices=devices)
    return StreamingResponse(page, headers={"Content-Type": CONTENT_TYPE})


@public.get("/healthz", summary="Whether the process lives")
async def healthz() -> Response:
    """It answers, so it does."""
    return json_answer(b'{"alive":true}')


@public.get(
    "/readyz",
    summary="Whether devices can be leased",
    responses={503: {"description": "They cannot, and why."}},
)
async def readyz(front: FrontHere) -> Response:
    """200 when requests are served, 503 when the store cannot be written or is another's."""
    tracker = front.tracker
    why = ""
    if tracker.fenced is not None:
        why = "another tracker has begun on the store"
    elif tracker.book.read_only:
        why = "the store cannot be written"
    body = msgspec.json.encode({"ready": not why, "why": why})
    return json_answer(body, 503 if why else 200)


# --- all of it ---


def serve(server: HttpServer, tracker: Tracker) -> Feed:
    """Serve `tracker` on `server`, in the loop that runs now; the feed of its dashboards."""
    feed = Feed(tracker)
    web = resources.files("loopwright.fleet.tracker").joinpath("web")
    site = Site(
        title="Loopwright fleet",
        summary="A tracker's devices, leases and events.",
        routers=(public, api),
        pages={path: web.joinpath(name).read_bytes() for path, name in _PAGES.items()},
        schemas=(DeviceView, LeaseView, EventView, ExplanationView),
        known=_known,
    )
    app = make_app(site)
    app.state.front = Front(tracker, feed)
    server.start(app, feed.close)
    return feed


def _known(error: Exception) -> tuple[int, str] | None:
    """What a tracker's own errors are to HTTP."""
    match error:
        case Denied(fault=Fault.WRONG_ROLE | Fault.WRONG_SCOPE):
            return FORBIDDEN
        case StoreError():
            return 503, "store"
        case _:
            return None

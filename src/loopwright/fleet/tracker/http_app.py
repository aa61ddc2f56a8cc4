"""The routes of the tracker's HTTP front. Imported only when HTTP is served."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from loopwright.errors import UnknownNameError
from loopwright.fleet.client.views import DeviceView, EventView, ExplanationView, LeaseView
from loopwright.fleet.security.tokens import Principal, check_token, token_id
from loopwright.fleet.store.rows import Logged
from loopwright.fleet.tracker import http_events, http_metrics
from loopwright.fleet.tracker.http_feed import Feed
from loopwright.fleet.tracker.http_problems import KINDS, BodyError, Problem, answer, busy, problems
from loopwright.fleet.tracker.server import Tracker
from loopwright.fleet.wire.address import is_loopback
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.messages import Ask
from loopwright.fleet.words import Role
from loopwright.version import __version__

_JSON = "application/json"
_STREAM = "text/event-stream"
_BODY_BYTES = 64 << 10
_BODY_S = 10.0
_EVENTS_MOST = 1000
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Front:
    """What the routes work with."""

    tracker: Tracker
    feed: Feed
    loopback: bool


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `welcome` says whether that still holds: a token may be revoked meanwhile."""

    who: Principal
    welcome: Callable[[], bool]


async def _front(request: Request) -> Front:  # in the loop: what is not async goes to a thread
    front: Front = request.app.state.front
    return front


FrontHere = Annotated[Front, Depends(_front)]


async def _caller(
    request: Request,
    front: FrontHere,
    authorization: Annotated[str, Header(description="Bearer TOKEN", max_length=512)] = "",
) -> Caller:
    """Who asks, by the token of the header.

    Raises: Denied, counted and in the log.
    """
    host = request.client.host if request.client is not None else ""
    try:
        return _known(front, request, host, authorization)
    except Denied as error:
        front.tracker.link_tally.count(error.fault)
        front.tracker.denied(f"http {host}", error)
        raise


def _known(front: Front, request: Request, host: str, authorization: str) -> Caller:
    tracker = front.tracker
    scheme, _, text = authorization.strip().partition(" ")
    if not text:
        if not tracker.config.auth and is_loopback(host) and _asked_locally(request):
            return Caller(Principal("anybody", "local", Role.OPERATOR), lambda: True)
        raise Denied(
            Fault.NO_CREDENTIAL, "a token is needed here; send the header Authorization: Bearer ..."
        )
    if scheme.lower() != "bearer":
        raise Denied(Fault.NO_CREDENTIAL, "only Authorization: Bearer TOKEN is understood")
    secret = text.strip()
    name = token_id(secret)

    def check() -> Principal:
        directory = tracker.directory
        return check_token(secret, directory.tokens.get(name), directory.now())

    def welcome() -> bool:
        try:
            check()
        except Denied:
            return False
        return True

    return Caller(check(), welcome)


def _asked_locally(request: Request) -> bool:
    """Whether the page that asks, if it is one, was served under a name of this machine."""
    host = request.headers.get("host", "").rpartition(":")[0].strip("[]")
    return is_loopback(host)


CallerHere = Annotated[Caller, Depends(_caller)]

api = APIRouter(prefix="/api/v1", dependencies=[Depends(_caller)], responses=problems(401))
public = APIRouter()


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type=_JSON)


def _answers(
    kind: Any,  # noqa: ANN401  # a type
    *wrong: int,
    many: bool = False,
) -> dict[int | str, dict[str, Any]]:
    """What a route answers, and with which statuses it does not, for the OpenAPI page."""
    name = kind.__name__
    reference: dict[str, Any] = {"$ref": f"#/components/schemas/{name}"}
    schema = {"type": "array", "items": reference} if many else reference
    return {
        200: {"description": "Found.", "content": {_JSON: {"schema": schema}}},
        **problems(*wrong),
    }


def _ask(front: Front, what: str, *, selector: str = "", name: str = "") -> bytes:
    page = front.tracker.asks.page(Ask(0, what, selector, name))
    return b"[]" if page is None else page.body


async def _pages(front: Front, what: str, selector: str = "") -> AsyncIterator[bytes]:
    """An array of all the rows, in pieces between which the loop serves others."""
    after, first = "", True
    yield b"["
    while first or after:
        page = front.tracker.asks.page(Ask(0, what, selector, "", after))
        if page is None:
            break
        rows = page.body[1:-1]
        if rows:
            yield rows if first else b"," + rows
        after, first = page.more, False
        await asyncio.sleep(0)
    yield b"]"


# --- what there is ---


@api.get("/status", summary="How the tracker is", responses={200: {"description": "Figures."}})
async def status(front: FrontHere) -> Response:
    """The tracker's figures by name."""
    return _json(_ask(front, "status"))


@api.get("/devices", summary="The devices", responses=_answers(DeviceView, 400, many=True))
async def devices(
    front: FrontHere,
    selector: Annotated[str, Query(description="As board=rpi4,kind=cpu", max_length=1024)] = "",
) -> Response:
    """Devices that match, in order of name."""
    front.tracker.book.names(selector)  # says no before the answer begins
    return StreamingResponse(_pages(front, "devices", selector), media_type=_JSON)


@api.get("/devices/{name:path}", summary="One device", responses=_answers(DeviceView, 404))
async def device(front: FrontHere, name: str) -> Response:
    """All that is known of a device."""
    return _json(_only(_ask(front, "devices", name=name[:128]), f"no device is named {name!r}"))


@api.get("/leases", summary="Leases and requests", responses=_answers(LeaseView, many=True))
async def leases(front: FrontHere) -> Response:
    """The leases that live and the requests that wait."""
    return StreamingResponse(_pages(front, "leases"), media_type=_JSON)


@api.get("/leases/{name:path}/explain", summary="Why", responses=_answers(ExplanationView, 404))
async def explain(front: FrontHere, name: str) -> Response:
    """Why a request waits, how a lease stands, or why it ended."""
    body = _ask(front, "explain", name=name[:128])
    if body == b"null":
        raise UnknownNameError(f"no lease or request {name!r} is known")
    return _json(body)


@api.get("/leases/{name:path}", summary="One lease or request", responses=_answers(LeaseView, 404))
async def lease(front: FrontHere, name: str) -> Response:
    """All that is known of a lease or a request."""
    return _json(_only(_ask(front, "leases", name=name[:128]), f"no lease {name!r} lives"))


@api.get("/events", summary="What happened", responses=_answers(EventView, 400, 503, many=True))
async def events(
    front: FrontHere,
    after: Annotated[int, Query(ge=0, description="The number of the last one known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_EVENTS_MOST)] = 200,
) -> Response:
    """Events in order, as far as they are kept."""
    found = await asyncio.to_thread(front.tracker.store.events, after, limit)
    return _json(msgspec.json.encode([_event(logged) for logged in found]))


def _event(logged: Logged) -> EventView:
    event = logged.event
    return EventView(
        id=logged.id,
        at=event.at,
        what=event.what,
        subject=event.subject,
        by=event.by,
        detail=event.detail,
    )


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
        200: {"description": "Done.", "content": {_JSON: {"schema": {}}}},
        **problems(400, 403, 404, 408, 409, 413, 415, 503),
    },
    openapi_extra={"requestBody": {"content": {_JSON: {"schema": _TEXTS}}}},
)
async def command(front: FrontHere, caller: CallerHere, what: str, request: Request) -> Response:
    """What the commands of `loopwright` do: device.drain, lease.revoke, token.issue and so on.

    The body is a JSON object of text, as {"device": "pi3/cpu0", "why": "moving house"}.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise BodyError(415, "send a JSON object, with the header Content-Type: application/json")
    try:
        async with asyncio.timeout(_BODY_S):
            body = await _body(request)
    except TimeoutError as error:
        raise BodyError(408, f"the body did not come within {_BODY_S:g} s") from error
    try:
        arguments = msgspec.json.decode(body or b"{}", type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(400, f"the body is no JSON object of text: {error}") from error
    made = await front.tracker.commands.run(caller.who, what, arguments)
    return _json(msgspec.json.encode(made))


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY_BYTES:
            raise BodyError(413, f"the body has more than {_BODY_BYTES} bytes")
    return bytes(body)


# --- streams ---


@public.get(
    "/events",
    summary="What happens, as server-sent events",
    responses={
        200: {"description": "Events.", "content": {_STREAM: {}}},
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
    stream = http_events.stream(front.tracker, after, caller.welcome)
    return StreamingResponse(stream, media_type=_STREAM, headers={"Cache-Control": "no-store"})


@public.get("/live", summary="What the dashboard watches", include_in_schema=False)
async def live(front: FrontHere, caller: CallerHere) -> Response:
    """All devices and leases in short, then what changes."""
    if front.feed.full:
        raise busy()
    stream = front.feed.watch(caller.welcome)
    return StreamingResponse(stream, media_type=_STREAM, headers={"Cache-Control": "no-store"})


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
    return StreamingResponse(page, headers={"Content-Type": http_metrics.CONTENT_TYPE})


@public.get("/healthz", summary="Whether the process lives")
async def healthz() -> Response:
    """It answers, so it does."""
    return _json(b'{"alive":true}')


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
    return _json(body, 503 if why else 200)


# --- pages ---


def _page(name: str) -> Callable[[], Awaitable[Response]]:
    """A route that answers with a page of this package, whose own scripts alone may run."""
    body = resources.files("loopwright.fleet.tracker").joinpath("web", name).read_bytes()
    hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for kind, text in _INLINE.findall(body):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes[b'script'])}; style-src "
        f"{' '.join(hashes[b'style'])}; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }

    async def route() -> Response:
        return Response(body, media_type="text/html; charset=utf-8", headers=headers)

    return route


# --- all of it ---


def make_app(tracker: Tracker, feed: Feed, *, loopback: bool) -> FastAPI:
    """The application that serves `tracker`."""
    app = FastAPI(
        title="Loopwright fleet",
        version=__version__,
        summary="A tracker's devices, leases and events.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.front = Front(tracker, feed, loopback)
    app.include_router(public)
    app.include_router(api)
    app.add_api_route("/", _page("dashboard.html"), include_in_schema=False)
    app.add_api_route("/docs", _page("api.html"), include_in_schema=False)
    for kind in KINDS:
        app.add_exception_handler(kind, answer)
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = original()
            _mend(made)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI has it extended
    return app


def _mend(made: dict[str, Any]) -> None:
    """Say what is answered here, and not what FastAPI thinks."""
    for path in made["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # such arguments are answered by 400
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(_schemas())


def _schemas() -> dict[str, Any]:
    kinds = (DeviceView, LeaseView, EventView, ExplanationView, Problem)
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return dict(found)

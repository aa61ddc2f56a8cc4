"""A server that is no tracker, made of the parts of `serving`: who may ask, problems, streams."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import APIRouter, Depends, Request, Response

from loopwright.errors import AuthError, ConfigError, FleetError, UnknownNameError
from loopwright.serving.app import Site, answers, make_app
from loopwright.serving.bodies import array_answer, event_answer, json_answer, read_texts
from loopwright.serving.callers import Authorization, Caller, caller_of
from loopwright.serving.metrics import Family
from loopwright.serving.problems import FORBIDDEN
from loopwright.serving.server import HttpServer
from loopwright.serving.streams import LogEntry, Watchers, message, stream

PAGE = b"<!doctype html><style>b{}</style><script>let a = 1;</script>"
GOOD = {"Authorization": "Bearer good"}


class Job(msgspec.Struct, frozen=True):
    """What the server answers with."""

    name: str


class NotYoursError(FleetError):
    """An error that only this server knows."""


@dataclass
class Jobs:
    """A gate with one token, and a log in memory."""

    lets_local: bool = False
    tokens: set[str] = field(default_factory=lambda: {"good"})
    refusals: list[str] = field(default_factory=list)
    entries: list[LogEntry] = field(default_factory=list)
    tellers: list[Callable[[], None]] = field(default_factory=list)
    readable: bool = True

    def check(self, secret: str) -> str:
        if secret not in self.tokens:
            raise AuthError("that token is not good here")
        return "ada"

    def local(self) -> str | None:
        return "anybody" if self.lets_local else None

    def refused(self, host: str, error: AuthError) -> None:
        self.refusals.append(f"{host}: {error}")

    async def latest(self) -> int | None:
        return self.entries[-1].number if self.entries else 0

    async def after(self, number: int, count: int) -> Sequence[LogEntry] | None:
        found = [entry for entry in self.entries if entry.number > number]
        return found[:count] if self.readable else None

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        self.tellers.append(tell)
        return lambda: self.tellers.remove(tell)

    def add(self, event: str) -> None:
        number = len(self.entries) + 1
        self.entries.append(LogEntry(number, event, json.dumps({"n": number}).encode()))
        for tell in self.tellers:
            tell()


def site_of(jobs: Jobs) -> Site:
    router = APIRouter()

    async def caller(request: Request, authorization: Authorization = "") -> Caller[str]:
        return caller_of(request, jobs, authorization)

    here = Annotated[Caller[str], Depends(caller)]

    async def who(found: here) -> Response:
        return json_answer(json.dumps(found.who).encode())

    async def refuse(found: here, kind: str) -> Response:
        del found
        raise {"yours": NotYoursError("another's"), "name": UnknownNameError("no such job")}[kind]

    async def rows() -> Response:
        return array_answer([b"[1,2]", b"[]", b"[3]"])

    async def log(found: here, after: int | None = None) -> Response:
        return event_answer(stream(jobs, after, found.allowed))

    async def put(found: here, request: Request) -> Response:
        del found
        return json_answer(json.dumps(await read_texts(request)).encode())

    # Annotations of local functions are resolved by value, as this module's are text.
    for made, scope in ((who, here), (refuse, here), (log, here), (put, here)):
        made.__annotations__["found"] = scope
    router.add_api_route("/who", who, responses=answers(Job, 401))
    router.add_api_route("/refuse/{kind}", refuse)
    router.add_api_route("/rows", rows)
    router.add_api_route("/log", log)
    router.add_api_route("/put", put, methods=["POST"])

    def known(error: Exception) -> tuple[int, str] | None:
        return FORBIDDEN if isinstance(error, NotYoursError) else None

    return Site("Jobs", "Jobs of ours.", (router,), {"/": PAGE}, (Job,), known)


@asynccontextmanager
async def served(jobs: Jobs) -> AsyncIterator[httpx.AsyncClient]:
    with HttpServer("127.0.0.1:0") as server:
        server.start(make_app(site_of(jobs)))
        async with httpx.AsyncClient(base_url=server.address, trust_env=False) as web:
            yield web
        await server.stop()


def run(work: Callable[[httpx.AsyncClient], Any], jobs: Jobs) -> None:
    async def whole() -> None:
        async with asyncio.timeout(20), served(jobs) as web:
            await work(web)

    asyncio.run(whole())


def test_a_gate_says_who_may_ask() -> None:
    jobs = Jobs()

    async def work(web: httpx.AsyncClient) -> None:
        assert (await web.get("/who", headers=GOOD)).json() == "ada"
        for headers in ({}, {"Authorization": "Bearer bad"}, {"Authorization": "Basic good"}):
            refused = await web.get("/who", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "auth"
            assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert len(jobs.refusals) == 3
        jobs.lets_local = True
        assert (await web.get("/who")).json() == "anybody"
        assert (await web.get("/who", headers={"Host": "evil.example:80"})).status_code == 401

    run(work, jobs)


def test_a_servers_own_errors_have_its_status_and_the_others_ours() -> None:
    async def work(web: httpx.AsyncClient) -> None:
        for kind, status, code in (("yours", 403, "forbidden"), ("name", 404, "not-found")):
            refused = await web.get(f"/refuse/{kind}", headers=GOOD)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert (await web.get("/rows")).json() == [1, 2, 3]
        assert (await web.post("/put", headers=GOOD, json={"a": "b"})).json() == {"a": "b"}
        assert (await web.post("/put", headers=GOOD, json={"a": 1})).status_code == 400

    run(work, Jobs())


def test_a_log_goes_on_where_a_reader_left_off_and_ends_for_one_who_may_not_read() -> None:
    jobs = Jobs()
    for name in ("job.made", "job.begun", "job done\ndata: forged"):
        jobs.add(name)

    async def work(web: httpx.AsyncClient) -> None:
        async with web.stream("GET", "/log?after=1", headers=GOOD) as answer:
            lines = answer.aiter_lines()
            found = [await anext(lines) for _ in range(10)]
            text = "\n".join(found)
            assert text == (
                ': beat\n\nid: 2\nevent: job.begun\ndata: {"n": 2}\n\n'
                'id: 3\nevent: jobdonedataforged\ndata: {"n": 3}\n'
            )
            jobs.add("job.ended")
            assert [await anext(lines) for _ in range(2)] == ["id: 4", "event: job.ended"]
            jobs.tokens.clear()
            async for _ in lines:
                """It ends, or the test fails by its limit."""
        assert not jobs.tellers

    run(work, jobs)


def test_a_log_that_cannot_be_read_ends_its_stream() -> None:
    async def work() -> list[bytes]:
        jobs = Jobs(readable=False)
        return [piece async for piece in stream(jobs, 0, lambda: True)]

    assert asyncio.run(work()) == [b": beat\n\n"]


def test_a_page_runs_what_is_written_in_it_alone() -> None:
    async def work(web: httpx.AsyncClient) -> None:
        policy = (await web.get("/")).headers["content-security-policy"]
        for text in (b"b{}", b"let a = 1;"):
            digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
            assert f"'sha256-{digest}'" in policy
        api = (await web.get("/openapi.json")).json()
        assert set(api["components"]["schemas"]) == {"Job", "Problem", "Words"}
        assert set(api["paths"]["/who"]["get"]["responses"]) == {"200", "401"}

    run(work, Jobs())


def test_a_watcher_that_does_not_keep_up_is_let_go() -> None:
    async def work() -> None:
        watchers = Watchers()
        slow, quick = watchers.join(), watchers.join()
        sent = 0
        while len(watchers) == 2:
            watchers.tell(message("change", b"{}"))
            assert await quick.news() == b"event: change\ndata: {}\n\n"
            sent += 1
            assert sent < 1000
        assert not slow.skip()  # its stream is over
        watchers.close()
        assert await quick.news() is None
        assert watchers.full

    asyncio.run(work())


def test_without_the_extra_serving_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "loopwright.serving.server")
    with pytest.raises(
        ConfigError, match=r"the package uvicorn: pip install 'loopwright\[server\]'"
    ):
        importlib.import_module("loopwright.serving.server")


@pytest.mark.parametrize(
    ("value", "line"), [(3, "3"), (2.5, "2.5"), ("disk is full", "1"), ("", "0"), (None, "0")]
)
def test_a_figure_is_a_number_whatever_it_says(value: object, line: str) -> None:
    family = Family("read_only", "Whether it is.")
    assert family.text(value).splitlines() == [
        "# HELP loopwright_read_only Whether it is.",
        "# TYPE loopwright_read_only gauge",
        f"loopwright_read_only {line}",
    ]


def test_a_label_cannot_end_its_line() -> None:
    family = Family("device_free", "Free.", label="device")
    assert family.samples([('a"\n\\', 1.0)]) == 'loopwright_device_free{device="a\\"\\n\\\\"} 1\n'

"""The tracker's HTTP front: who may ask, what is answered, what is told as it happens."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet_tracker import QUICK, FlakyStore, Site, run, site, until

from loopwright.errors import ConfigError, FleetError
from loopwright.fleet.store.rows import TrackerStore
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.http_app import serve
from loopwright.fleet.tracker.http_feed import Feed
from loopwright.fleet.tracker.http_metrics import DEVICE_FAMILIES
from loopwright.fleet.views import DeviceView
from loopwright.fleet.wire.messages import Acquire
from loopwright.serving import server as server_module
from loopwright.serving.places import parse_place
from loopwright.serving.server import HttpServer

JSON = {"Content-Type": "application/json"}


@dataclass
class Front:
    """A tracker with HTTP, and somebody with a token who asks."""

    here: Site
    server: HttpServer
    feed: Feed
    web: httpx.AsyncClient

    async def get(self, path: str, status: int = 200) -> Any:  # noqa: ANN401  # JSON
        answer = await self.web.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, what: str, status: int = 200, **arguments: str) -> Any:  # noqa: ANN401  # JSON
        answer = await self.web.post(f"/api/v1/commands/{what}", json=arguments)
        assert answer.status_code == status, answer.text
        return answer.json()

    def anonymous(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.address, trust_env=False)

    async def token(self, role: str) -> str:
        made = await (await self.here.client()).command("token.issue", name=role, role=role)
        return str(made["token"])


@asynccontextmanager
async def front(
    role: str = "admin", config: TrackerConfig = QUICK, store: TrackerStore | None = None
) -> AsyncIterator[Front]:
    async with site(config, store=store) as here:
        with HttpServer("127.0.0.1:0") as server:
            feed = serve(server, here.tracker)
            async with httpx.AsyncClient(base_url=server.address, trust_env=False) as web:
                made = Front(here, server, feed, web)
                if here.tracker.config.auth:
                    web.headers["Authorization"] = f"Bearer {await made.token(role)}"
                yield made
            await server.stop()


async def events_of(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """The events of a stream: name and data."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


# --- what there is ---


def test_devices_are_those_of_the_protocol() -> None:
    async def work() -> None:
        async with front() as made:
            await made.here.agent("pi", ("pi/cpu0", "pi/cpu1"))
            await made.here.free(2)
            told = await (await made.here.client()).ask("devices")
            assert await made.get("/api/v1/devices") == told
            assert await made.get("/api/v1/devices/pi/cpu1") == told[1]
            only = await made.get("/api/v1/devices?selector=name%3Dpi/cpu0")
            assert [view["name"] for view in only] == ["pi/cpu0"]

    run(work())


def test_many_devices_come_whole() -> None:
    async def work() -> None:
        async with front() as made:
            names = tuple(f"pi/cpu{n:04}" for n in range(600))
            await made.here.agent("pi", names)
            await made.here.free(len(names))
            found = await made.get("/api/v1/devices")
            assert tuple(view["name"] for view in found) == names

    run(work())


def test_leases_and_what_explains_them() -> None:
    async def work() -> None:
        async with front() as made:
            await made.here.agent()
            await made.here.free(1)
            client = await made.here.client()
            grant = await client.acquire()
            client.link.send(Acquire(request="second", selector="board=rpi4"))
            await until(lambda: made.here.tracker.book.request("second") is not None)
            found = await made.get("/api/v1/leases")
            assert {view["id"] for view in found} == {grant.lease, "second"}
            assert (await made.get(f"/api/v1/leases/{grant.lease}"))["device"] == "pi/cpu0"
            why = await made.get("/api/v1/leases/second/explain")
            assert "1 matches, 1 leased" in why["text"]

    run(work())


def test_what_is_not_there_is_told_in_words() -> None:
    cases = (
        ("/api/v1/devices/nobody", 404, "not-found"),
        ("/api/v1/leases/l9.9", 404, "not-found"),
        ("/api/v1/leases/l9.9/explain", 404, "not-found"),
        ("/api/v1/devices?selector=a%28", 400, "bad-request"),
        ("/api/v1/events?after=-1", 400, "bad-request"),
        ("/api/v1/nothing", 404, "not-found"),
    )

    async def work() -> None:
        async with front() as made:
            for path, status, code in cases:
                error = (await made.get(path, status))["error"]
                assert (path, error["code"]) == (path, code)
                assert error["message"]

    run(work())


def test_a_command_on_what_is_not_there_is_not_found() -> None:
    async def work() -> None:
        async with front() as made:
            for what, arguments in (
                ("device.drain", {"device": "nobody"}),
                ("device.probe", {"device": "nobody"}),
                ("lease.revoke", {"lease": "l9.9"}),
                ("token.revoke", {"id": "abc"}),
                ("agent.revoke", {"agent": "nobody"}),
                ("device.explode", {"device": "pi"}),
            ):
                error = (await made.post(what, 404, **arguments))["error"]
                assert (what, error["code"]) == (what, "not-found")
                assert error["message"].startswith("no ")

    run(work())


def test_statuses_are_those_that_http_has_for_it() -> None:
    large = b'{"device": "' + b"x" * 70_000 + b'"}'

    async def work() -> None:
        async with front() as made, made.anonymous() as stranger:
            path = "/api/v1/commands/device.drain"
            answers = (
                (await made.web.delete(path), 405, {}),
                (await made.web.post(path, content=b"a=b"), 415, {}),
                (await made.web.post(path, content=large, headers=JSON), 413, {}),
                (await stranger.get("/api/v1/status"), 401, {"WWW-Authenticate": "Bearer"}),
            )
            for answer, status, headers in answers:
                assert answer.status_code == status
                assert answer.json()["error"]["message"]
                for name, value in headers.items():
                    assert answer.headers[name].startswith(value)

    run(work())


def test_the_page_of_the_api_says_what_is_answered() -> None:
    async def work() -> None:
        async with front() as made:
            api = await made.get("/openapi.json")
            told = {
                (path, method): set(operation["responses"])
                for path, operations in api["paths"].items()
                for method, operation in operations.items()
            }
            assert told["/api/v1/devices/{name}", "get"] == {"200", "401", "404"}
            assert told["/api/v1/devices", "get"] == {"200", "400", "401"}
            assert told["/api/v1/commands/{what}", "post"] == (
                {"200", "400", "401", "403", "404", "408", "409", "413", "415", "503"}
            )
            assert told["/events", "get"] == {"200", "400", "401", "503"}
            assert told["/readyz", "get"] == {"200", "503"}
            assert not any("422" in statuses for statuses in told.values())
            assert "/api/v1/devices/{name}" in api["paths"]
            fields = api["components"]["schemas"]["DeviceView"]["properties"]
            assert set(fields) == set(DeviceView.__struct_fields__)
            assert (await made.web.get("/docs")).status_code == 200

    run(work())


# --- who may ---


@pytest.mark.parametrize("given", ["", "Bearer lwt_a_b_c", "Bearer", "Basic YTpi"])
def test_nothing_is_told_without_a_token(given: str) -> None:
    async def work() -> None:
        async with front() as made, made.anonymous() as stranger:
            tally = made.here.tracker.link_tally
            for path in ("/api/v1/status", "/api/v1/devices", "/events", "/live", "/metrics"):
                before = tally.total
                answer = await stranger.get(path, headers={"Authorization": given})
                assert (path, answer.status_code) == (path, 401)
                assert answer.json()["error"]["code"] == "auth"
                assert tally.total == before + 1

    run(work())


def test_health_is_told_to_everybody_and_says_nothing_else() -> None:
    async def work() -> None:
        async with front() as made, made.anonymous() as stranger:
            assert (await stranger.get("/healthz")).json() == {"alive": True}
            assert (await stranger.get("/readyz")).json() == {"ready": True, "why": ""}

    run(work())


def test_a_tracker_that_cannot_write_is_not_ready_and_alive() -> None:
    async def work() -> None:
        store = FlakyStore()
        async with front(store=store) as made:
            store.broken = "database or disk is full"
            failed = await made.post("token.issue", 503, name="bob")
            assert failed["error"]["code"] == "store"
            again = await made.web.post("/api/v1/commands/token.issue", json={"name": "bob"})
            assert again.headers["Retry-After"] == "5"
            assert (await made.get("/readyz", 503))["why"] == "the store cannot be written"
            assert (await made.web.get("/healthz")).status_code == 200
            assert "disk is full" in (await made.get("/api/v1/status"))["read_only"]
            store.broken = ""
            await until(lambda: not made.here.tracker.book.read_only)
            assert (await made.get("/readyz"))["ready"]

    run(work())


def test_a_name_that_is_none_is_a_bad_request_and_no_attack() -> None:
    async def work() -> None:
        async with front() as made:
            refused = await made.post("token.issue", 400, name="a b")
            assert refused["error"]["code"] == "bad-request"
            assert "'a b' cannot name a token's owner" in refused["error"]["message"]
            assert made.here.tracker.link_tally.total == 0

    run(work())


def test_a_viewer_sees_and_changes_nothing() -> None:
    async def work() -> None:
        async with front("viewer") as made:
            await made.here.agent()
            await made.here.free(1)
            refused = await made.post("device.drain", 403, device="pi/cpu0")
            assert "needs the role operator" in refused["error"]["message"]
            assert (await made.get("/api/v1/devices/pi/cpu0"))["admin"] == "enabled"

    run(work())


def test_commands_change_what_they_say_and_are_in_the_log() -> None:
    async def work() -> None:
        async with front("operator") as made:
            await made.here.agent()
            await made.here.free(1)
            done = await made.post("device.quarantine", device="pi/cpu0", why="hot")
            assert done == {"device": "pi/cpu0", "admin": "maintenance"}
            assert (await made.get("/api/v1/devices/pi/cpu0"))["why"] == "hot"
            log = await made.get("/api/v1/events")
            assert ("device.quarantine", "operator", "hot") in {
                (event["what"], event["by"], event["detail"]) for event in log
            }

    run(work())


NO_COMMANDS: tuple[tuple[dict[str, str], bytes, int], ...] = (
    ({}, b'{"device":"pi/cpu0"}', 415),  # a form of another page could send this
    ({"Content-Type": "text/plain"}, b'{"device":"pi/cpu0"}', 415),
    (JSON, b"[", 400),
    (JSON, b"[" * 10_000, 400),
    (JSON, b'{"device": 1}', 400),
    (JSON, b'{"device": "\xff"}', 400),
    (JSON, b'{"device": "' + b"x" * 70_000 + b'"}', 413),
    (JSON, b"{}", 400),
    (JSON, b'{"device":"pi/cpu0","shell":"rm"}', 400),
)


def test_a_body_that_is_no_command_is_refused() -> None:
    async def work() -> None:
        async with front() as made:
            for headers, body, status in NO_COMMANDS:
                answer = await made.web.post(
                    "/api/v1/commands/device.drain", content=body, headers=headers
                )
                assert (body[:40], answer.status_code) == (body[:40], status)
                assert answer.json()["error"]["code"] == "bad-request"

    run(work())


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1:80", 200), ("localhost:80", 200), ("evil.example:80", 401)]
)
def test_without_authentication_only_pages_of_this_machine_may_ask(host: str, status: int) -> None:
    async def work() -> None:
        async with front(config=dataclasses.replace(QUICK, auth=False)) as made:
            answer = await made.web.get("/api/v1/status", headers={"Host": host})
            assert answer.status_code == status
            forged = await made.web.get(
                "/api/v1/status", headers={"Host": host, "X-Forwarded-For": "10.1.1.1"}
            )
            assert forged.status_code == status

    run(work())


# --- what is told as it happens ---


def test_events_come_in_order_with_their_numbers() -> None:
    async def work() -> None:
        async with front() as made:
            await made.here.agent()
            await made.here.free(1)
            async with made.web.stream("GET", "/events?after=0") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                stream = events_of(answer)
                await made.post("device.drain", device="pi/cpu0", why="moving")
                seen = []
                async for name, data in stream:
                    assert data["what"] == name
                    seen.append(data["id"])
                    if name == "device.drain":
                        break
            assert seen == list(range(1, len(seen) + 1))

    run(work())


def test_events_go_on_where_a_reader_left_off() -> None:
    async def work() -> None:
        async with front() as made:
            for name in ("a", "b", "c"):
                await made.post("token.issue", name=name)
            known = await made.get("/api/v1/events")
            headers = {"Last-Event-ID": str(known[-2]["id"])}
            async with made.web.stream("GET", "/events", headers=headers) as answer:
                _, data = await anext(events_of(answer))
            assert data == known[-1]

    run(work())


def test_events_from_now_on_leave_out_what_was() -> None:
    async def work() -> None:
        async with front() as made:
            for name in ("a", "b", "c"):
                await made.post("token.issue", name=name)
            async with made.web.stream("GET", "/events") as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == ": beat"  # from here on
                await made.post("token.issue", name="later")
                async for line in lines:
                    if line.startswith("data: "):
                        break
            assert json.loads(line[6:])["subject"] == "later"

    run(work())


@pytest.mark.parametrize("path", ["/events", "/live"])
def test_a_revoked_token_ends_its_streams(path: str) -> None:
    async def work() -> None:
        async with front() as made:
            token = await made.token("viewer")
            headers = {"Authorization": f"Bearer {token}"}
            async with (
                made.anonymous() as watcher,
                watcher.stream("GET", path, headers=headers) as answer,
            ):
                lines = answer.aiter_lines()
                await anext(lines)
                await made.post("token.revoke", id=token.split("_")[1])
                async for _ in lines:
                    """It ends, or the test fails by its limit."""

    run(work())


def test_the_dashboard_is_told_all_and_then_what_changed() -> None:
    async def work() -> None:
        async with front() as made:
            await made.here.agent("pi", ("pi/cpu0", "pi/cpu1"))
            await made.here.free(2)
            async with made.web.stream("GET", "/live") as answer:
                stream = events_of(answer)
                name, all_ = await anext(stream)
                assert name == "all"
                states = {row[0]: row[1] for row in all_["devices"]}
                assert states == {"pi/cpu0": "free", "pi/cpu1": "free"}
                assert all_["events"]  # the latest, so that the page is not empty
                client = await made.here.client()
                grant = await client.acquire("name=pi/cpu1")
                changed: dict[str, str] = {}
                async for name, change in stream:
                    assert name == "change"
                    changed |= {row[0]: row[1] for row in change["devices"]}
                    if change["leases"]:
                        break
                assert changed == {"pi/cpu1": "reserved"}
                assert [row[0] for row in change["leases"]] == [grant.lease]
                assert change["status"]["leases"] == 1
                await client.release(grant)
                async for _, change in stream:
                    if change["over"]:
                        break
                assert change["over"] == [grant.lease]

    run(work())


def test_nobody_looks_when_nobody_watches() -> None:
    async def work() -> None:
        async with front() as made:
            feed = made.feed
            async with made.web.stream("GET", "/live") as answer:
                await anext(events_of(answer))
                assert len(feed._watchers) == 1
            await until(lambda: len(feed._watchers) == 0 and feed._task is None)

    run(work())


# --- metrics ---


def test_metrics_are_in_the_format_and_bounded() -> None:
    async def work() -> None:
        async with front() as made:
            await made.here.agent("pi", ("pi/cpu0", "pi/cpu1"), labels={"user": "text"})
            await made.here.free(2)
            client = await made.here.client()
            await client.acquire("name=pi/cpu0", tags={"secret": "tag"})
            answer = await made.web.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            text = answer.text
            sample = re.compile(r"loopwright_\w+(\{\w+=\"[^\"]*\"\})? -?[\d.]+(e[+-]?\d+)?")
            lines = text.splitlines()
            assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
            of_device = [line for line in lines if 'device="pi/cpu0"' in line]
            assert len(of_device) == len(DEVICE_FAMILIES) <= 50
            assert 'loopwright_device_free{device="pi/cpu1"} 1' in lines
            assert "loopwright_leases 1" in lines
            assert not re.search(r"user|secret|tag|rpi4", text)
            less = (await made.web.get("/metrics?devices=0")).text
            assert "device=" not in less
            assert "loopwright_leases 1" in less

    run(work())


# --- pages ---


def test_the_dashboard_runs_its_own_scripts_alone_and_asks_nobody_else() -> None:
    async def work() -> None:
        async with front() as made:
            for path in ("/", "/docs"):
                answer = await made.web.get(path)
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert len(re.findall("'sha256-", policy)) == 2
                assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)

    run(work())


# --- where ---


@pytest.mark.parametrize("text", ["lab", "ftp://lab:1", "http://:7080", "http://a/b:1", "a:99999"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a place where HTTP can be served"):
        parse_place(text)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("0.0.0.0:0", "tokens would travel in the clear"),
        ("http://192.0.2.1:80", "tokens would travel in the clear"),
        ("https://127.0.0.1:0", "needs a certificate"),
    ],
)
def test_a_place_that_is_not_safe_is_refused(address: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        HttpServer(address)


def test_a_place_that_is_taken_says_so() -> None:
    with HttpServer("127.0.0.1:0") as first, pytest.raises(FleetError, match="choose another port"):
        HttpServer(first.address)


def test_https_uses_the_certificate_of_the_fleet(tmp_path: Path) -> None:
    import datetime
    import ssl

    from loopwright.fleet.security.authority import init, issue_server

    now = datetime.datetime.now(datetime.UTC)
    init(tmp_path / "ca", now)
    issue_server(tmp_path / "ca", ["127.0.0.1"], now)

    async def work() -> None:
        async with site() as here:
            with HttpServer("https://127.0.0.1:0", tmp_path / "ca") as server:
                serve(server, here.tracker)
                trust = ssl.create_default_context(cafile=str(tmp_path / "ca" / "ca.crt"))
                async with httpx.AsyncClient(verify=trust, trust_env=False) as web:
                    assert (await web.get(f"{server.address}/healthz")).json() == {"alive": True}
                await server.stop()

    run(work())


@pytest.mark.parametrize("said", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_connection_on_which_no_request_comes_is_closed(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(server_module, "_REQUEST_S", 0.1)

    async def work() -> None:
        async with front() as made:
            port = int(made.server.address.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            assert await reader.read() == b""  # else the test fails by its limit
            writer.close()
            await writer.wait_closed()

    run(work())

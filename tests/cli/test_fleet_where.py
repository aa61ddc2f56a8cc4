from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fleet_site import Town, town

from loopwright.cli.fleet.summary import status_pairs
from loopwright.cli.fleet.text import duration, parse_days
from loopwright.errors import ConfigError

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture
def fleet() -> Iterator[Town]:
    with town() as made:
        yield made


def test_without_a_tracker_the_error_says_how_to_have_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_CACHE_DIR", "/tmp/lw-nowhere")
    result = run("device", "ls")
    assert result.code == 69
    assert result.err == (
        "loopwright: unix:///tmp/lw-nowhere/tracker.sock cannot be reached: No such file or "
        "directory; start one with `loopwright tracker serve`, or say where it is with --fleet or "
        "LOOPWRIGHT_TRACKER\n"
    )


def test_a_tracker_that_is_away_is_exit_code_69(run: Run) -> None:
    result = run("tracker", "status", "--fleet", "tcp://127.0.0.1:1")
    assert result.code == 69
    assert "tcp://127.0.0.1:1 cannot be reached: " in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fleet", "http://lab:7070"), "'http' is none of tcp://, tls://, unix://"),
        (("--fleet", "tcp://lab"), "has no port"),
        (("--fleet", "tls://127.0.0.1:1"), "no certificate authority is trusted"),
        (("--fleet", "tcp://127.0.0.1:1", "--token", "@gone"), "cannot be read from gone"),
    ],
)
def test_what_makes_no_sense_is_exit_code_2(run: Run, options: tuple[str, ...], words: str) -> None:
    result = run("device", "ls", *options)
    assert result.code == 2
    assert words in result.err


def test_a_secret_is_not_sent_in_the_clear_beyond_this_machine(
    run: Run, monkeypatch: pytest.MonkeyPatch, fleet: Town
) -> None:
    from loopwright.fleet.wire import peer

    monkeypatch.setattr(peer, "is_loopback", lambda _: False)  # as if it were elsewhere
    result = run("device", "ls", "--fleet", fleet.tcp, "--token", "lwt_a_b_c")
    assert result.code == 6
    assert "in the clear; use tls:// and --ca" in result.err
    assert "lwt_a_b_c" not in result.err


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_the_token_comes_from_where_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fleet: Town, how: str
) -> None:
    token = fleet.token("ann", "viewer")
    options: tuple[str, ...] = ("--fleet", fleet.tcp)
    if how == "option":
        options += ("--token", token)
    elif how == "file":
        (tmp_path / "token").write_text(f"{token}\n")
        options += ("--token", "@token")
    else:
        monkeypatch.setenv("LOOPWRIGHT_TOKEN", token)
    assert run("tracker", "status", *options).code == 0


# --- status, top, doctor ---


def test_the_status_is_text_or_json(run: Run, fleet: Town) -> None:
    fleet.agent()
    text = run("tracker", "status", "--fleet", fleet.url).out
    assert "devices  1, 1 free\n" in text
    assert "store    writable\n" in text
    assert "limits   user: class up to normal\n" in text
    found = json.loads(run("tracker", "status", "--fleet", fleet.url, "-o", "json").out)
    assert (found["fleet"], found["free"]) == (fleet.url, 1)


@pytest.mark.parametrize(
    ("settling_s", "said"), [(0.0, "3.2s"), (11.7, "3.2s, waits 12 s at most for its devices")]
)
def test_the_status_says_whether_devices_may_still_come_back(settling_s: float, said: str) -> None:
    shown = dict(status_pairs("tcp://t:1", {"up_s": 3.2, "settling_s": settling_s}))
    assert shown["up"] == said


def test_top_writes_a_line_a_look_where_there_is_no_terminal(run: Run, fleet: Town) -> None:
    fleet.agent()
    result = run("top", "--count", "2", "--every", "0.1", "--fleet", fleet.url)
    lines = result.out.splitlines()
    assert (result.code, len(lines)) == (0, 2)
    assert lines[0].endswith("devices 1, 1 free; leases 0, 0 waiting, 0 granted since the start")


def test_top_writes_json_that_has_everything(run: Run, fleet: Town) -> None:
    fleet.agent()
    lease = fleet.lease()
    found = json.loads(run("top", "--count", "1", "--fleet", fleet.url, "-o", "json").out)
    assert [view["name"] for view in found["devices"]] == ["pi/cpu0"]
    assert [view["id"] for view in found["leases"]] == [lease]


def test_ctrl_c_ends_top_without_a_word(fleet: Town) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "loopwright.cli.main", "top", "--fleet", fleet.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_top_counts_the_devices_that_were_picked(run: Run, fleet: Town) -> None:
    fleet.agent("a", rack="r1")
    fleet.agent("b", rack="r2")
    words = ("--count", "1", "--fleet", fleet.url)
    fleet.lease("rack=r2")
    assert " devices 1, 1 free; leases 1, " in run("top", "rack=r1", *words).out
    assert " devices 1, 0 free, 1 reserved; leases 1, " in run("top", "rack=r2", *words).out
    assert " devices 2, 1 free, 1 reserved; " in run("top", *words).out


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("bord=x", "no device has a label 'bord'; there are board, kind, name"),
        ("board=x", "no device matches 'board=x'; board is rpi4"),
    ],
)
def test_top_of_what_no_device_matches_is_exit_code_3(
    run: Run, fleet: Town, selector: str, words: str
) -> None:
    fleet.agent()
    result = run("top", selector, "--count", "1", "--fleet", fleet.url)
    assert (result.code, result.out) == (3, "")
    assert result.err == f"loopwright: {words}\n"


@pytest.mark.parametrize("height", [12, 24, 60])
def test_the_picture_of_top_fits_into_the_terminal(fleet: Town, height: int) -> None:
    from rich.console import Console

    from loopwright.cli.fleet.connect import Where, connect
    from loopwright.cli.fleet.screen import picture
    from loopwright.cli.fleet.summary import FleetScene
    from loopwright.cli.fleet.top import _look

    fleet.agent("pi", *(f"pi/cpu{n}" for n in range(40)))
    lease = fleet.lease("name=pi/cpu7")

    async def look() -> FleetScene:
        control = await connect(Where(fleet.url))
        try:
            return await _look(control, "", FleetScene({}))
        finally:
            await control.close()

    scene = asyncio.run(look())
    console = Console(width=100, height=height, record=True, force_terminal=True, file=_Nowhere())
    console.print(picture(fleet.url, scene, height, 100))
    lines = console.export_text().splitlines()
    assert len(lines) <= max(height, 24)
    assert lease in "\n".join(lines)
    assert max(map(len, lines)) <= 100


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""


def test_the_doctor_finds_that_devices_cannot_be_reached(run: Run, fleet: Town) -> None:
    fleet.agent()  # says that it listens on a port where nothing does
    result = run("doctor", "--fleet", fleet.url)
    marks = {line.split()[1]: line.split()[0] for line in result.out.splitlines()}
    assert marks == {
        "tracker": "ok",
        "answers": "ok",
        "store": "ok",
        "devices": "ok",
        "sessions": "!!",
        "refused": "ok",
    }
    assert result.code == 69
    assert result.err == f"loopwright: 1 of 6 checks of {fleet.url} failed; they are marked !!\n"


def test_the_doctor_finds_a_fleet_without_devices(run: Run, fleet: Town) -> None:
    found = json.loads(run("doctor", "--fleet", fleet.url, "-o", "json").out)
    (devices,) = [check for check in found["checks"] if check["name"] == "devices"]
    assert devices["advice"] == "add one: loopwright device serve"


# --- words ---


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0s"),
        (0.44, "0.4s"),
        (59.4, "59s"),
        (200, "3m20s"),
        (7500, "2h05m"),
        (274000, "3d04h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 2592000.0), ("1.5d", 129600.0), ("1d12h", 129600.0), ("90s", 90.0)],
)
def test_days_are_durations(text: str, seconds: float) -> None:
    assert parse_days(text) == seconds


@pytest.mark.parametrize("text", ["d", "xd", "-2d", "infd", "nand", ""])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_days(text)

"""A board that runs signed code only, and clients with and without a key that it knows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_processes import Processes

import loopwright as lw
from loopwright.cli.main import main
from loopwright.errors import AuthError
from loopwright.fleet.client.api import connect
from loopwright.fleet.security.signing import BuilderKeys, make_builder, save_builder, show_public
from loopwright.records.store import SqlStore

pytest.importorskip("cryptography", reason="the extra [tls] is not installed")
LAST = max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def builder() -> BuilderKeys:
    return make_builder()


@pytest.fixture(scope="module")
def processes(
    tmp_path_factory: pytest.TempPathFactory, builder: BuilderKeys
) -> Iterator[Processes]:
    made = Processes(tmp_path_factory.mktemp("fleet"), tmp_path_factory.mktemp("cache"))
    with made:
        with made.owner() as fleet:
            code = fleet.command("join.issue", agent="strict")
        assert isinstance(code, dict)
        policy = ("--signed-only", "--builder", show_public(builder.public))
        options = ("--join", str(code["code"]), "--device", f"cpu0={LAST}", *policy)
        made.begin_agent("strict", *options)
        made.await_agent("strict")
        yield made


@pytest.fixture
def task() -> lw.Task:
    a = lw.te.placeholder((64, 128), name="A")
    b = lw.te.compute((64, 128), lambda y, x: a[y, x] * 2.0 + 1.0, name="B")
    return lw.task(lw.workload(b, name="scaled"))


def test_what_is_signed_is_tuned(
    processes: Processes, builder: BuilderKeys, task: lw.Task, tmp_path: Path
) -> None:
    save_builder(tmp_path / "key", builder)
    url = f"sqlite:///{tmp_path / 'r.db'}"
    with connect(processes.address, token=processes.token, sign=tmp_path / "key") as fleet:
        result = lw.tune(task, trials=3, records=url, policy="random", fleet=fleet)
    assert result.best is not None
    with SqlStore(url, create=False) as store:
        where = {r.provenance.device for r in store.query() if r.provenance is not None}
    assert where == {"strict/cpu0"}


@pytest.mark.parametrize("whose", ["nobody's", "a stranger's"])
def test_what_is_not_signed_by_a_builder_is_refused_and_not_recorded(
    processes: Processes, task: lw.Task, tmp_path: Path, whose: str
) -> None:
    key = None
    words = "strict/cpu0: this device runs signed code only: sign it with a key that it knows"
    if whose == "a stranger's":
        key = tmp_path / "key"
        save_builder(key, make_builder())
        words = "strict/cpu0: builder .* is not among those whose code this device runs"
    url = f"sqlite:///{tmp_path / 'r.db'}"
    with (
        connect(processes.address, token=processes.token, sign=key) as fleet,
        pytest.raises(AuthError, match=words),
    ):
        lw.tune(task, trials=3, records=url, policy="random", fleet=fleet)
    with SqlStore(url) as store:
        assert list(store.query()) == []


def test_the_command_tunes_with_a_key_and_is_refused_without(
    processes: Processes,
    builder: BuilderKeys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setenv("LOOPWRIGHT_TOKEN", processes.token)
    monkeypatch.delenv("LOOPWRIGHT_SIGN", raising=False)
    save_builder(tmp_path / "key", builder)
    url = f"sqlite:///{tmp_path / 'r.db'}"
    words = ["tune", "dqn", "--tasks", "0", "--trials", "2", "--policy", "random"]
    words += ["--records", url, "--fleet", processes.address]
    assert main(words) == 6
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("loopwright: strict/cpu0: this device runs signed code only")
    assert "--sign" in last
    assert main([*words, "--sign", str(tmp_path / "key")]) == 0
    monkeypatch.setenv("LOOPWRIGHT_SIGN", str(tmp_path / "none"))
    assert main(words) == 2
    assert "none: No such file" in capfd.readouterr().err

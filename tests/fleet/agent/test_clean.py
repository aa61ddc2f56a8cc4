"""What the agent's process imports: no compiler, nothing heavy."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "loopwright"
FORBIDDEN = frozenset(
    {
        "loopwright.ir",
        "loopwright.te",
        "loopwright.ops",
        "loopwright.sched",
        "loopwright.space",
        "loopwright.templates",
        "loopwright.lower",
        "loopwright.codegen",
        "loopwright.learn",
        "loopwright.search",
        "loopwright.graph",
        "loopwright.api",
        "loopwright.cli",
        "loopwright.records",
        "loopwright.target",
        "loopwright.runtime",
        "loopwright.fleet.store",
        "loopwright.fleet.book",
        "loopwright.fleet.tracker",
        "loopwright.fleet.client",
        "llvmlite",
        "sqlalchemy",
        "typer",
        "rich",
        "cryptography",
        "ml_dtypes",
    }
)
STARTED = """
import asyncio, json, secrets, sys, time
from pathlib import Path
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.main import read
from loopwright.fleet.wire.listener import Listener
from loopwright.fleet.words import Health

async def run():
    command = read(["--name", "h", "--tier", "1"], Path(sys.argv[1]), [CORE])
    agent = Agent(command.options, command.devices, time.monotonic, secrets.SystemRandom())
    async with Listener(command.listen, agent.serve_session), agent:
        (device,) = agent.devices.values()
        while device.health is not Health.GOOD:
            await asyncio.sleep(0.01)
        print(json.dumps(sorted(sys.modules)))

asyncio.run(run())
"""


def forbidden(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in FORBIDDEN)


def imports_of(path: Path) -> set[str]:
    """What a file of ours imports when it is imported: what is inside functions does not count."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test)
        ) or isinstance(node, ast.Try):
            waiting += [*node.body, *node.orelse]
    return found


def is_for_types(node: ast.If | ast.Try) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def file_of(module: str) -> Path | None:
    base = SOURCE.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def reached(start: set[str]) -> dict[str, str]:
    """All modules that importing `start` imports, each with the one that does."""
    seen = dict.fromkeys(start, "the test")
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        path = file_of(module) if module.startswith("loopwright.") else None
        if path is None:
            continue
        for name in imports_of(path):
            if name not in seen:
                seen[name] = module
                waiting.append(name)
    return seen


def test_no_module_of_the_agent_reaches_the_compiler() -> None:
    agent = {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in (PACKAGE / "fleet" / "agent").glob("*.py")
    }
    assert len(agent) > 5

    found = reached(agent)

    assert {name: by for name, by in found.items() if forbidden(name)} == {}


def test_the_check_would_find_one() -> None:
    assert any(forbidden(name) for name in reached({"loopwright.sandbox.server"}))


def test_a_started_agent_has_not_imported_the_compiler(machine_dir: Path) -> None:
    from loopwright.outcome import cores_for

    text = STARTED.replace("CORE", str(cores_for(1)[0]))
    done = subprocess.run(
        [sys.executable, "-c", text, str(machine_dir)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules: list[str] = json.loads(done.stdout)

    assert "loopwright.fleet.agent.device" in modules
    assert [name for name in modules if forbidden(name)] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "board"], "is not KEY=VALUE"),
        (["--device", "cpu0=2,a"], "write cores as 2,3"),
        (["--signed-only"], "nothing could ever run"),
        (["--listen", "nonsense"], "has no port"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    from loopwright.errors import ConfigError
    from loopwright.fleet.agent.main import read

    with pytest.raises(ConfigError, match=words):
        read(arguments, tmp_path, [0, 1])

"""What every folder of tests may use: golden files, and one device for kernels compiled here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from loopwright.runtime.cpu.kernel import CpuDevice

# A gate that anyone can run again: the same examples each time. `make hunt` draws new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("hunt", derandomize=False, print_blob=True)
hypothesis.settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")
    parser.addoption("--faults-seed", type=int, default=1, help="of faults drawn at random")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with `golden/<name>.txt` beside the test; writes it with --update-golden."""

    def compare(name: str, text: str) -> None:
        path = Path(request.path).parent / "golden" / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing: run pytest --update-golden and look at it"
        assert text == path.read_text()

    return compare


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What processes of all tests keep between them: the native runtime is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def cpu() -> Iterator[CpuDevice]:
    with CpuDevice(1) as device:
        yield device

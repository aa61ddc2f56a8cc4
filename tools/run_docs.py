"""Runs the code of a page in `docs`, and keeps what it prints in the page.

    python tools/run_docs.py docs/tutorial.md [--update]

The Python blocks of the page, in order, are one script, run in an empty folder. A `text` block
right behind a Python block holds what that block prints; `--update` writes these blocks anew, and
adds one where something was printed. Without it, a difference is shown and exit code 1 says so.
Then the lines of `sh` blocks that start with `loopwright` are run in the same folder.
"""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)
_SHELL = re.compile(r"```sh\n(.*?)```\n", re.DOTALL)
_MARK = "--- end of block ---"
_COMMAND = "import sys; from loopwright.cli.main import main; sys.exit(main())"


class RunError(Exception):
    """The code of a page failed; the message holds what it wrote."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page's code: Python blocks, and shell lines of ours."""

    blocks: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


def parse(text: str) -> Page:
    """The code of a page."""
    lines = [line for block in _SHELL.findall(text) for line in block.splitlines()]
    ours = (shlex.split(line)[1:] for line in lines if line.startswith("loopwright "))
    return Page(tuple(found["code"] for found in _BLOCK.finditer(text)), tuple(map(tuple, ours)))


def run(page: Page, folder: Path, name: str) -> tuple[str, ...]:
    """What each Python block printed, run as one script in `folder`; then the commands are run.

    Raises: RunError if the script or a command fails.
    """
    mark = f'if __name__ == "__main__":\n    print({_MARK!r})\n'
    script = folder / f"{name}.py"
    script.write_text("".join(f"{block}\n{mark}\n" for block in page.blocks))
    printed = _call([str(script)], folder)
    for command in page.commands:
        _call(["-c", _COMMAND, *command], folder)
    return tuple(printed.split(f"{_MARK}\n")[: len(page.blocks)])


def with_outputs(text: str, outputs: Sequence[str]) -> str:
    """The page with `outputs` behind its Python blocks."""
    remaining = iter(outputs)

    def block(found: re.Match[str]) -> str:
        output = "\n".join(line.rstrip() for line in next(remaining).strip("\n").splitlines())
        shown = f"\n```text\n{output}\n```\n" if output else ""
        return f"```python\n{found['code']}```\n{shown}"

    return _BLOCK.sub(block, text)


def _call(arguments: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(f"{shlex.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def main(argv: list[str]) -> int:
    """Run the page that `argv` names; exit code 1 when what it prints is not what it says."""
    page = Path(argv[1])
    text = page.read_text()
    with tempfile.TemporaryDirectory() as folder:
        new = with_outputs(text, run(parse(text), Path(folder), page.stem))
    if "--update" in argv:
        page.write_text(new)
        return 0
    difference = difflib.unified_diff(
        text.splitlines(keepends=True), new.splitlines(keepends=True), "page", "printed"
    )
    sys.stdout.writelines(difference)
    return int(new != text)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

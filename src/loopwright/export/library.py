"""A tuned model as a shared library for C: no Python and no Loopwright where it runs.

    lw.export_c("resnet18.lw", "out")      writes out/libresnet18.so, resnet18.h, example.c

The kernels are in the model file as objects; a C compiler links them with the thread pool, the
constants and a few lines of C (`c_text.py`). Nothing is tuned or compiled again.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopwright.codegen.clike.compiler import find_compiler
from loopwright.errors import ConfigError, EnvironmentFailure, ModelError, UnsupportedError
from loopwright.export import c_text
from loopwright.runtime import model_file
from loopwright.runtime.cpu.model import CONSTANTS, RUNTIME
from loopwright.runtime.cpu.native import runtime_object
from loopwright.runtime.model_file import Bytes, Manifest
from loopwright.target.cpu import CpuTarget
from loopwright.target.host import host
from loopwright.target.presets import PRESETS

_FLAGS = ("-shared", "-fPIC", "-O2", "-g0")
_LINK = ("-Wl,-z,noexecstack", "-Wl,--no-undefined", "-lpthread", "-lm")
_MOST_CONSTANTS = 2_000_000_000  # code reaches them with 32 bits
_MESSAGE_CHARS = 400


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of a model as a C library. `command` builds the example, in their folder."""

    name: str
    library: Path
    header: Path
    example: Path
    command: tuple[str, ...]


def export_c(
    model: str | Path,
    directory: str | Path,
    *,
    name: str | None = None,
    compiler: str | None = None,
) -> Exported:
    """Write the tuned model in the file `model` into `directory` as a library for C.

    Args:
        name: the stem of the files and of the C names; the model's name when None.
        compiler: the C compiler's command; one that is found when None.

    Raises: ModelError for a file that is no tuned model or a folder that cannot be written;
        ConfigError for a name that C does not allow; UnsupportedError for a model of another
        architecture; EnvironmentFailure when there is no C compiler, or it fails.
    """
    manifest, sections = model_file.read(Path(model))
    return export_sections(manifest, sections, Path(directory), name=name, compiler=compiler)


def export_sections(
    manifest: Manifest,
    sections: Mapping[str, Bytes],
    directory: Path,
    *,
    name: str | None = None,
    compiler: str | None = None,
) -> Exported:
    """As `export_c`, for a model that is not in a file."""
    stem = c_text.identifier(manifest.name) if name is None else name
    if c_text.identifier(stem) != stem:
        raise ConfigError(
            f"name {stem!r} is not one for C: letters, digits and _, and a letter first"
        )
    target = _target(manifest)
    command = find_compiler(compiler)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as made:
            folder = Path(made)
            _write_sources(folder, stem, manifest, target, sections)
            _build(command, folder, stem)
            for file in (f"lib{stem}.so", f"{stem}.h", "example.c"):
                (folder / file).replace(directory / file)
    except OSError as error:
        raise ModelError(f"{directory} cannot be written: {error.strerror}") from error
    library = f"-l{stem}"
    example = ("example.c", "-I.", "-L.", library, "-Wl,-rpath,$ORIGIN", "-o", "example")
    return Exported(
        stem,
        directory / f"lib{stem}.so",
        directory / f"{stem}.h",
        directory / "example.c",
        (*command, *example),
    )


def _target(manifest: Manifest) -> CpuTarget:
    """What the model was compiled for.

    Raises: UnsupportedError for a target that this machine's compiler cannot make.
    """
    target = PRESETS.get(manifest.target_name)
    if target is None or target.key != manifest.target:
        raise UnsupportedError(
            f"{manifest.name} is made for {manifest.target}, which this version does not know; "
            "optimize it again"
        )
    if target.arch != host().arch:
        raise UnsupportedError(
            f"{manifest.name} is made for {target.arch}, this machine is {host().arch}; "
            "export it on a machine like that"
        )
    return target


def _write_sources(
    folder: Path, name: str, manifest: Manifest, target: CpuTarget, sections: Mapping[str, Bytes]
) -> None:
    constants = sections.get(CONSTANTS, b"")
    if len(constants) > _MOST_CONSTANTS:
        raise UnsupportedError(
            f"{manifest.name} has {len(constants)} bytes of weights; a library holds at most "
            f"{_MOST_CONSTANTS}"
        )
    (folder / "constants.bin").write_bytes(constants)
    (folder / "constants.S").write_text(c_text.constants("constants.bin"))
    (folder / "exports.map").write_text(c_text.exports(name))
    (folder / f"{name}.h").write_text(c_text.header(name, manifest))
    (folder / f"{name}.c").write_text(c_text.source(name, manifest, target))
    (folder / "example.c").write_text(c_text.example(name, manifest))
    objects = [bytes(data) for section, data in sections.items() if section != CONSTANTS]
    if RUNTIME not in sections:
        objects.append(runtime_object())
    for number, code in enumerate(objects):
        (folder / f"{number}.o").write_bytes(code)


def _build(compiler: Sequence[str], folder: Path, name: str) -> None:
    """Link everything in `folder`.

    Raises: EnvironmentFailure with what the compiler said.
    """
    objects = sorted(path.name for path in folder.glob("*.o"))
    command = [
        *compiler,
        *_FLAGS,
        f"{name}.c",
        "constants.S",
        *objects,
        "-Wl,--version-script=exports.map",
        f"-Wl,-soname,lib{name}.so",
        *_LINK,
        "-o",
        f"lib{name}.so",
    ]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EnvironmentFailure(f"cannot run {compiler[0]}: {error}") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:_MESSAGE_CHARS]
        raise EnvironmentFailure(f"{shlex.join(compiler)} failed ({done.returncode}): {said}")

"""C source to object code, by the C compiler found; runs in the builder process."""

from __future__ import annotations

import importlib.util
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.clike.dialects import C11
from loopwright.codegen.clike.emit import ClikeSource, emit
from loopwright.errors import CodegenError, EnvironmentFailure
from loopwright.ir.kernel import Kernel
from loopwright.target.cpu import CpuTarget
from loopwright.target.union import Target, require_cpu

_COMPILERS = ("cc", "gcc", "clang")
_MESSAGE_CHARS = 400
FLAGS = (
    "-std=gnu11",
    "-O2",
    "-fPIC",
    "-g0",
    "-w",
    "-ffp-contract=off",  # contracted operations are written as fused ones
    "-fwrapv",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-builtin",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
)
"""Arithmetic as `ir.expr` says; no code but the kernel's own."""


class CBackend:
    """Kernels through C and a C compiler."""

    language = "c"

    def text(self, kernel: Kernel, params: tuple[Param, ...], target: Target) -> str:
        """The C source of `kernel`; its header comment says how to compile and call it.

        Raises: CodegenError for what cannot be expressed.
        """
        cpu = require_cpu(target, "C")
        source = emit(kernel, params, cpu, C11)
        return f"{_manual(source, params, kernel.n_outputs, cpu)}\n{source.text}"

    def artifact(self, kernel: Kernel, params: tuple[Param, ...], target: Target) -> Artifact:
        """The object code of `kernel`.

        Raises: CodegenError as `text`, or if the compiler refuses the source; EnvironmentFailure
            if there is no C compiler for the target.
        """
        cpu = require_cpu(target, "C")
        source = emit(kernel, params, cpu, C11)
        code = compile_c(source.text, cpu)
        return artifact_of(source, code, params, kernel.n_outputs, cpu)


def _manual(
    source: ClikeSource, params: tuple[Param, ...], n_outputs: int, target: CpuTarget
) -> str:
    """A comment that says how to compile the source and call its entry."""
    lines = [f"{source.entry}(args, workspace, parallel, pool), with pointers in args to", ""]
    for place, param in enumerate(params):
        shape = "".join(f"[{extent}]" for extent in param.physical_shape)
        written = "   written" if place >= len(params) - n_outputs else ""
        lines.append(f"  args[{place}]  {param.dtype} {param.name}{shape}{written}")
    flags = " ".join([*FLAGS, *_target_flags(target)])
    lines += [
        "",
        f"workspace: {source.workspace_shared} + threads * {source.workspace_per_thread} bytes, "
        "64-byte aligned.",
        "parallel(pool, body, closure, extent) runs body over all of [0, extent); one that calls",
        "body(closure, 0, extent, 0) runs it on one thread.",
        f"Compile with: cc {flags} -c",
    ]
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */"])


def artifact_of(
    source: ClikeSource, code: bytes, params: tuple[Param, ...], n_outputs: int, target: CpuTarget
) -> Artifact:
    """The artifact of `source`, which was compiled to `code`."""
    return Artifact(
        code=code,
        entry=source.entry,
        params=params,
        n_outputs=n_outputs,
        workspace_shared=source.workspace_shared,
        workspace_per_thread=source.workspace_per_thread,
        target_key=target.key,
        requires=target.features,
    )


def compile_c(text: str, target: CpuTarget, flags: Sequence[str] = ()) -> bytes:
    """The relocatable object that the C compiler makes of `text`.

    Raises: CodegenError with what the compiler said; EnvironmentFailure if there is none.
    """
    command = find_compiler(arch=target.arch)
    with tempfile.TemporaryDirectory(prefix="loopwright-c-") as folder:
        source, made = Path(folder, "kernel.c"), Path(folder, "kernel.o")
        source.write_text(text)
        full = [
            *command,
            *FLAGS,
            *_target_flags(target),
            *flags,
            "-c",
            str(source),
            "-o",
            str(made),
        ]
        try:
            done = subprocess.run(full, capture_output=True, text=True, check=False)
        except OSError as error:
            raise EnvironmentFailure(f"cannot run {command[0]}: {error}") from error
        if done.returncode != 0 or not made.exists():
            said = " ".join((done.stderr or done.stdout).split())[:_MESSAGE_CHARS]
            raise CodegenError(f"{shlex.join(command)} failed ({done.returncode}): {said}")
        return made.read_bytes()


def require_compiler(target: Target) -> None:
    """Raise EnvironmentFailure if there is no C compiler for `target`."""
    find_compiler(arch=require_cpu(target, "C").arch)


def find_compiler(given: str | None = None, arch: str | None = None) -> tuple[str, ...]:
    """The command of a C compiler for `arch`, this machine's when None.

    `given`, else cc, gcc, clang, or that of the ziglang package; for another architecture a GCC
    cross-compiler, or ziglang's. Raises: EnvironmentFailure when there is none.
    """
    if given is not None:
        words = tuple(shlex.split(given))
        if not words or shutil.which(words[0]) is None:
            raise EnvironmentFailure(f"there is no C compiler {given!r}; name another, as gcc")
        return words
    here = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    arch = here if arch is None else arch
    for command in _COMPILERS if arch == here else (f"{arch}-linux-gnu-gcc",):
        if shutil.which(command) is not None:
            return (command,)
    if importlib.util.find_spec("ziglang") is not None:
        # A named architecture gets no instructions beyond its baseline.
        return (sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu")
    raise EnvironmentFailure(
        f"there is no C compiler for {arch}: install gcc or clang, or run "
        "pip install 'loopwright[export]'"
    )


def _target_flags(target: CpuTarget) -> list[str]:
    """The instruction sets of `target` as GCC and Clang name them."""
    if target.arch == "aarch64":
        more = [name for name in target.features if name not in ("neon", "fp-armv8")]
        return [f"-march={'+'.join(['armv8.2-a', *more])}"] if more else []
    return [
        "-fcf-protection=none",
        *(f"-m{name}" for name in target.features),
        f"-mprefer-vector-width={target.vector_bits}",
    ]

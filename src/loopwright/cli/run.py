"""`loopwright run model.lw` and `loopwright profile model.lw`: call a tuned model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import Output, OutputOption, console, print_json, show_ns, table
from loopwright.cli.model_summary import as_json, lines
from loopwright.errors import ModelError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loopwright.layout import Array
    from loopwright.runtime.cpu.model import KernelTime, Model


def tuned_file(path: Path) -> Path:
    """`path`, which must be there where it is the name of a model that is not tuned yet."""
    from loopwright.frontends.onnx.bundled import bundled

    if not path.exists() and path.name.removesuffix(".onnx") in bundled():
        name = path.name.removesuffix(".onnx")
        raise ModelError(
            f"{path} is not a tuned model; make one: loopwright optimize {name} -o {name}.lw"
        )
    return path


FileArgument = Annotated[
    Path, typer.Argument(help="A tuned model, made by loopwright optimize.", callback=tuned_file)
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads to run on; as tuned when not given.")
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="An input as NAME=file.npy; seeded numbers if not given."),
]
SaveOption = Annotated[
    Path | None, typer.Option("--save", help="Write the outputs to this .npz file.")
]
RunsOption = Annotated[int, typer.Option(min=1, help="How often the model is run.")]
TraceOption = Annotated[
    Path | None, typer.Option("--trace", help="Write a trace for chrome://tracing to this file.")
]


def run(
    model: FileArgument,
    *,
    given: InputOption = None,
    save: SaveOption = None,
    runs: RunsOption = 20,
    threads: ThreadsOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a tuned model and say how long it takes."""
    import numpy as np

    from loopwright.runtime.cpu.model import load_model

    start = time.perf_counter()
    with load_model(model, threads) as loaded:
        load_s = time.perf_counter() - start
        inputs = read_inputs(loaded, given)
        results = loaded.run(inputs)
        times = []
        for _ in range(runs):
            begin = time.perf_counter_ns()
            loaded.run(inputs)
            times.append(time.perf_counter_ns() - begin)
        if save is not None:
            save_outputs(results, save)
        median = float(np.median(times))
        if output is Output.JSON:
            print_json(
                {
                    "model": loaded.name,
                    "threads": loaded.threads,
                    "load_ms": load_s * 1e3,
                    "median_ns": median,
                    "min_ns": min(times),
                    "runs": runs,
                    "outputs": {n: [*a.shape] for n, a in results.items()},
                    **as_json(loaded.manifest),
                }
            )
            return
        screen = console()
        screen.print(
            f"{loaded.name}: {show_ns(median)} (least {show_ns(min(times))}) in {runs} runs on "
            f"{loaded.threads} thread{'s' * (loaded.threads > 1)}; loaded in {load_s * 1e3:.0f} ms"
        )
        for line in lines(loaded.manifest):
            screen.print(line, markup=False)
        for name, array in results.items():
            shape = "x".join(map(str, array.shape))
            screen.print(f"  output    {name}: {array.dtype} {shape}", markup=False)


def profile(
    model: FileArgument,
    *,
    given: InputOption = None,
    runs: RunsOption = 20,
    threads: ThreadsOption = None,
    trace: TraceOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the time of every kernel of a tuned model."""
    from loopwright.report.drawn import short
    from loopwright.runtime.cpu.model import load_model

    with load_model(model, threads) as loaded:
        found = loaded.profile(read_inputs(loaded, given), runs)
    if trace is not None:
        write_trace(found, trace)
    total = sum(kernel.median_ns for kernel in found)
    if output is Output.JSON:
        print_json(
            {
                "model": loaded.name,
                "threads": loaded.threads,
                "total_ns": total,
                "kernels": [
                    {
                        "name": k.info.name,
                        "task": k.info.task,
                        "template": k.info.template,
                        "origin": k.info.origin,
                        "median_ns": k.median_ns,
                        "gflops": k.info.flops / max(k.median_ns, 1.0),
                        "error": k.info.error,
                    }
                    for k in found
                ],
            }
        )
        return
    lines = [
        [
            show_ns(k.median_ns),
            f"{k.median_ns / total:.1%}",
            f"{k.info.flops / max(k.median_ns, 1.0):.1f}",
            k.info.origin,
            short(k.info.task),
        ]
        for k in found
    ]
    title = f"{loaded.name}: {show_ns(total)} in {len(found)} kernels"
    console().print(table([">time", ">share", ">GFLOP/s", "origin", "kernel"], lines, title=title))


def read_inputs(model: Model, given: Sequence[str] | None) -> dict[str, Array]:
    """The inputs of a call: of the files that are named, seeded numbers for the others.

    Raises: ModelError for a file that cannot be read; ShapeError for an input that is not there.
    """
    import numpy as np

    from loopwright.deploy.finish import example_inputs

    inputs = example_inputs(model.inputs)
    named: set[str] = set()
    for text in given or ():
        name, _, file = text.partition("=")
        if not file:
            known = ", ".join(inputs)
            raise ShapeError(f"--input {text!r} is not NAME=file.npy; the inputs are {known}")
        if name not in inputs:
            raise ShapeError(f"{model.name} has no input {name!r}; it has {', '.join(inputs)}")
        if name in named:
            raise ShapeError(f"--input {text!r}: {name!r} is given twice")
        named.add(name)
        try:
            inputs[name] = np.lib.format.open_memmap(file, mode="r")
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} is not a .npy file that can be read: {error}") from error
    return inputs


def save_outputs(outputs: Mapping[str, Array], path: Path) -> None:
    """Write arrays by name to an .npz file.

    Raises: ModelError when the file cannot be written.
    """
    import numpy as np

    try:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}") from error


def write_trace(kernels: Sequence[KernelTime], path: Path) -> None:
    """Write every run of every kernel in the format of Chrome's tracing.

    Raises: ModelError when the file cannot be written.
    """
    from loopwright import jsonio

    events = []
    at = 0.0
    for turn in range(len(kernels[0].ns) if kernels else 0):
        for kernel in kernels:
            us = kernel.ns[turn] / 1e3
            events.append(
                {
                    "name": kernel.info.operator,
                    "cat": kernel.info.origin,
                    "ph": "X",
                    "ts": at,
                    "dur": us,
                    "pid": 0,
                    "tid": 0,
                    "args": {"task": kernel.info.task, "config": kernel.info.config},
                }
            )
            at += us
    try:
        path.write_text(jsonio.pretty({"traceEvents": events}), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}") from error

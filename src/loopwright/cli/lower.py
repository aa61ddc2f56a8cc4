"""`loopwright lower OPERATOR`: the loops of one config, and what each pass makes of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import (
    Output,
    OutputOption,
    TargetOption,
    ThreadsOption,
    print_json,
    settings_of,
    show_ns,
)
from loopwright.errors import ConfigError

if TYPE_CHECKING:
    from loopwright.ops.attributes import AttrValue
    from loopwright.trace import PassRun

OperatorArgument = Annotated[
    str, typer.Argument(help="An operator, such as conv2d, depthwise_conv2d, dense or matmul.")
]
AttributesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="As data=1x64x56x56, padding=1x1, bias=true."),
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Knobs as JSON, as records have them [the default].")
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Show the loops before the passes, and what each changes.")
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Verify the kernel after each pass."),
]


def lower(
    context: typer.Context,
    operator: OperatorArgument,
    attributes: AttributesArgument = None,
    *,
    config: ConfigOption = None,
    target: TargetOption = "cpu",
    threads: ThreadsOption = 1,
    watch: WatchOption = False,
    check: CheckOption = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the loops that code is generated from, for one config of OPERATOR."""
    from loopwright.api.task import task_of
    from loopwright.build.compile import kernel_name
    from loopwright.lower.pipeline import apply_passes
    from loopwright.lower.pipeline import lower as loops_of
    from loopwright.space.config import Config
    from loopwright.target.parse import parse
    from loopwright.templates.apply import good_config, scheduled
    from loopwright.trace import open_tracer

    attrs = parse_attributes(attributes or ())
    task = task_of(operator, attrs, target=parse(target), threads=threads)
    chosen = good_config(task) if config is None else Config.from_json(config)
    runs: list[PassRun] = []
    with closing(open_tracer(settings_of(context).trace)) as tracer:

        def seen(run: PassRun) -> None:
            runs.append(run)
            tracer.ran(run)

        loops = loops_of(scheduled(task, chosen), kernel_name(task, chosen))
        kernel = apply_passes(loops, task.target.kind, seen, check=check)
    if output is Output.JSON:
        steps = [_as_json(run) for run in runs[1:]]
        print_json({"config": chosen.to_json(), "kernel": str(kernel), "passes": steps})
    elif watch:
        typer.echo("\n".join([runs[0].after, *map(_change, runs[1:])]), nl=False)
    else:
        typer.echo(str(kernel), nl=False)


def parse_attributes(texts: Sequence[str]) -> dict[str, AttrValue]:
    """Name -> value, of texts such as `data=1x64x56x56`, `groups=2` or `bias=true`.

    Raises: ConfigError for text of another form, or a name that is given twice.
    """
    found: dict[str, AttrValue] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{text!r} is not NAME=VALUE; write data=1x64x56x56 or bias=true")
        if name in found:
            raise ConfigError(f"the attribute {name} is given twice; leave one of the two")
        found[name] = _value(value)
    return found


def _value(text: str) -> AttrValue:
    """Integers with x or commas between them are a tuple; one integer is a number."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d+([x,]-?\d+)+", text):
        return tuple(map(int, re.split("[x,]", text)))
    return text


def _diff(run: PassRun) -> list[str]:
    """What the pass changed, as lines of a unified diff."""
    before, after = run.before.splitlines(), run.after.splitlines()
    return list(difflib.unified_diff(before, after, "before", run.name, lineterm=""))


def _change(run: PassRun) -> str:
    if not run.changed:
        return f"{run.name}: {show_ns(run.ns)}, nothing changed\n"
    return "\n".join([f"{run.name}: {show_ns(run.ns)}", *_diff(run), ""])


def _as_json(run: PassRun) -> dict[str, object]:
    return {"name": run.name, "ns": run.ns, "changed": run.changed, "diff": _diff(run)}

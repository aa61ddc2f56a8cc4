"""`loopwright tasks MODEL`: what there is to tune in a model."""

from __future__ import annotations

from loopwright.cli.common import (
    ModelArgument,
    Output,
    OutputOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    console,
    describe,
    parse_shapes,
    print_json,
    table,
)


def tasks(
    model: ModelArgument,
    target: TargetOption = "cpu",
    threads: ThreadsOption = 1,
    shape: ShapeOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what there is to tune in MODEL."""
    from loopwright.deploy.model import load_model

    found = load_model(model, target=target, threads=threads, shapes=parse_shapes(shape))
    total = found.flops
    if output is Output.JSON:
        print_json(
            {
                "model": found.label,
                "flops": total,
                "tasks": [
                    {
                        "index": index,
                        "operator": part.task.operator,
                        "attrs": dict(part.task.attrs),
                        "count": part.count,
                        "flops": part.task.flops,
                        "template": part.task.template.name,
                        "configs": str(part.task.space.cardinality),
                        "key": part.task.key,
                        "nodes": part.nodes,
                    }
                    for index, part in enumerate(found.parts)
                ],
                "untuned": dict(found.untuned),
            }
        )
        return
    rows = [
        (
            str(index),
            str(part.count),
            describe(part.task.operator, part.task.attrs),
            f"{part.task.flops / 1e6:.1f}",
            f"{part.task.flops * part.count / total:.1%}",
            f"{part.task.space.cardinality:.2g}",
        )
        for index, part in enumerate(found.parts)
    ]
    title = f"{found.label}: {len(rows)} tasks, {total / 1e9:.2f} GFLOP a run"
    screen = console()
    screen.print(table(["#", ">times", "task", ">MFLOP", ">share", ">configs"], rows, title=title))
    if found.untuned:
        left = ", ".join(f"{count} {operator}" for operator, count in found.untuned)
        screen.print(f"not tuned: {left}")

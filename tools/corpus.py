"""The corpus of texts that a refactoring must not change, made by the package that is imported.

It has one entry for each of these, in groups that are made on their own:

- `MODEL TARGET`, for each bundled model on the first of `TARGETS`, and on the other for those of
  `PORTED`, which have kernels of every kind: the model's plan (its calls, their configs and
  memory), every kernel of the program that `lw.compile` makes without records, and the default
  config of every other way to compute a kernel. On the first target also `SAMPLES` random configs
  of one task of each template, the middle one in the order of the model.
- `operators TARGET`: the default config of each of `OPERATORS` with its own template, with the
  derived one, and with Winograd's where that is possible. On the first target also `SAMPLES`
  random configs of its own template, and for each fourth operator of the others.
- `search LANDSCAPE`, for each of `LANDSCAPES`: the records of a replayed search, for every policy
  and each of `SEEDS`.

A kernel's text is its loops as lowered and after all passes, and its LLVM text; nothing is
compiled. A config that is refused has the refusal as its text. Ids are made of models, operators,
templates and configs, never of names in the source.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from loopwright.api.replay import recorded_task
from loopwright.api.task import task_of
from loopwright.build import compile as backend
from loopwright.codegen.llvm import object_code
from loopwright.codegen.llvm.emit import emit
from loopwright.deploy.choose import Chooser, ModelOptions, tasks
from loopwright.deploy.compile import import_graph
from loopwright.errors import LoopwrightError
from loopwright.frontends.onnx.bundled import bundled
from loopwright.graph.fuse import Fused, fuse
from loopwright.graph.in_place import overwritable
from loopwright.graph.layouts import Chosen, alignment, place
from loopwright.graph.plan import MemoryPlan, PlannedCall, plan
from loopwright.learn.features import featurize
from loopwright.lower.pipeline import apply_passes
from loopwright.measure.landscape import Landscape, load
from loopwright.measure.replay import ReplayRunner
from loopwright.ops.attributes import Attrs
from loopwright.outcome import Failed, Timed
from loopwright.search.feature_table import FeatureTable
from loopwright.search.policies import NAMES, make_policy
from loopwright.search.policy import Policy
from loopwright.search.result import Budget, Event, TrialDone
from loopwright.search.tuner import TuneOptions, tune_tasks
from loopwright.space.config import Config
from loopwright.target.parse import parse
from loopwright.target.presets import PRESETS
from loopwright.target.union import Target
from loopwright.templates import derived
from loopwright.templates.apply import good_config
from loopwright.templates.registry import templates_for
from loopwright.templates.task import Task

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("x86-64-avx512", "aarch64-neon")
"""Presets, so that the host has no say; random configs are of the first one."""
PORTED = ("bert_base", "dcgan", "dqn", "lstm_lm", "mobilenet_v2", "resnet18")
LANDSCAPES = ("C2", "matmul-512")
SEEDS = (0, 1)
SAMPLES = 20
_CORES = 4
_TRIALS = 96
_IN_FLIGHT = 3
_DIGITS = 12
_PAD = (1, 1, 1, 1)

OPERATORS: tuple[tuple[str, Attrs], ...] = (
    ("conv2d", {"data": (1, 16, 10, 10), "weight": (32, 16, 3, 3), "padding": _PAD}),
    ("conv2d", {"data": (1, 13, 9, 11), "weight": (19, 13, 3, 3), "padding": _PAD, "bias": True}),
    ("conv2d", {"data": (2, 16, 11, 11), "weight": (24, 16, 3, 3), "strides": (2, 2)}),
    ("conv2d", {"data": (1, 32, 7, 9), "weight": (17, 32, 1, 1), "epilogue": "add", "relu": True}),
    ("conv2d", {"data": (1, 8, 12, 12), "weight": (16, 8, 3, 3), "dilation": (2, 3)}),
    ("conv2d", {"data": (1, 32, 8, 8), "weight": (48, 16, 3, 3), "groups": 2, "padding": _PAD}),
    ("conv2d", {"data": (1, 8, 6, 6), "weight": (12, 8, 3, 3), "dtype": "float64"}),
    ("depthwise_conv2d", {"data": (1, 32, 9, 9), "weight": (32, 1, 3, 3), "padding": _PAD}),
    ("depthwise_conv2d", {"data": (2, 13, 8, 7), "weight": (13, 1, 3, 3), "padding": _PAD}),
    ("depthwise_conv2d", {"data": (1, 16, 11, 11), "weight": (16, 1, 5, 5), "strides": (2, 2)}),
    ("depthwise_conv2d", {"data": (1, 6, 8, 8), "weight": (18, 1, 3, 3), "bias": True}),
    ("depthwise_conv2d", {"data": (1, 20, 9, 10), "weight": (20, 1, 3, 3), "dilation": (2, 2)}),
    (
        "depthwise_conv2d",
        {"data": (1, 16, 7, 7), "weight": (16, 1, 3, 3), "epilogue": "hard_swish,add"},
    ),
    (
        "separable_conv2d",
        {
            "data": (1, 32, 9, 9),
            "depthwise": (32, 1, 3, 3),
            "weight": (24, 32, 1, 1),
            "padding": _PAD,
            "depthwise_bias": True,
            "depthwise_epilogue": "clip(0,6)",
            "epilogue": "add",
        },
    ),
    (
        "separable_conv2d",
        {
            "data": (1, 16, 11, 11),
            "depthwise": (16, 1, 5, 5),
            "weight": (40, 16, 1, 1),
            "strides": (2, 2),
        },
    ),
    (
        "separable_conv2d",
        {"data": (1, 13, 8, 7), "depthwise": (13, 1, 3, 3), "weight": (9, 13, 1, 1), "relu": True},
    ),
    (
        "separable_conv2d",
        {"data": (2, 16, 6, 7), "depthwise": (16, 1, 3, 2), "weight": (33, 16, 1, 1)},
    ),
    ("dense", {"data": (1, 64), "weight": (50, 64)}),
    ("dense", {"data": (7, 37), "weight": (21, 37), "bias": True, "epilogue": "gelu,add"}),
    ("matmul", {"a": (13, 29), "b": (29, 35)}),
    ("matmul", {"a": (20, 128), "b": (128, 40), "constant_b": True}),
    ("matmul", {"a": (24, 17), "b": (33, 24), "transpose_a": True, "transpose_b": True}),
    ("batch_matmul", {"a": (3, 10, 22), "b": (3, 22, 19)}),
)
"""Operators in small shapes, with tails and whatever else templates treat apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A text with its id; the id begins with the group."""

    id: str
    text: str

    @property
    def digest(self) -> str:
        """What stands for the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_DIGITS]


@dataclass(frozen=True, slots=True)
class Pick:
    """A config of a task; `id` says which, within the group."""

    id: str
    task: Task
    config: Config


def groups() -> tuple[str, ...]:
    """The names of all groups."""
    models = [f"{model} {TARGETS[0]}" for model in bundled()]
    models += [f"{model} {target}" for target in TARGETS[1:] for model in PORTED]
    operators = [f"operators {target}" for target in TARGETS]
    return (*models, *operators, *(f"search {name}" for name in LANDSCAPES))


def entries(group: str) -> Iterator[Entry]:
    """The entries of a group, in the same order each time."""
    kind, _, what = group.partition(" ")
    sampled = what == TARGETS[0]
    if kind == "search":
        made = _searches(load(ROOT / "landscapes" / f"{what}.json.gz"))
    elif kind == "operators":
        picks = _operators(_target(what), sampled=sampled)
        made = (Entry(pick.id, kernel_text(pick)) for pick in picks)
    else:
        made = _model(kind, _target(what), sampled=sampled)
    return (replace(entry, id=f"{group} / {entry.id}") for entry in made)


def kernel_text(pick: Pick) -> str:
    """The loops and the LLVM text of a config, or why it is refused.

    The package compiles it as always, but what would go to LLVM is taken instead.
    """
    with (
        patch.object(backend, "apply_passes", wraps=apply_passes) as finished,
        patch.object(object_code, "emit", wraps=emit) as emitted,
        patch.object(object_code, "assemble") as assembled,
    ):
        try:
            backend.compile_config(pick.task, pick.config)
        except LoopwrightError as error:
            return f"{pick.config}\nrefused: {error}\n"
    source = assembled.call_args.args[0]
    params = "\n".join(
        f"{p.name} {p.dtype} {p.shape} {p.layout} align {p.alignment} {p.transform}".rstrip()
        for p in source.params
    )
    needs = f"shared {source.workspace_shared}, each thread {source.workspace_per_thread}"
    loops = [str(call.call_args.args[0]) for call in (finished, emitted)]
    parts = [str(pick.config), *loops, params, needs, f"branching {source.branching}", source.text]
    return "\n".join(parts)


def _target(name: str) -> Target:
    return parse(replace(PRESETS[name], cores=_CORES))


def _model(name: str, target: Target, *, sampled: bool) -> Iterator[Entry]:
    """The plan of a model, and its kernels."""
    options = ModelOptions(target, _CORES)
    fused = fuse(import_graph(name, hollow=True))
    placed = place(fused, Chooser(options, use_records=False), target, _CORES)
    planned = plan(placed, alignment(target), functools.cache(overwritable))
    yield Entry("plan", _plan_text(planned))
    used = [_picked(call) for call in planned.calls]
    others = _others(fused, options)
    picks = _distinct([*used, *others])
    if sampled:
        picks += [sample for pick in _middle(picks) for sample in _samples(pick)]
    for pick in picks:
        yield Entry(pick.id, kernel_text(pick))


def _plan_text(planned: MemoryPlan) -> str:
    """The calls of a model with their configs and memory, one a line."""
    lines = [f"memory {planned.nbytes} of {planned.sum_bytes}"]
    for made in planned.calls:
        call = made.call
        at = " ".join(f"{s.kind.value}:{s.index}:{s.offset}" for s in made.arguments)
        chosen = call.chosen
        lines.append(
            f"{call.name} [{', '.join(call.nodes)}] {chosen.task.key} {chosen.origin} "
            f"{chosen.config} {call.inputs} -> {call.outputs} at {at} over {made.over}"
        )
    return "\n".join([*lines, ""])


def _picked(planned: PlannedCall) -> Pick:
    """The config of a call, as it is compiled: with the input that it is written over."""
    chosen: Chosen = planned.call.chosen
    task = chosen.task
    if planned.over is not None:
        names = (task.workload.inputs[planned.over].name, task.workload.outputs[0].name)
        task = replace(task, in_place=(names,))
    return Pick(_id(planned.call.name, task, "used"), task, chosen.config)


def _others(fused: Fused, options: ModelOptions) -> list[Pick]:
    """The default config of every way to compute each kernel."""
    return [
        Pick(_id(kernel.name, task, "default"), task, good_config(task))
        for kernel in fused.kernels
        for task in tasks(kernel, options)
    ]


def _id(name: str, task: Task, config: str) -> str:
    return f"{name} / {task.template.name} / {config}"


def _distinct(picks: list[Pick]) -> list[Pick]:
    """The picks without those that compile the same as one before."""
    found: dict[str, Pick] = {}
    for pick in picks:
        found.setdefault(backend.kernel_name(pick.task, pick.config), pick)
    return list(found.values())


def _middle(picks: list[Pick]) -> list[Pick]:
    """Of each template, the pick that is in the middle."""
    by_template: dict[str, list[Pick]] = {}
    for pick in picks:
        by_template.setdefault(pick.task.template.name, []).append(pick)
    return [same[len(same) // 2] for same in by_template.values()]


def _samples(pick: Pick) -> list[Pick]:
    """Random configs of the task, the same each time."""
    name = pick.id.rpartition(" / ")[0]
    space = pick.task.space
    points = space.sample(np.random.default_rng(zlib.crc32(name.encode())), SAMPLES)
    return [
        Pick(f"{name} / random {number:02}", pick.task, space.decode(point))
        for number, point in enumerate(points)
    ]


def _operators(target: Target, *, sampled: bool) -> Iterator[Pick]:
    """The configs of the operators in `OPERATORS`."""
    for number, (operator, attrs) in enumerate(OPERATORS):
        own = task_of(operator, attrs, target=target, threads=_CORES)
        others = templates_for(operator, own.workload, target)
        templates = {t.name: t for t in (own.template, derived.TEMPLATE, *others)}
        for template in templates.values():
            task = task_of(operator, attrs, target=target, threads=_CORES, template=template)
            name = f"{number:02} {task.name}"
            pick = Pick(_id(name, task, "default"), task, good_config(task))
            yield pick
            if sampled and (template is own.template or number % 4 == 0):
                yield from _samples(pick)


def _searches(scape: Landscape) -> Iterator[Entry]:
    """The records of a search for each policy and seed."""
    task = recorded_task(scape)
    features = FeatureTable(scape.space, functools.partial(featurize, task))

    def make(policy: str) -> Callable[[Task, np.random.Generator], Policy]:
        return lambda _, rng: make_policy(policy, scape.space, rng, features)

    for policy in NAMES:
        for seed in SEEDS:
            text = _search_text(task, scape, make(policy), seed)
            yield Entry(f"{policy} / seed {seed}", text)


def _search_text(
    task: Task,
    scape: Landscape,
    factory: Callable[[Task, np.random.Generator], Policy],
    seed: int,
) -> str:
    """The configs that a search measured with what came of them, one a line."""
    lines: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, TrialDone):
            lines.append(f"{event.n} {event.recheck} {_outcome(event)} {event.config.key}")

    runner = ReplayRunner(scape, slots=_IN_FLIGHT)
    budget, options = Budget(_TRIALS), TuneOptions()
    tune_tasks([task], runner, factory, budget=budget, seed=seed, options=options, on_event=note)
    return "\n".join([*lines, ""])


def _outcome(event: TrialDone) -> str:
    match event.outcome:
        case Timed(best_ns=ns):
            return f"{ns:.1f}"
        case Failed(stage=stage, kind=kind):
            return f"{stage.value}:{kind.value}"

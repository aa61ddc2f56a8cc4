"""Which of several ways to compute each kernel is taken, so that the model takes the least time.

The fastest way to compute a kernel may want its arguments in other layouts than its neighbours
make them, and changes of layout cost time too. Dynamic programming over the steps in order weighs
both: its state is the layouts of the values that are read later, and of the copies of them that
there are already. Of all ways to reach a state, the fastest is kept. That is exact as long
as there are no more than `MOST` states at a step; of more, the fastest are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from loopwright.graph.fuse import Fused, FusedKernel, Join, ViewStep
from loopwright.graph.ir import Value
from loopwright.graph.layouts import Choose, Chosen, Layouts, argument_layouts, given_layouts
from loopwright.layout import Layout

Alternatives: TypeAlias = Callable[[FusedKernel], Sequence[Chosen]]
"""Ways to compute a kernel, each with the time it takes if there are several."""
ChangeNs: TypeAlias = Callable[[Value, Layout, Layout], float]
"""Nanoseconds that it takes to copy a value from one layout into another."""
MOST = 512
_Key: TypeAlias = "tuple[tuple[tuple[str, Layout], ...], frozenset[tuple[str, Layout]]]"


@dataclass(frozen=True, slots=True)
class _Trail:
    """The choices on the way to a state, the last one first."""

    kernel: str
    chosen: Chosen
    before: _Trail | None


@dataclass(frozen=True, slots=True)
class _State:
    """How values lie, which copies there are, and the best way there."""

    layouts: Mapping[str, Layout]
    copies: frozenset[tuple[str, Layout]]
    ns: float
    trail: _Trail | None

    @property
    def key(self) -> _Key:
        """What the time of later steps depends on."""
        return tuple(sorted(self.layouts.items(), key=lambda item: item[0])), self.copies


def select(
    fused: Fused, alternatives: Alternatives, follow: Choose, change_ns: ChangeNs
) -> dict[str, Chosen]:
    """The ways to compute the kernels of which `alternatives` has several, by name.

    Args:
        follow: how a kernel is computed that takes layouts as they come.
    """
    choices = {
        kernel.name: tuple(alternatives(kernel))
        for kernel in fused.kernels
        if kernel.operator != "fused"
    }
    if all(len(ways) == 1 for ways in choices.values()):
        return {}
    search = _Search(fused, choices, follow, change_ns)
    states = [_State({n: search.plain(n) for n in fused.graph.inputs}, frozenset(), 0.0, None)]
    for place, step in enumerate(fused.steps):
        states = search.kept(
            place, [after for state in states for after in search.after(state, step)]
        )
    best = min((search.ended(state) for state in states), key=lambda state: state.ns)
    found, trail = {}, best.trail
    while trail is not None:
        found[trail.kernel] = trail.chosen
        trail = trail.before
    return found


@dataclass(slots=True)
class _Search:
    fused: Fused
    choices: Mapping[str, Sequence[Chosen]]
    follow: Choose
    change_ns: ChangeNs
    last: dict[str, int] = field(init=False)
    """The last step that reads each value; outputs of the model are read after all."""
    _arguments: dict[tuple[str, int, Layouts], tuple[tuple[Layout, ...], tuple[Layout, ...]]] = (
        field(default_factory=dict, init=False)
    )

    def __post_init__(self) -> None:
        self.last = {}
        for place, step in enumerate(self.fused.steps):
            for name in _reads(step):
                self.last[name] = place
        self.last.update({name: len(self.fused.steps) for name in self.fused.graph.outputs})

    def plain(self, name: str) -> Layout:
        """The row-major layout of a value."""
        return Layout.plain(len(self.fused.values[name].shape))

    def after(self, state: _State, step: FusedKernel | ViewStep | Join) -> list[_State]:
        """The states that a step leads to."""
        match step:
            case ViewStep():
                changed = self._read(state, step.source, self.plain(step.source))
                return [self._made(changed, {step.output: self.plain(step.output)})]
            case Join(kernel=kernel, axis=axis):
                return [self._follow(state, kernel, axis)]
            case FusedKernel() if step.operator == "fused":
                return [self._follow(state, step, None)]
            case FusedKernel():
                ways = self.choices[step.name]
                several = len(ways) > 1
                return [
                    self._computed(state, step, chosen, number, (), chosen=several)
                    for number, chosen in enumerate(ways)
                ]

    def kept(self, place: int, states: Sequence[_State]) -> list[_State]:
        """The fastest way to each state, without values that nothing reads after step `place`."""
        best: dict[_Key, _State] = {}
        for state in states:
            alive = {n: at for n, at in state.layouts.items() if self.last.get(n, -1) > place}
            copies = frozenset(copy for copy in state.copies if copy[0] in alive)
            short = _State(alive, copies, state.ns, state.trail)
            known = best.get(short.key)
            if known is None or short.ns < known.ns:
                best[short.key] = short
        return sorted(best.values(), key=lambda state: state.ns)[:MOST]

    def ended(self, state: _State) -> _State:
        """The state with the model's outputs in row-major order."""
        for name in self.fused.graph.outputs:
            if name not in self.fused.constants:
                state = self._read(state, name, self.plain(name))
        return state

    def _follow(self, state: _State, kernel: FusedKernel, axis: int | None) -> _State:
        """A kernel that takes layouts as they come; its own time is the same in any."""
        given = given_layouts(self.fused, kernel, axis, state.layouts)
        return self._computed(state, kernel, self.follow(kernel, given), 0, given, chosen=False)

    def _computed(
        self,
        state: _State,
        kernel: FusedKernel,
        way: Chosen,
        number: int,
        given: Layouts,
        *,
        chosen: bool,
    ) -> _State:
        """The state behind a kernel, its inputs in the layouts that it wants."""
        key = (kernel.name, number, given)
        if key not in self._arguments:
            self._arguments[key] = argument_layouts(self.fused, kernel, way, way.layouts())
        wanted, made = self._arguments[key]
        for name, layout in zip(kernel.inputs, wanted, strict=True):
            if name not in self.fused.constants:
                state = self._read(state, name, layout)
        if chosen:
            trail = _Trail(kernel.name, way, state.trail)
            ns = state.ns + (way.expected_ns or 0.0)
            state = _State(state.layouts, state.copies, ns, trail)
        return self._made(state, dict(zip(kernel.outputs, made, strict=True)))

    def _read(self, state: _State, name: str, layout: Layout) -> _State:
        """The state in which `name` lies in `layout`, or a copy of it does."""
        value, before = self.fused.values[name], state.layouts[name]
        if layout.same_memory(before, value.shape) or (name, layout) in state.copies:
            return state
        ns = state.ns + self.change_ns(value, before, layout)
        return _State(state.layouts, state.copies | {(name, layout)}, ns, state.trail)

    def _made(self, state: _State, layouts: Mapping[str, Layout]) -> _State:
        return _State({**state.layouts, **layouts}, state.copies, state.ns, state.trail)


def _reads(step: FusedKernel | ViewStep | Join) -> tuple[str, ...]:
    match step:
        case ViewStep():
            return (step.source,)
        case Join(kernel=kernel):
            return kernel.inputs
        case FusedKernel():
            return step.inputs

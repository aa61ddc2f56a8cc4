"""ONNX's recurrent operators, written out step by step: LSTM, GRU, RNN.

The data's contribution is one product for all steps; with a single step, data and state share one
product. Gates are slices of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule

Activation = Callable[[OnnxCall, str], str]


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction of a recurrent node: what it computes with.

    `w` is [gates * hidden, input], `r` is [gates * hidden, hidden], `wb` and `rb` are the biases of
    either, [gates * hidden]; `peephole` is [3 * hidden]. `order` are the steps as they are taken.
    """

    call: OnnxCall
    hidden: int
    w: str
    r: str
    wb: str | None
    rb: str | None
    peephole: str | None
    activations: tuple[Activation, ...]
    order: tuple[int, ...]

    def gates(self, value: str, count: int) -> tuple[str, ...]:
        """`value`, [batch, count * hidden], in parts of [batch, hidden]."""
        last = len(self.call.shape_of(value)) - 1
        return tuple(
            self.call.slice(value, last, n * self.hidden, self.hidden) for n in range(count)
        )

    def bias(self) -> str | None:
        """Both biases added up, None without."""
        if self.wb is None or self.rb is None:
            return None
        return self.call.emit("add", self.wb, self.rb)

    def bounded(self, value: str) -> str:
        """`value` within the attribute clip, as what activations are given."""
        if "clip" not in self.call.attrs:
            return value
        limit = self.call.number("clip")
        return self.call.emit("clip", value, min=-limit, max=limit)


State = tuple[str, ...]
Step = Callable[[_Direction, Callable[[str], str], str, State], State]
"""(direction, product with the recurrent weights, what data give, state before) -> state after."""


def _scaled(call: OnnxCall, value: str, factor: float) -> str:
    return call.emit("mul", value, call.constant(factor, call.dtype_of(value)))


def _affine(call: OnnxCall, x: str, alpha: float, beta: float) -> str:
    scaled = _scaled(call, x, alpha)
    return call.emit("add", scaled, call.constant(beta, call.dtype_of(x)))


_PLAIN = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "softsign": "softsign",
    "softplus": "softplus",
}
_WITH_ALPHA = {"leakyrelu": ("leaky_relu", 0.01), "elu": ("elu", 1.0),
               "thresholdedrelu": ("thresholded_relu", 1.0)}  # fmt: skip


def _activation(call: OnnxCall, name: str, alphas: list[float], betas: list[float]) -> Activation:
    """The activation `name`, which takes its parameters off the lists."""
    kind = name.lower()
    if kind in _PLAIN:
        return lambda call, x: call.emit(_PLAIN[kind], x)
    if kind in _WITH_ALPHA:
        op, default = _WITH_ALPHA[kind]
        slope = alphas.pop(0) if alphas else default
        return lambda call, x: call.emit(op, x, alpha=slope)
    if kind not in ("affine", "hardsigmoid", "scaledtanh"):
        raise call.refuse(f"the activation {name!r} is not supported")
    first, second = (0.2, 0.5) if kind == "hardsigmoid" else (1.0, 0.0 if kind == "affine" else 1.0)
    alpha, beta = alphas.pop(0) if alphas else first, betas.pop(0) if betas else second
    if kind == "affine":
        return lambda call, x: _affine(call, x, alpha, beta)
    if kind == "hardsigmoid":
        return lambda call, x: call.emit("hard_sigmoid", x, alpha=alpha, beta=beta)
    return lambda call, x: _scaled(call, call.emit("tanh", _scaled(call, x, beta)), alpha)


def _lstm_step(d: _Direction, recur: Callable[[str], str], data: str, state: State) -> State:
    """Gates in the order of ONNX: input, output, forget, cell."""
    call, (h, c) = d.call, state
    f, g, last = d.activations
    i, o, forget, cell = d.gates(recur(h) if not data else call.emit("add", data, recur(h)), 4)
    peep = d.gates(d.peephole, 3) if d.peephole is not None else None
    if peep is not None:
        i = call.emit("add", i, call.emit("mul", peep[0], c))
        forget = call.emit("add", forget, call.emit("mul", peep[2], c))
    i = f(call, d.bounded(i))
    if call.integer("input_forget", 0):
        forget = call.emit("sub", call.constant(1, call.dtype()), i)
    else:
        forget = f(call, d.bounded(forget))
    fresh = call.emit("mul", i, g(call, d.bounded(cell)))
    c = call.emit("add", call.emit("mul", forget, c), fresh)
    if peep is not None:
        o = call.emit("add", o, call.emit("mul", peep[1], c))
    return call.emit("mul", f(call, d.bounded(o)), last(call, c)), c


def _gru_step(d: _Direction, recur: Callable[[str], str], data: str, state: State) -> State:
    """Gates in the order of ONNX: update, reset, hidden."""
    call, (h,) = d.call, state
    f, g = d.activations
    width = d.hidden
    zx, rx, nx = d.gates(data, 3)
    linear = call.integer("linear_before_reset", 0)
    if linear:
        zh, rh, nh = d.gates(recur(h), 3)
    else:
        zh, rh = d.gates(_gemm(call, h, call.slice(d.r, 0, 0, 2 * width), None), 2)
        nh = call.slice(d.r, 0, 2 * width, width)
    z = f(call, d.bounded(call.emit("add", zx, zh)))
    r = f(call, d.bounded(call.emit("add", rx, rh)))
    reset = call.emit("mul", r, nh if linear else h)
    again = reset if linear else _gemm(call, reset, nh, None)
    n = g(call, d.bounded(call.emit("add", nx, again)))
    kept = call.emit("mul", z, call.emit("sub", h, n))
    return (call.emit("add", n, kept),)


def _rnn_step(d: _Direction, recur: Callable[[str], str], data: str, state: State) -> State:
    call, (h,) = d.call, state
    total = recur(h) if not data else call.emit("add", data, recur(h))
    return (d.activations[0](call, d.bounded(total)),)


_TRANSPOSED: Mapping[str, float | int] = {"alpha": 1.0, "beta": 1.0, "trans_a": 0, "trans_b": 1}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A recurrent operator: gates, default activations, states, and where its inputs are."""

    gates: int
    activations: tuple[str, ...]
    states: int
    step: Step
    splits_bias: bool = False  # part of the recurrent bias stays inside the reset gate


def _recurrent(kind: _Kind) -> Rule:
    def rule(call: OnnxCall) -> tuple[str, ...]:
        return _unrolled(call, kind)

    return rule


def _unrolled(call: OnnxCall, kind: _Kind) -> tuple[str, ...]:
    batch_first = call.integer("layout", 0) == 1
    data = call.transpose(call.x(), (1, 0, 2)) if batch_first else call.x()
    steps, batch, _ = call.shape_of(data)
    found = [_direction(call, kind, n, steps) for n in range(call.shape(1)[0])]
    every, last = [], []
    for n, direction in enumerate(found):
        state = tuple(
            _initial(call, direction, n, 5 + s, batch, batch_first=batch_first)
            for s in range(kind.states)
        )
        outputs, state = _run(direction, kind, data, state)
        every.append([call.reshape(h, (1, 1, batch, direction.hidden)) for h in outputs])
        last.append([call.reshape(s, (1, batch, direction.hidden)) for s in state])
    ends = [_joined(call, [s[n] for s in last], 0) for n in range(kind.states)]
    whole = ""
    if call.used[0]:
        moments = [_joined(call, [e[t] for e in every], 1) for t in range(steps)]
        whole = _joined(call, moments, 0)
        whole = call.transpose(whole, (2, 0, 1, 3)) if batch_first else whole
    if batch_first:
        ends = [call.transpose(end, (1, 0, 2)) for end in ends]
    return (whole, *ends)


def _joined(call: OnnxCall, parts: Sequence[str], axis: int) -> str:
    return parts[0] if len(parts) == 1 else call.emit("concat", *parts, axis=axis)


def _lengths(call: OnnxCall, steps: int) -> str:
    """The lengths of the sequences, [batch, 1]; "" when all have all steps."""
    if not call.has(4):
        return ""
    known = call.builder.array(call.x(4))
    if known is not None and (known == steps).all():
        return ""
    return call.reshape(call.x(4), (call.shape(4)[0], 1))


def _masked(call: OnnxCall, lengths: str, step: int, new: str, old: str) -> str:
    """`new` for sequences that have `step`, `old` for those that ended before it."""
    there = call.emit("greater", lengths, call.constant(step, call.dtype_of(lengths)))
    return call.emit("where", there, new, old)


def _direction(call: OnnxCall, kind: _Kind, n: int, steps: int) -> _Direction:
    """Direction `n` of a recurrent node."""
    mode = call.text("direction", "forward")
    backwards = mode == "reverse" or n == 1
    hidden = call.shape(2)[2]
    size = kind.gates * hidden

    def part(place: int, shape: tuple[int, ...]) -> str:
        return call.reshape(call.slice(call.x(place), 0, n, 1), shape)

    wb = rb = None
    if call.has(3):
        both = part(3, (2 * size,))
        wb, rb = call.slice(both, 0, 0, size), call.slice(both, 0, size, size)
    peephole = part(7, (3 * hidden,)) if kind.states == 2 and call.has(7) else None
    names = _names(call, kind)[n * len(kind.activations) :]
    alphas = [float(v) for v in _numbers(call, "activation_alpha")]
    betas = [float(v) for v in _numbers(call, "activation_beta")]
    made = [_activation(call, name, alphas, betas) for name in _names(call, kind)]
    chosen = tuple(made[n * len(kind.activations) :][: len(kind.activations)])
    if len(chosen) != len(kind.activations):
        raise call.wrong(f"it has {len(names)} activations for this direction")
    return _Direction(
        call,
        hidden,
        w=part(1, (size, call.shape(1)[2])),
        r=part(2, (size, hidden)),
        wb=wb,
        rb=rb,
        peephole=peephole,
        activations=chosen,
        order=tuple(reversed(range(steps))) if backwards else tuple(range(steps)),
    )


def _names(call: OnnxCall, kind: _Kind) -> tuple[str, ...]:
    given = call.attrs.get("activations", kind.activations * call.shape(1)[0])
    if not isinstance(given, tuple):
        raise call.wrong("its attribute activations is not a list")
    return tuple(str(name) for name in given)


def _numbers(call: OnnxCall, name: str) -> tuple[float, ...]:
    given = call.attrs.get(name, ())
    if not isinstance(given, tuple):
        raise call.wrong(f"its attribute {name} is not a list")
    return tuple(float(v) for v in given if not isinstance(v, str))


def _initial(
    call: OnnxCall, d: _Direction, n: int, place: int, batch: int, *, batch_first: bool
) -> str:
    """The state before the first step: what is given, or zeros."""
    if not call.has(place):
        return call.constant(np.zeros((batch, d.hidden), call.dtype().numpy))
    axis = 1 if batch_first else 0
    return call.reshape(call.slice(call.x(place), axis, n, 1), (batch, d.hidden))


def _run(d: _Direction, kind: _Kind, data: str, state: State) -> tuple[list[str], State]:
    """The hidden state after each step, by time; and the state at the end."""
    call = d.call
    steps, batch, width = call.shape_of(data)
    outputs = [""] * steps
    if steps == 1 and not kind.splits_bias and not _lengths(call, steps):
        weights = call.emit("concat", d.w, d.r, axis=1)
        bias = d.bias()
        now = call.reshape(data, (batch, width))

        def together(h: str) -> str:
            both = call.emit("concat", now, h, axis=1)
            return _gemm(call, both, weights, bias)

        state = kind.step(d, together, "", state)
        return [state[0]], state
    keep_bias = kind.splits_bias and call.integer("linear_before_reset", 0)
    rows = call.reshape(data, (steps * batch, width))
    products = _gemm(call, rows, d.w, d.wb if keep_bias else d.bias())
    moments = call.reshape(products, (steps, batch, kind.gates * d.hidden))

    def recur(h: str) -> str:
        return _gemm(call, h, d.r, d.rb if keep_bias else None)

    lengths, zero = _lengths(call, steps), call.constant(0, call.dtype())
    for t in d.order:
        now = call.reshape(call.slice(moments, 0, t, 1), (batch, kind.gates * d.hidden))
        before, state = state, kind.step(d, recur, now, state)
        outputs[t] = state[0]
        if lengths:
            outputs[t] = _masked(call, lengths, t, state[0], zero)
            pairs = zip(state, before, strict=True)
            state = tuple(_masked(call, lengths, t, new, old) for new, old in pairs)
    return outputs, state


def _gemm(call: OnnxCall, a: str, b: str, bias: str | None) -> str:
    """`a @ b.T + bias`."""
    operands = (a, b) if bias is None else (a, b, bias)
    return call.emit("gemm", *operands, **_TRANSPOSED)


RULES: Mapping[str, Rule] = {
    "GRU": _recurrent(_Kind(3, ("Sigmoid", "Tanh"), 1, _gru_step, splits_bias=True)),
    "LSTM": _recurrent(_Kind(4, ("Sigmoid", "Tanh", "Tanh"), 2, _lstm_step)),
    "RNN": _recurrent(_Kind(1, ("Tanh",), 1, _rnn_step)),
}

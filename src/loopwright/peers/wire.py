"""What a peer process is asked and what it answers: one JSON object a line, both ways."""

from __future__ import annotations

import msgspec

from loopwright.ops.attributes import AttrValue


class OpSpec(msgspec.Struct, frozen=True, tag="load", tag_field="ask"):
    """An operator to make ready, with the attributes of its task; answered by `PeerReady`."""

    operator: str
    attrs: dict[str, AttrValue]
    seed: int = 0

    def shape(self, name: str) -> tuple[int, ...]:
        """The attribute `name`, a list of integers."""
        value = self.attrs[name]
        if not isinstance(value, tuple):
            raise TypeError(f"{self.operator}: {name} is {value!r}, not a list of integers")
        return value

    def integer(self, name: str, default: int) -> int:
        """The attribute `name`, a number."""
        return int(value) if isinstance(value := self.attrs.get(name, default), int) else default

    def flag(self, name: str) -> bool:
        """The attribute `name`, yes or no; no when it is left out."""
        return bool(self.attrs.get(name, False))


class ModelSpec(msgspec.Struct, frozen=True, tag="model", tag_field="ask"):
    """A whole model to make ready; answered by `PeerReady`.

    `path` is an ONNX file, or a tuned model for our own engine. `inputs` is an .npz file with the
    inputs by name; the outputs, in the model's order, are written to `outputs`, another one.
    """

    path: str
    inputs: str
    outputs: str


class TimeIt(msgspec.Struct, frozen=True, tag="time", tag_field="ask"):
    """Run what is loaded; answered by `Times`, `repeats` figures of nanoseconds a call.

    A figure is the mean of as many calls as fit in `min_repeat_s`. With `kernel`, one figure is the
    time inside the operator's own kernel alone, without layout changes at its ends and without
    call overhead; no figures when the peer cannot tell.
    """

    repeats: int
    min_repeat_s: float
    kernel: bool = False


Ask = OpSpec | ModelSpec | TimeIt


class PeerReady(msgspec.Struct, frozen=True, tag="ready", tag_field="answer"):
    """The operator or model runs. `form` says how the peer computes it.

    Of a model it also says how long it took to load, in seconds, and the most memory that the
    process has had so far, in bytes.
    """

    form: str
    load_s: float = 0.0
    peak_bytes: int = 0


class Times(msgspec.Struct, frozen=True, tag="times", tag_field="answer"):
    """Nanoseconds a call, in the order measured."""

    ns: tuple[float, ...]


class PeerRefusal(msgspec.Struct, frozen=True, tag="refused", tag_field="answer"):
    """The peer cannot do what was asked; one line for a person."""

    reason: str


Answer = PeerReady | Times | PeerRefusal

"""What a peer process is asked and what it answers: one JSON object a line, both ways."""

from __future__ import annotations

import msgspec

from loopwright.ops.attrs import AttrValue


class OpSpec(msgspec.Struct, frozen=True, tag="load", tag_field="ask"):
    """An operator to make ready, with the attributes of its task; answered by `Ready`."""

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


class TimeIt(msgspec.Struct, frozen=True, tag="time", tag_field="ask"):
    """Run what is loaded; answered by `Times`, `repeats` figures of nanoseconds a call.

    A figure is the mean of as many calls as fit in `min_repeat_s`. With `kernel`, one figure is the
    time inside the operator's own kernel alone, without layout changes at its ends and without
    call overhead; no figures when the peer cannot tell.
    """

    repeats: int
    min_repeat_s: float
    kernel: bool = False


Ask = OpSpec | TimeIt


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="answer"):
    """The operator runs. `form` says how the peer computes it."""

    form: str


class Times(msgspec.Struct, frozen=True, tag="times", tag_field="answer"):
    """Nanoseconds a call, in the order measured."""

    ns: tuple[float, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused", tag_field="answer"):
    """The peer cannot do what was asked; one line for a person."""

    reason: str


Answer = Ready | Times | Refused

"""What is wrong with a selector that matches nothing, as a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from loopwright.fleet.selector import parse
from loopwright.fleet.views import DeviceView

_MOST_LABELS = 12


def none_matches(selector: str, there: Sequence[DeviceView]) -> str:
    """Why none of the devices that are `there` matches: a label that none has, or its values."""
    if not there:
        return f"no device matches {selector!r}: none has registered"
    for term in parse(selector).terms:
        values = sorted({view.labels[term.key] for view in there if term.key in view.labels})
        if not values:
            keys = sorted({key for view in there for key in view.labels})
            return f"no device has a label {term.key!r}; there are {_some(keys)}"
        if not any(parse(str(term)).matches(view.labels) for view in there):
            return f"no device matches {str(term)!r}; {term.key} is {_some(values)}"
    return f"no device matches all of {selector!r}, though each term alone matches some"


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_MOST_LABELS]) + (", ..." if words[_MOST_LABELS:] else "")

"""Names of tasks as people read them."""

from __future__ import annotations

_UNSAID = {
    "strides=1x1",
    "padding=0x0x0x0",
    "dilation=1x1",
    "groups=1",
    "bias=False",
    "relu=False",
    "dtype=float32",
}


def short(task: str) -> str:
    """The name of a task without what goes without saying."""
    words = []
    for word in task.split():
        name, _, value = word.partition("=")
        extents = value.split("x")
        if word in _UNSAID:
            continue
        if name in ("data", "a", "ops"):
            words.append(value)
        elif name in ("weight", "b", "depthwise"):
            words.append(f"{name[0]} {value}")
        elif name in ("strides", "padding", "dilation"):
            words.append(name[0] + (extents[0] if len(set(extents)) == 1 else value))
        elif name.endswith("epilogue"):
            words.append(f"+ {value}")
        else:
            words.append(name.replace("_", " ") if value == "True" else word)
    return " ".join(words)

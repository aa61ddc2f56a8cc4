#!/usr/bin/env python3
"""Write the result table of the README from the JSON of a benchmark.

loopwright bench resnet18 --ops --compare onnxruntime -o json > out/bench.json
tools/readme.py out/bench.json "loopwright bench resnet18 --ops --compare onnxruntime"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- result: begin -->\n", "<!-- result: end -->"


def markdown(result: dict, command: str, machine: str) -> str:
    """The table of a bench result, and below it the command that made it."""
    peers = sorted(result["geometric_mean_ratio"])
    head = ["times", "task", "kernel us", "GFLOP/s", "plain us"]
    for peer in peers:
        head += [f"{peer} us", "ratio"]
    lines = [_row(head), _row(["---:", "---", *["---:"] * (len(head) - 2)])]
    for op in result["ops"]:
        ns = op["ns"]
        cells = [str(op["count"]), _task(op), _us(ns["kernel"]), f"{op['gflops']['kernel']:.0f}"]
        cells.append(_us(ns.get("plain")))
        for peer in peers:
            ratio = op["ratio"].get(peer)
            cells += [_us(ns.get(peer)), "-" if ratio is None else f"{ratio:.2f}"]
        lines.append(_row(cells))
    totals = result["total_ns"]
    cells = ["", "**all; geometric mean**", _us(totals["kernel"]), "", _us(totals["plain"])]
    for peer in peers:
        cells += [_us(totals[peer]), f"**{result['geometric_mean_ratio'][peer]:.2f}**"]
    lines.append(_row(cells))
    threads = result["threads"]
    note = f"`{command}` on {machine}, {threads} thread{'s' if threads > 1 else ''}."
    return "\n".join(lines) + f"\n\n{note} A ratio above 1 means that Loopwright is faster.\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _us(ns: float | None) -> str:
    return "-" if ns is None else f"{ns / 1e3:.1f}"


def _task(op: dict) -> str:
    attrs = op["attrs"]
    shapes = [
        "x".join(map(str, attrs[name])) for name in ("data", "weight", "a", "b") if name in attrs
    ]
    steps = attrs.get("strides", [1])[0]
    words = [op["operator"], " * ".join(shapes), f"s{steps}" if steps > 1 else ""]
    words += [name for name in ("bias", "relu") if attrs.get(name)]
    return " ".join(word for word in words if word)


def main(argv: list[str]) -> int:
    """Rewrite what stands between the markers."""
    if len(argv) != 3:
        sys.exit(str(__doc__))
    from loopwright.runtime.machine import facts

    result = json.loads(Path(argv[1]).read_text())
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = markdown(result, argv[2], facts().model)
    README.write_text(f"{before}{BEGIN}{table}{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

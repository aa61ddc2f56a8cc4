"""A report as one HTML page that needs nothing else: no network, no scripts, styles and charts
inside, light or dark as the reader likes it. It is also well-formed XML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from loopwright.records.curve import Curve
from loopwright.report import svg
from loopwright.report.drawn import line_of, short
from loopwright.report.report import OURS, Report, Tuning
from loopwright.report.style import STYLE
from loopwright.runtime.cpu.model import KernelTime
from loopwright.runtime.model_file import Port

_OURS = "this model"
_KERNELS_DRAWN = 24
_OPERATORS_DRAWN = 12
_ORIGINS = {
    "tuned": "the fastest on record for such a machine",
    "transferred": "the fastest on record for another machine or number of threads",
    "default": "good without tuning",
    "copy": "changes how a value lies in memory",
}


def page(report: Report) -> str:
    """The page."""
    sections = (
        _head(report),
        _against(report),
        _by_kernel(report),
        _by_operator(report),
        _kernel_table(report),
        _tuning(report),
        _failures(report),
        _about(report),
    )
    title = escape(f"{report.manifest.name} - Loopwright")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _head(report: Report) -> str:
    manifest = report.manifest
    flops = sum(kernel.info.flops for kernel in report.kernels)
    rate = flops / (report.ms * 1e6)
    counts = ", ".join(f"{n} {origin}" for origin, n in manifest.origins.most_common())
    tiles = [(_ms(report.ms), "a call", f"median of {len(report.call_ns)}")]
    if report.speedup is not None:
        tiles.append((f"{report.speedup:.2f}x", "as fast as untuned", "when optimized"))
    tiles.append((f"{rate:.1f}", "GFLOP/s", f"{flops / 1e9:.2f} GFLOP a call"))
    if report.peak:
        tiles.append((f"{rate / report.peak:.0%}", "of the FMA limit", _gflops(report.peak)))
    tiles.append((str(len(manifest.calls)), "kernels", counts))
    shared = f"{_mb(manifest.memory_sum)} unshared"
    tiles.append((_mb(manifest.memory), "between kernels", shared))
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span>'
        f"<small>{escape(more)}</small></div>"
        for value, what, more in tiles
    )
    where = f"{manifest.target_name}, {_threads(report.threads)}, on {report.machine.model}"
    return (
        f"<header><h1>{escape(manifest.name)}</h1><p>{escape(where)}</p>"
        f'</header>\n<div class="tiles">{shown}</div>'
    )


def _against(report: Report) -> str:
    """The bars of the model, the untuned one, and what it is compared with."""
    others = dict(report.others)
    ours = others.pop(OURS, report.ms)
    times = {_OURS: ours}
    if report.speedup is not None:
        times["untuned"] = ours * report.speedup
    times.update(others)
    if len(times) == 1:
        return ""
    rows = [
        svg.Bar(
            name,
            ms,
            _ms(ms) + ("" if name == _OURS else f" ({ms / ours:.2f}x)"),
            "ours" if name == _OURS else "other",
        )
        for name, ms in times.items()
    ]
    note = (
        "The time of a call, all timed in turns, in processes of their own; less is better. In "
        "brackets: how many times that of this model."
    )
    if report.speedup is not None:
        note += " The untuned model's ratio is the one measured when this one was optimized."
    return _section("Compared", svg.bars(rows, "Time of a call by program"), note)


def _by_kernel(report: Report) -> str:
    ranked = _ranked(report.kernels)
    drawn, rest = ranked[:_KERNELS_DRAWN], ranked[_KERNELS_DRAWN:]
    rows = [
        svg.Bar(
            f"{number}  {short(kernel.info.task)}",
            kernel.median_ns,
            f"{_time(kernel.median_ns)}, {_share(kernel.median_ns, report)}",
            _origin_class(kernel.info.origin),
            f"{kernel.info.name}: {_time(kernel.median_ns)}, {kernel.info.origin}",
        )
        for number, kernel in drawn
    ]
    note = "Medians; numbers are the order in which they run."
    if rest:
        total = sum(kernel.median_ns for _, kernel in rest)
        note += f" {len(rest)} others take {_time(total)}, {_share(total, report)}."
    present = {kernel.info.origin for kernel in report.kernels}
    legend = "".join(
        f'<li><i class="{_origin_class(origin)}"></i>{origin}: {meaning}</li>'
        for origin, meaning in _ORIGINS.items()
        if origin in present
    )
    chart = svg.bars(rows, "Time by kernel") + f'<ul class="legend">{legend}</ul>'
    return _section("Time by kernel", chart, note)


def _by_operator(report: Report) -> str:
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for kernel in report.kernels:
        name = _operator(kernel)
        times[name] += round(kernel.median_ns)
        counts[name] += 1
        flops[name] += kernel.info.flops

    def said(name: str, ns: int) -> str:
        text = f"{_time(ns)}, {_share(ns, report)}"
        if flops[name] and report.peak:
            text += f", {flops[name] / max(ns, 1) / report.peak:.0%} of the limit"
        return text

    rows = [
        svg.Bar(f"{counts[name]} x {name}", ns, said(name, ns), "one")
        for name, ns in times.most_common(_OPERATORS_DRAWN)
    ]
    rest = times.most_common()[_OPERATORS_DRAWN:]
    if rest:
        total = sum(ns for _, ns in rest)
        label = f"{sum(counts[name] for name, _ in rest)} others"
        rows.append(svg.Bar(label, total, f"{_time(total)}, {_share(total, report)}", "other"))
    return _section("Time by operator", svg.bars(rows, "Time by operator"))


def _kernel_table(report: Report) -> str:
    columns = ["#>", "kernel", "time>", "share>", "GFLOP/s>", "limit>", "GB/s>", "alone>"]
    columns += ["error>", "origin", "template", "config"]
    lines = []
    for number, kernel in _ranked(report.kernels):
        info, ns = kernel.info, max(kernel.median_ns, 1.0)
        rate = info.flops / ns
        lines.append(
            [
                str(number),
                f'<span title="{escape(", ".join(info.nodes) or info.name)}">'
                f"{escape(short(info.task))}</span>",
                _time(kernel.median_ns),
                _share(kernel.median_ns, report),
                f"{rate:.1f}" if info.flops else "",
                f"{rate / report.peak:.0%}" if info.flops and report.peak else "",
                f"{info.nbytes / ns:.1f}",
                "" if info.expected_ns is None else _time(info.expected_ns),
                "" if info.error is None else f"{info.error:.0e}",
                f'<i class="{_origin_class(info.origin)}"></i>{escape(info.origin)}',
                escape(info.template),
                f"<code>{escape(info.config)}</code>",
            ]
        )
    note = (
        "Limit: share of what fused multiply-adds in registers reach on these threads; a Winograd "
        "kernel may pass it, since the operations counted are those of the plain algorithm. GB/s "
        "count every argument once. Alone: what the record of the kernel says, measured by itself. "
        "Error: against float64, as a share of the output's scale, when the model was optimized."
    )
    return _section("Kernels", _table(columns, lines), note)


def _tuning(report: Report) -> str:
    if not report.tunings:
        return ""
    figures = "".join(_figure(tuning) for tuning in report.tunings)
    note = (
        f"The best program so far in GFLOP/s, over {report.trials} trials on record. Bands span "
        "several runs; the dashed line is the kernel inside the model."
    )
    return _section("Tuning", f'<div class="figures">{figures}</div>', note)


def _figure(tuning: Tuning) -> str:
    lines = [line_of(curve, _curve_name(curve)) for curve in tuning.curves]
    keys = "".join(
        f'<li><i class="{svg.css_class(number)}"></i>{escape(line.label)}</li>'
        for number, line in enumerate(lines)
    )
    name = short(tuning.task)
    chart = svg.curves(lines, f"Best so far of {name}", level=tuning.ours)
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>{chart}"
        f'<ul class="legend">{keys}</ul></figure>'
    )


def _curve_name(curve: Curve) -> str:
    return f"{curve.policy}, {curve.key.template.removeprefix('cpu.')}"


def _failures(report: Report) -> str:
    if not report.failures:
        return ""
    total = sum(report.failures.values())
    rows = [
        svg.Bar(kind, count, f"{count} ({count / report.trials:.1%})", "one")
        for kind, count in report.failures.items()
    ]
    note = f"{total} of {report.trials} trials failed; none of them can be in the model."
    return _section("Failures by kind", svg.bars(rows, "Failures by kind"), note)


def _about(report: Report) -> str:
    manifest, machine = report.manifest, report.machine
    rows = [
        ("file", report.path),
        ("inputs", _ports(manifest.inputs)),
        ("outputs", _ports(manifest.outputs)),
        ("made for", f"{manifest.target}, {_threads(manifest.threads)}, on {manifest.device}"),
        ("made by", manifest.software),
        ("run on", f"{machine.model}, {machine.cores} cores, {machine.kernel}"),
        ("FMA limit", _gflops(report.peak) if report.peak else "more threads than cores"),
        ("constants", _mb(sum(s.nbytes for s in manifest.sections if s.name == "constants"))),
        ("reported", report.made_at.strftime("%Y-%m-%d %H:%M UTC")),
        *(_note(name, value) for name, value in manifest.notes.items()),
    ]
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return _section("About", f"<dl>{lines}</dl>")


def _note(name: str, value: str) -> tuple[str, str]:
    """A note of the file as a line; nanoseconds are written as a time."""
    words = name.replace("_", " ")
    if words.endswith(" ns") and value.isdecimal():
        return words.removesuffix(" ns"), _time(float(value))
    return words, value


def _section(title: str, body: str, note: str = "") -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section><h2>{escape(title)}</h2>{said}<div class="wide">{body}</div></section>'


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML; columns that end in > are figures."""
    right = [column.endswith(">") for column in columns]
    styles = [' class="n"' if figure else "" for figure in right]
    heads = "".join(
        f"<th{style}>{escape(column.rstrip('>'))}</th>"
        for style, column in zip(styles, columns, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{s}>{cell}</td>" for s, cell in zip(styles, line, strict=True))
        + "</tr>\n"
        for line in lines
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table>"


def _ranked(kernels: Sequence[KernelTime]) -> list[tuple[int, KernelTime]]:
    """The kernels that take longest first, numbered from 1 in the order in which they run."""
    return sorted(enumerate(kernels, 1), key=lambda pair: -pair[1].median_ns)


def _operator(kernel: KernelTime) -> str:
    """What a kernel is, without sizes."""
    info = kernel.info
    return short(info.task) if info.operator == "fused" else info.operator


def _origin_class(origin: str) -> str:
    return origin if origin in _ORIGINS else "other"


def _ports(ports: Sequence[Port]) -> str:
    return ", ".join(f"{p.name} {p.dtype}[{'x'.join(map(str, p.shape))}]" for p in ports)


def _share(ns: float, report: Report) -> str:
    return f"{ns / max(report.kernels_ns, 1.0):.1%}"


def _time(ns: float) -> str:
    return f"{ns / 1e6:.2f} ms" if ns >= 1e6 else f"{ns / 1e3:.1f} us"


def _ms(ms: float) -> str:
    return f"{ms:.2f} ms" if ms >= 1 else f"{ms * 1e3:.1f} us"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _gflops(rate: float) -> str:
    return f"{rate:.1f} GFLOP/s"

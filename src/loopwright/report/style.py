"""The style sheet of a report's page; colours are distinct for colour-blind readers too."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --panel: #f5f6f8; --text: #1b1f24; --quiet: #5b6470; --rule: #dde1e6;
  --blue: #0072b2; --sky: #56b4e9; --orange: #d98a00; --green: #009e73; --red: #d55e00;
  --pink: #cc79a7; --grey: #9aa3ad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --panel: #1e2329; --text: #e6e9ed; --quiet: #9aa4b0; --rule: #323941;
    --blue: #4aa3df; --sky: #7fd0ff; --orange: #e8a735; --green: #2fbf95; --red: #f0814a;
    --pink: #dd97c0; --grey: #727c87;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 44px 0 4px; font-size: 19px; }
header p, .note { margin: 4px 0 0; color: var(--quiet); }
.note { max-width: 75ch; margin-bottom: 12px; font-size: 13.5px; }
.wide { overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 10px;
  margin-top: 22px; }
.tile { padding: 12px 14px; border-radius: 8px; background: var(--panel); }
.tile b { display: block; font-size: 23px; font-weight: 650; line-height: 1.25; }
.tile span, .tile small { display: block; }
.tile small { color: var(--quiet); font-size: 12px; }
svg { display: block; max-width: none; }
svg text { fill: var(--text); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .value, svg .tick { fill: var(--quiet); }
svg .tick { font-size: 11px; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .level { stroke: var(--text); stroke-width: 1.4; stroke-dasharray: 5 4; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .band { stroke: none; opacity: 0.18; }
rect.one, rect.ours, rect.tuned { fill: var(--blue); }
rect.transferred { fill: var(--green); }
rect.default { fill: var(--orange); }
rect.copy { fill: var(--pink); }
rect.other { fill: var(--grey); }
i { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px; }
i.tuned, i.c0 { background: var(--blue); }
i.transferred, i.c2 { background: var(--green); }
i.default, i.c1 { background: var(--orange); }
i.copy, i.c3 { background: var(--pink); }
i.c4 { background: var(--red); }
i.other, i.c5 { background: var(--grey); }
.curve.c0 { stroke: var(--blue); } .band.c0 { fill: var(--blue); }
.curve.c1 { stroke: var(--orange); } .band.c1 { fill: var(--orange); }
.curve.c2 { stroke: var(--green); } .band.c2 { fill: var(--green); }
.curve.c3 { stroke: var(--pink); } .band.c3 { fill: var(--pink); }
.curve.c4 { stroke: var(--red); } .band.c4 { fill: var(--red); }
.curve.c5 { stroke: var(--grey); } .band.c5 { fill: var(--grey); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 0; padding: 0;
  list-style: none; color: var(--quiet); font-size: 12.5px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; white-space: nowrap; }
th { color: var(--quiet); font-weight: 500; }
th.n, td.n { text-align: right; }
code { font: 12px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--quiet); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 20px; }
figure { margin: 0; }
figcaption { margin-bottom: 4px; font-size: 13px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 8px 0 0;
  font-size: 13.5px; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { .wide { overflow: visible; } }
"""

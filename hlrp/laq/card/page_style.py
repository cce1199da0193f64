"""The look of the quality card."""

CSS = """\
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f5f6f8; --ink: #16181d; --quiet: #5b6270; --line: #d9dce3;
  --bar: #3b6fd4; --even: #8a91a0; --pass: #1a7f42; --fail: #c0362c; --open: #8a6100;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --panel: #1d2026; --ink: #e8eaee; --quiet: #a0a7b4; --line: #343943;
    --bar: #7ea6f4; --even: #858c9a; --pass: #5fcf8a; --fail: #ff8a80; --open: #e5b84b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 40px 0 6px; overflow-wrap: anywhere; }
h3 { font-size: 16px; margin: 28px 0 8px; }
p { margin: 0 0 10px; max-width: 88ch; }
header p, .note, .range, .where { color: var(--quiet); }
.kind { font-size: 13px; margin: 0 0 2px; }
.note { font-size: 13.5px; margin: 8px 0 0; }
.range { font-size: 0.88em; white-space: nowrap; }
.verdict {
  background: var(--panel); border-left: 5px solid var(--open); border-radius: 6px;
  margin: 20px 0 0; padding: 14px 18px;
}
.verdict.pass { border-color: var(--pass); }
.verdict.fail { border-color: var(--fail); }
.verdict h2 { margin: 0 0 8px; }
.verdict ul { list-style: none; margin: 0; padding: 0; }
.verdict li { display: grid; grid-template-columns: 8em 1fr; gap: 12px; padding: 4px 0; }
.mark { font-weight: 600; white-space: nowrap; }
.mark.pass { color: var(--pass); } .mark.pass::before { content: "✓ "; }
.mark.fail { color: var(--fail); } .mark.fail::before { content: "✗ "; }
.mark.open { color: var(--open); } .mark.open::before { content: "? "; }
.wide { overflow-x: auto; }
.wide + .wide { margin-top: 22px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 18px 5px 0; vertical-align: top; font-weight: 400; }
thead th { color: var(--quiet); font-size: 13.5px; border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
table.pictures th, table.pictures td { padding: 4px 8px 4px 0; border: 0; font-size: 13px; }
table.pictures tr.first > * { border-top: 1px solid var(--line); padding-top: 10px; }
table.pictures th[scope="row"] { color: var(--quiet); padding-right: 14px; white-space: nowrap; }
table.pictures td { color: var(--quiet); }
img { display: block; image-rendering: pixelated; border-radius: 2px; background: #808080; }
.codes { color: var(--ink); font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12.5px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 20px 28px; }
.chart { margin: 0; }
.chart figcaption { font-size: 13.5px; margin-bottom: 6px; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.bar { fill: var(--bar); }
.hit { fill: transparent; }
.even { stroke: var(--even); stroke-dasharray: 4 3; stroke-width: 1; }
.axis { stroke: var(--line); stroke-width: 1; }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--quiet); font-size: 13.5px; }
dl { display: grid; grid-template-columns: minmax(10em, max-content) 1fr; gap: 6px 20px; margin: 0; font-size: 14px; }
dt { color: var(--quiet); max-width: 22em; overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .verdict li, dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
}
@media print { .wide { overflow: visible; } }
"""

"""The page around a report: its HTML frame and its style sheet. Nothing in it loads anything."""

from __future__ import annotations

from string import Template

from senet.analysis._theme import variables

__all__ = ["page"]

_STYLE = """
:root { --paper: #ffffff; --raised: #f6f8fa; LIGHT }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #0f1318; --raised: #181d24; DARK; color-scheme: dark }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 72rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { font-size: clamp(1.6rem, 1.1rem + 2.4vw, 2.4rem); line-height: 1.15; margin: .2rem 0 .6rem;
  letter-spacing: -.015em; text-wrap: balance }
h2 { font-size: 1.3rem; margin: 3rem 0 .4rem; padding-top: 1.2rem;
  border-top: 1px solid var(--grid) }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem }
p { margin: .4rem 0 .8rem; max-width: 46rem }
.quiet, figcaption { color: var(--muted) }
.eyebrow { color: var(--muted); font-size: .85rem; margin: 0; overflow-wrap: anywhere }
.notice { border-left: 4px solid var(--se); background: var(--raised); padding: .7rem 1rem;
  margin: 1.2rem 0; max-width: none }
.tiles { display: grid; gap: 1rem; margin: 1.6rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)) }
.tile { background: var(--raised); border-radius: .5rem; padding: .9rem 1.1rem;
  border-top: 4px solid var(--tone, var(--grid)) }
.tile dt { color: var(--muted); font-size: .85rem }
.tile dd { margin: 0; font-variant-numeric: tabular-nums }
.tile .value { font-size: 1.5rem; font-weight: 650; letter-spacing: -.01em }
.tile .note { font-size: .85rem; color: var(--muted) }
.scroll { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .93rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .42rem .8rem; border-bottom: 1px solid var(--grid); text-align: right;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
th:last-child, td:last-child { padding-right: 0 }
tbody th:first-child { position: sticky; left: 0; background: var(--paper) }
thead th { color: var(--muted); font-weight: 600; font-size: .85rem }
tbody th { font-weight: 500 }
tbody tr.first th, tbody tr.first td { font-weight: 650 }
table.facts { width: auto }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere }
table.facts th { font-weight: 400; color: var(--muted); vertical-align: top }
.facing { display: grid; gap: 0 2.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
.facing > *, .many > * { min-width: 0 }
.many { display: grid; gap: .4rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }
figure { margin: 1rem 0 0 }
figure svg { display: block; width: 100%; height: auto }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  sans-serif !important }
figure.wide { overflow-x: auto; grid-column: 1 / -1 }
figure.wide svg { min-width: 38rem }
figcaption { font-size: .85rem; margin-top: .3rem; max-width: 46rem }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0;
  margin: .8rem 0 .2rem; font-size: .9rem }
.legend i { display: inline-block; width: 1.3rem; border-top: 3px solid; vertical-align: middle;
  margin-right: .4rem }
.legend i.dashed { border-top-style: dashed }
pre { background: var(--raised); border-radius: .5rem; padding: .9rem 1.1rem;
  white-space: pre-wrap; overflow-wrap: anywhere }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: .9rem }
footer { margin-top: 3rem; color: var(--muted); font-size: .85rem }
@media (max-width: 40rem) {
  table { font-size: .8rem }
  th, td { padding: .35rem .4rem }
  tbody th { white-space: normal; min-width: 6.5rem }
}
@media print {
  body { padding: 0; max-width: none; font-size: 10pt }
  figure, tr, .tile, .notice { break-inside: avoid }
  h2, h3 { break-after: avoid }
  .tile { border: 1px solid var(--grid); border-top-width: 4px }
  .tile, .legend i { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")


def page(title: str, body: str) -> str:
    """Return the whole page. The policy in its head forbids it to load anything.

    Args:
        title: escaped text.
        body: HTML.
    """
    style = _STYLE.replace("LIGHT", variables(dark=False)).replace("DARK", variables(dark=True))
    return _PAGE.substitute(title=title, style=style, body=body)

"""Colours, and the text side of an SVG: what makes a figure fit into a page, light or dark."""

from __future__ import annotations

import re
from html import escape

# name: (on white, on black). The two networks differ in hue and in lightness.
COLOURS = {
    "plain": ("#5b7a99", "#8fb0d0"),
    "se": ("#d9730d", "#f5963c"),
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9ea7b3"),
    "grid": ("#d8dee4", "#363c45"),
}

# Ten colours that stay apart under the common kinds of colour blindness, on white and on black.
# Source: M. Petroff, "Accessible color sequences for data visualization", 2021.
CLASS_COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)

_ROOT = (
    "stroke-linejoin: round; stroke-linecap: butt; font-family: 'DejaVu Sans', Verdana, sans-serif"
)


def tidy(svg: str, name: str, label: str) -> str:
    """Cut an SVG file of matplotlib down to one element that can stand in a page beside others.

    Prolog, metadata and the style sheet (it would apply to the whole page) go; ids that nothing
    refers to go, the others get a prefix; coordinates keep two decimals, a hundredth of a point.

    Args:
        svg: the file.
        name: prefix of the ids.
        label: one sentence for readers who do not see the figure.

    Example:
        >>> tidy('<?xml?><svg width="9"><g id="a" x="1.23456"/></svg>', "f", "A < B")[-51:]
        'aria-label="A &lt; B" width="9"><g x="1.23"/></svg>'
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'((?:href="|url\()#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'font-family: [^;"]*;? ?', "", svg)
    svg = re.sub(r'="[^"]*"', lambda m: re.sub(r"\d+\.\d{3,}", _two_decimals, m[0]), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    return svg.replace("<svg ", f'<svg style="{_ROOT}" role="img" aria-label="{escape(label)}" ', 1)


def _two_decimals(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def themed(svg: str) -> str:
    """Make the named colours of a figure follow the page: #1f2328 becomes var(--ink, #1f2328).

    Example:
        >>> themed('<path style="stroke: #d9730d"/>')
        '<path style="stroke: var(--se, #d9730d)"/>'
    """
    for name, (light, _) in COLOURS.items():
        svg = re.sub(rf"(?<=: ){light}\b", f"var(--{name}, {light})", svg)
    return svg


def variables(*, dark: bool) -> str:
    """Return the named colours as CSS custom properties.

    Example:
        >>> variables(dark=True).split("; ")[1]
        '--se: #f5963c'
    """
    return "; ".join(f"--{name}: {pair[dark]}" for name, pair in COLOURS.items())

"""What all figures share: colours, style, canvas, and the drawing that comes out.

Everything is drawn with matplotlib's object interface, never through pyplot: no display is needed
and nothing global stays changed.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from senet.errors import InputError
from senet.files import write_text, write_whole

__all__ = ["CLASS_COLOURS", "COLOUR", "Drawing", "arm_colour", "canvas", "panel", "style"]

# On white. The two networks differ in hue and in lightness. `report.css` has the same colours under
# the same names, and others for a dark page; `figures.mplstyle` uses them.
COLOUR = {
    "plain": "#5b7a99",
    "se": "#d9730d",
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d8dee4",
}
# Ten colours that stay apart under the common kinds of colour blindness, on white and on black.
# Source: M. Petroff, "Accessible color sequences for data visualization", 2021.
CLASS_COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
_STYLE = Path(__file__).with_name("figures.mplstyle")
_ROOT = (
    "stroke-linejoin: round; stroke-linecap: butt; font-family: 'DejaVu Sans', Verdana, sans-serif"
)


def arm_colour(arm: str, arms: Sequence[str]) -> str:
    """Return the colour of an arm: that of its name, or by its place among the others."""
    if arm in ("plain", "se"):
        return COLOUR[arm]
    others = [each for each in arms if each not in ("plain", "se")]
    return CLASS_COLOURS[(4 + 3 * others.index(arm)) % len(CLASS_COLOURS)]


@contextmanager
def style(name: str = "") -> Iterator[None]:
    """The style of all figures, for as long as one is drawn or written; name salts its ids."""
    salt: Any = {"svg.hashsalt": f"senet {name}"}
    with mpl.rc_context(salt, _STYLE), warnings.catch_warnings():
        # A class name in a script that DejaVu lacks is still right: the text of an SVG is text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@final
@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure that is drawn and not yet written.

    Attributes:
        name: a short name, the prefix of the ids inside the SVG; unique on a page.
        label: what the figure shows in one sentence, for readers who do not see it.
        figure: the matplotlib figure.
    """

    name: str
    label: str
    figure: Figure

    def __post_init__(self) -> None:
        # Each pass of the layout moves things a little: one pass, so that writing changes nothing.
        layout = self.figure.get_layout_engine()
        if layout is not None:
            with style(self.name):
                layout.execute(self.figure)
            self.figure.set_layout_engine("none")

    def svg(self) -> str:
        """Return the figure as one <svg> element; the same input gives the same text."""
        buffer = io.StringIO()
        with style(self.name):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        return _one_element(buffer.getvalue(), self.name, self.label)

    def save(self, path: str | Path, *, dpi: int = 200) -> Path:
        """Write the figure to a file (.svg, or .png on white) and return its path."""
        path = Path(path)
        options: dict[str, Any] = {"dpi": dpi, "facecolor": "white", "metadata": {"Software": None}}
        if path.suffix == ".svg":
            write_text(path, self.svg() + "\n")
        elif path.suffix == ".png":
            with style(self.name):
                write_whole(path, lambda file: self.figure.savefig(file, format="png", **options))
        else:
            raise InputError(f"a figure is written as .svg or .png, got {path.name!r}")
        return path


def _one_element(svg: str, name: str, label: str) -> str:
    """Cut an SVG file of matplotlib down to one element that can stand in a page beside others.

    Prolog, metadata and the style sheet (it would apply to the whole page) go; ids that nothing
    refers to go, the others get a prefix; coordinates keep two decimals, a hundredth of a point.

    Args:
        svg: the file.
        name: prefix of the ids.
        label: one sentence for readers who do not see the figure.

    Example:
        >>> _one_element('<?xml?><svg width="9"><g id="a" x="1.23456"/></svg>', "f", "A < B")[-51:]
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


def canvas(
    columns: int, rows: int, *, width: float = 4.4, height: float = 2.9
) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels, each of so many inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def panel(axis: Axes, title: str, *, x: str = "", y: str = "") -> None:
    """Title, axis labels, and ticks without tick marks."""
    axis.set_title(title, pad=8)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.tick_params(length=0)

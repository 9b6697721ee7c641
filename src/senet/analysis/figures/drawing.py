"""What all figures share: style, canvas, and the drawing that comes out.

Everything is drawn with matplotlib's object interface, never through pyplot: no display is needed
and nothing global stays changed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from senet.analysis._theme import COLOURS, tidy
from senet.errors import InputError

__all__ = ["COLOUR", "NAMES", "Drawing", "canvas", "panel", "style"]

COLOUR = {name: light for name, (light, _) in COLOURS.items()}
NAMES = {"plain": "plain", "se": "SE"}
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLOUR["grid"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": COLOUR["muted"],
    "axes.labelsize": 9.0,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": COLOUR["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.wspace": 0.04,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the layout is the same everywhere
    "font.size": 9.0,
    "grid.color": COLOUR["grid"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": COLOUR["ink"],
    "svg.fonttype": "none",  # text stays text
    "text.color": COLOUR["ink"],
    "text.parse_math": False,  # a class may be called "$"
    "xtick.color": COLOUR["grid"],
    "xtick.labelcolor": COLOUR["muted"],
    "ytick.color": COLOUR["grid"],
    "ytick.labelcolor": COLOUR["muted"],
}


@contextmanager
def style(name: str = "") -> Iterator[None]:
    """The style of all figures, for as long as one is drawn or written; name salts its ids."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"senet {name}"}), warnings.catch_warnings():
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
        return tidy(buffer.getvalue(), self.name, self.label)

    def save(self, path: str | Path, *, dpi: int = 200) -> Path:
        """Write the figure to a file (.svg, or .png on white) and return its path."""
        path = Path(path)
        if path.suffix == ".svg":
            path.write_text(self.svg() + "\n", encoding="utf-8")
        elif path.suffix == ".png":
            with style(self.name):
                self.figure.savefig(path, dpi=dpi, facecolor="white", metadata={"Software": None})
        else:
            raise InputError(f"a figure is written as .svg or .png, got {path.name!r}")
        return path


def canvas(columns: int, rows: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels, each of so many inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def panel(axis: Axes, title: str, *, x: str = "", y: str = "") -> None:
    """Title, axis labels, and ticks without tick marks."""
    axis.set_title(title, pad=8)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.tick_params(length=0)
